from pathlib import Path

import numpy as np
import pytest
import soundfile

from ray_asd import recipe
from ray_asd.archive import decode, manifest, store
from ray_asd.errors import Reason
from ray_asd.frontend import Heard, Hearing, LogMel, Missed, hear, standardize

TWO = recipe.load(
    "demo", ["upstream.backbones.transformer.front_end={n_fft: 256, hop: 128, mels: bins}"]
)
RECIPE = recipe.load("first_shot")
RATE = 16_000
HEARING = Hearing(RECIPE)


def test_a_clip_is_decoded_once_and_heard_by_every_front_end(
    small_fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = manifest.build(str(small_fleet)).table.slice(0, 1).to_pylist()[0]
    decoded = []

    def counted(*arguments, **settings):
        decoded.append(decode(*arguments, **settings))
        return decoded[-1]

    monkeypatch.setattr(hear, "decode", counted)
    (clip,) = Hearing(TWO)(recording)
    assert isinstance(clip, Heard)
    assert len(decoded) == 1
    wave = standardize(decoded[0])
    assert [(f.n_fft, mel.shape) for f, mel in clip.mels.items()] == [
        (2048, (224, 188)),
        (256, (124, 376)),
    ]
    for front_end, mel in clip.mels.items():
        np.testing.assert_array_equal(mel, LogMel(front_end)(wave))
    (one,) = Hearing(TWO, [TWO.front_end_of("transformer")])(recording)
    assert isinstance(one, Heard)
    assert list(one.mels) == [TWO.front_end_of("transformer")]


def clip(folder: Path, name: str, sound: np.ndarray, start_s: float = 0.0) -> dict:
    path = folder / name
    soundfile.write(path, sound, RATE, subtype="FLOAT")
    entry = store.stat(str(path))
    assert entry is not None
    return {
        "uri": str(path),
        "fingerprint": entry.fingerprint,
        "start_s": start_s,
        "duration_s": len(sound) / RATE - start_s,
    }


def noise(seed: int, seconds: float, scale: float = 0.1) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype("f4")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mix_is_of_the_standardized_clips_and_as_long_as_the_shorter(
    tmp_path: Path, share: float
) -> None:
    first, second = noise(0, 3.0, scale=0.01), noise(1, 5.0, scale=0.2)
    source, target = clip(tmp_path, "a.wav", first), clip(tmp_path, "b.wav", second, start_s=1.5)
    heard = HEARING.mixed(source, target, share)
    assert isinstance(heard, Heard)
    assert (heard.start_s, heard.duration_s) == (0.0, 3.0)
    one = (first - first.mean()) / first.std()
    other = second[24_000:]
    other = ((other - other.mean()) / other.std())[:48_000]
    mix = share * one + (1 - share) * other
    expected = LogMel(RECIPE.front_end)(standardize(mix.astype(np.float32)))
    np.testing.assert_allclose(heard.mels[RECIPE.front_end], expected, atol=2e-3)


def test_a_mix_of_a_clip_alone_sounds_like_the_clip(tmp_path: Path) -> None:
    source, target = clip(tmp_path, "a.wav", noise(0, 3.0)), clip(tmp_path, "b.wav", noise(1, 3.0))
    (alone,) = HEARING(source)
    mixed = HEARING.mixed(source, target, 1.0)
    assert isinstance(alone, Heard)
    assert isinstance(mixed, Heard)
    np.testing.assert_allclose(
        mixed.mels[RECIPE.front_end], alone.mels[RECIPE.front_end], atol=1e-4
    )


def test_what_cannot_be_mixed_is_told(tmp_path: Path) -> None:
    sound = noise(0, 3.0)
    source = clip(tmp_path, "a.wav", sound)
    opposite = HEARING.mixed(source, clip(tmp_path, "b.wav", -sound), 0.5)
    assert isinstance(opposite, Missed)
    assert opposite.reason is Reason.SILENT
    gone = {**source, "uri": str(tmp_path / "gone.wav")}
    missed = HEARING.mixed(source, gone, 0.5)
    assert isinstance(missed, Missed)
    assert missed.reason is Reason.VANISHED
