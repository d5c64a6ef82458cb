"""Five in a hundred recordings are broken, in ten ways: each costs itself only."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.faults.commands import Command
from tests.faults.outcome import assert_same_scores, outcomes

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

RATE = 16_000
NOISE = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * 0.1


def encoded(samples: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


def not_finite() -> np.ndarray:
    samples = NOISE.copy()
    samples[1000] = np.nan
    return samples


def rotten() -> bytes:
    """FLAC whose second half was overwritten."""
    data = bytearray(encoded(NOISE, "FLAC"))
    half = len(data) // 2
    data[half:-4096] = np.random.default_rng(1).bytes(len(data) - half - 4096)
    return bytes(data)


WAV, FLAC = encoded(NOISE), encoded(NOISE, "FLAC")

CORRUPT: dict[str, tuple[bytes, str]] = {
    "empty.wav": (b"", "unreadable"),
    "text.wav": (b"this is no sound\n" * 1000, "unreadable"),
    "formatless.wav": (WAV.replace(b"fmt ", b"junk", 1), "unreadable"),
    "rotten.flac": (rotten(), "unreadable"),
    "cut.wav": (WAV[:20_000], "truncated"),
    "cut.flac": (FLAC[:20_000], "truncated"),
    "hertz.wav": (WAV.replace(RATE.to_bytes(4, "little"), b"\1\0\0\0", 1), "too_long"),
    "short.wav": (encoded(NOISE[: 2 * RATE - 1]), "too_short"),
    "nan.wav": (encoded(not_finite(), subtype="FLOAT"), "not_finite"),
    "silence.flac": (encoded(np.zeros_like(NOISE), "FLAC"), "silent"),
}
RECORDINGS = 20 * len(CORRUPT)


def test_each_is_rejected_for_its_reason_and_all_others_are_scored(
    small_fleet: Path,
    random_bundle: str,
    run: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    archive, out = tmp_path / "archive", str(tmp_path / "scores")
    originals = sorted(small_fleet.glob("*/test/*.wav"))
    expected: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for number in range(RECORDINGS):
        original = originals[number % len(originals)]
        folder = archive / original.parts[-3] / "test"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 20 == 7:
            kind, (data, reason) = list(CORRUPT.items())[number // 20]
            name = f"section_00_source_test_normal_{number:04d}_broken_{kind}"
            (folder / name).write_bytes(data)
            reasons[name] = reason
        else:
            name = f"section_00_source_test_normal_{number:04d}_broken_no.wav"
            shutil.copy(original, folder / name)
            expected[name] = undisturbed[original.name]
    assert len(reasons) == 10
    arguments = ["score", str(archive), "--bundle", random_bundle, "--out", out, "--strict"]
    code, said = run(*arguments).end()
    assert code == 3, said
    scored, rejected = outcomes(out)
    assert scored == dict.fromkeys(expected, 1)
    assert rejected == reasons
    assert_same_scores(out, expected)
