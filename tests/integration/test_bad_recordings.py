"""A bad recording costs itself only: it becomes a rejection, and the rest is scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ray_asd
from tests.conftest import System, run_cli

pytestmark = pytest.mark.integration

RATE = 16_000
LONG = "section_00_0000.wav"
NOISE = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * 0.1


def _write(path: Path, samples: np.ndarray, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, RATE, subtype=subtype)


def _truncated(path: Path) -> None:
    _write(path, NOISE)
    path.write_bytes(path.read_bytes()[:20_000])


def _not_finite(path: Path) -> None:
    samples = NOISE.copy()
    samples[1000] = np.nan
    _write(path, samples, "FLOAT")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncated, "truncated"),
    "zero bytes": (lambda path: path.write_bytes(b""), "unreadable"),
    "text": (lambda path: path.write_text("this is no sound\n" * 100), "unreadable"),
    "nan": (_not_finite, "not_finite"),
    "short": (lambda path: _write(path, NOISE[: 2 * RATE - 1]), "too_short"),
    "constant": (lambda path: _write(path, np.full(3 * RATE, 0.25, np.float32)), "silent"),
    "digital silence": (lambda path: _write(path, np.zeros(3 * RATE, np.float32)), "silent"),
}


@pytest.fixture
def archive(small_fleet: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Three good clips of a fan, one bad of each kind, one of an unknown machine, a long one."""
    folder = tmp_path / "archive" / "fan" / "test"
    folder.mkdir(parents=True)
    for good in sorted((small_fleet / "fan" / "test").glob("*source_test_normal*.wav"))[:3]:
        shutil.copy(good, folder)
    reasons = {}
    for number, (make, reason) in enumerate(BAD.values()):
        name = f"section_00_source_test_normal_{900 + number:04d}_mdl_A_spd_2400.wav"
        make(folder / name)
        reasons[name] = reason
    stranger = tmp_path / "archive" / "pump" / "test" / "section_03_0001.wav"
    stranger.parent.mkdir(parents=True)
    _write(stranger, NOISE)
    reasons[stranger.name] = "unknown_section"
    rng = np.random.default_rng(2)
    _write(folder / LONG, 0.1 * rng.standard_normal(25 * RATE).astype(np.float32))
    return tmp_path / "archive", reasons


def test_each_is_rejected_for_its_reason_and_the_rest_is_scored(
    system: System,
    archive: tuple[Path, dict[str, str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root, reasons = archive
    scores = str(tmp_path / "scores")
    arguments = ["score", str(root), "--bundle", system.bundle, "--out", scores]
    code, out, _ = run_cli(*arguments, "--strict", "--json", capfd=capfd)
    assert code == 3
    assert json.loads(out)["scored"] == 6
    assert json.loads(out)["rejected"] == len(reasons)
    rejected = ray_asd.read_rejections(scores).to_pylist()
    assert {Path(row["uri"]).name: row["reason"] for row in rejected} == reasons
    assert all(row["detail"] for row in rejected)
    rows = ray_asd.read_scores(scores).to_pylist()
    assert len(rows) == 6
    long = [(r["start_s"], r["duration_s"]) for r in rows if r["uri"].endswith(LONG)]
    assert long == [(0, 10), (10, 10), (15, 10)]
    code, out, _ = run_cli(*arguments, "--strict", "--json", capfd=capfd)
    assert code == 0
    assert json.loads(out)["skipped"] == 4 + len(reasons)


def test_a_recording_that_changed_since_it_was_listed_has_vanished(
    system: System, small_fleet: Path, tmp_path: Path
) -> None:
    root = tmp_path / "archive"
    shutil.copytree(small_fleet / "fan" / "test", root / "fan" / "test")
    listed = sorted((root / "fan" / "test").glob("*.wav"))
    ray_asd.index(str(root), str(tmp_path / "m.parquet"))
    listed[0].unlink()
    _write(listed[1], NOISE[: 2 * RATE + 5])
    result = ray_asd.score(str(tmp_path / "m.parquet"), system.bundle, str(tmp_path / "scores"))
    assert result["reasons"] == {"vanished": 2}
    assert result["scored"] == len(listed) - 2
    rejected = ray_asd.read_rejections(str(tmp_path / "scores"))["uri"].to_pylist()
    assert sorted(rejected) == [str(path) for path in listed[:2]]
    # What vanished may come back: it is tried again, as it is now.
    again = ray_asd.score(str(root), system.bundle, str(tmp_path / "scores"), dry_run=True)
    assert again["recordings"] == 1
    assert again["skipped"] == len(listed) - 2
