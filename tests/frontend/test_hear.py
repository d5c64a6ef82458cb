from pathlib import Path

import numpy as np
import pytest

from ray_asd import recipe
from ray_asd.archive import decode, manifest
from ray_asd.frontend import Heard, Hearing, LogMel, hear, standardize

TWO = recipe.load(
    "demo", ["upstream.backbones.transformer.front_end={n_fft: 256, hop: 128, mels: bins}"]
)


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
