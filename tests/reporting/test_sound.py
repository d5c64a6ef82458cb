"""Shown clips are heard as the system hears them, or it is said why not."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ray_asd.archive import store
from ray_asd.reporting import sound
from ray_asd.reporting.sound import Listener, Missing, Sound, players
from tests.reporting.conftest import RECIPE

RATE = RECIPE.front_end.sample_rate_hz


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """25 s, which the recipe cuts into clips at 0, 10 and 15 s; silent but for the last 10."""
    samples = np.zeros(25 * RATE, np.float32)
    samples[15 * RATE :] = 0.01 * np.sin(np.arange(10 * RATE) * 2 * np.pi * 1000 / RATE)
    soundfile.write(tmp_path / "r.wav", samples, RATE)
    return str(tmp_path / "r.wav")


def decoded(url: str) -> tuple[np.ndarray, int]:
    head, _, data = url.partition(",")
    assert head == "data:audio/mpeg;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")


def test_a_clip_is_what_the_front_end_hears(recording: str) -> None:
    entry = store.stat(recording)
    assert entry is not None
    heard = Listener(RECIPE)(recording, 15.0, 10.0, entry.fingerprint)
    assert heard.duration_s == 10.0
    assert heard.wave.shape == (10 * RATE,)
    assert heard.wave.std() == pytest.approx(1, abs=1e-4)
    # 626 frames, two to a column; one band holds the tone.
    assert heard.picture.shape == (64, 313)
    assert np.ptp(heard.picture.argmax(0)) <= 1


def test_a_clip_without_a_duration_is_as_the_recipe_cuts(recording: str) -> None:
    assert Listener(RECIPE)(recording, 15.0, None, None).duration_s == 10.0
    with pytest.raises(Missing, match=r"holds no such clip at 3\.5 s"):
        Listener(RECIPE)(recording, 3.5, None, None)
    with pytest.raises(Missing, match="holds no such clip at 20 s"):
        Listener(RECIPE)(recording, 20.0, 10.0, None)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("nowhere.wav", "no longer there"),
        ("text.wav", "neither WAV nor FLAC"),
        ("nul\0.wav", "NUL"),
        ("no-such-scheme://a/b.wav", "no-such-scheme"),
        ("s3://user:secret@bucket/b.wav", "credentials"),
        ("", "no longer there"),
    ],
)
def test_what_cannot_be_heard_is_told(uri: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    listener = Listener(RECIPE)
    for _ in range(2):
        with pytest.raises(Missing, match=says) as told:
            listener(uri if "//" in uri else f"{tmp_path}/{uri}", 0.0, None, None)
        assert len(str(told.value).splitlines()) == 1


def test_a_changed_recording_is_not_played(recording: str) -> None:
    with pytest.raises(Missing, match="changed since"):
        Listener(RECIPE)(recording, 15.0, 10.0, "another fingerprint")


def test_a_silent_clip_is_not_played(recording: str) -> None:
    with pytest.raises(Missing, match="nothing to hear"):
        Listener(RECIPE)(recording, 0.0, 10.0, None)


def test_players_are_of_one_loudness() -> None:
    random = np.random.default_rng(0)
    times = np.arange(2 * RATE) / RATE
    waves = [np.sqrt(2) * np.sin(2 * np.pi * 500 * times), random.laplace(0, 2**-0.5, len(times))]
    sounds = [Sound(wave.astype(np.float32), np.zeros((1, 1), np.float32), 2.0) for wave in waves]
    heard = [decoded(url) for url in players(sounds, RATE)]
    assert [rate for _, rate in heard] == [RATE, RATE]
    levels = [samples.std() for samples, _ in heard]
    assert levels[0] == pytest.approx(levels[1], rel=0.1)
    assert max(np.abs(samples).max() for samples, _ in heard) < 1
    assert players([], RATE) == []


def test_a_rate_that_mp3_lacks_is_resampled() -> None:
    wave = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    (url,) = players([Sound(wave, np.zeros((1, 1), np.float32), 1.0)], 20_000)
    samples, rate = decoded(url)
    assert rate == 22050
    assert len(samples) == pytest.approx(22050, abs=2500)


def test_a_picture_is_the_mean_power() -> None:
    power = np.random.default_rng(0).random((300, 1001)).astype(np.float32)
    picture = sound._coarser(power)
    assert picture.shape == (100, 251)
    np.testing.assert_allclose(picture[7, 13], 10 * np.log10(power[21:24, 52:56].mean()), rtol=1e-4)
    np.testing.assert_allclose(picture[0, -1], 10 * np.log10(power[:3, 1000:].mean()), rtol=1e-4)
