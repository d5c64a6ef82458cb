"""A full disk is a clear failure, and no more: what is published stays whole, the rest waits."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.commands import Command, sabotage
from tests.faults.outcome import assert_same_scores, commits, outcomes, sound
from tests.faults.slowly import SLOWLY

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where the scores come to: a disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("nothing here can mount a small disk")
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run([unmount, str(disk)], check=True)


def fill(file: Path) -> None:
    """Write to the file until there is no room left."""
    with file.open("wb", buffering=0) as ballast:
        for size in (4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def test_a_full_disk_fails_clearly_and_the_same_command_completes_once_there_is_room(
    archive: Path,
    score: Callable[..., Command],
    undisturbed: dict[str, float],
    small_disk: Path,
    tmp_path: Path,
) -> None:
    out, ballast = small_disk / "scores", small_disk / "ballast"
    command = score("--out", str(out), **sabotage(tmp_path, SLOWLY))
    command.wait_for(lambda: len(commits(out)) >= 2)
    fill(ballast)
    code, said = command.end()
    assert code == 1
    (told,) = [line for line in said.splitlines() if line.startswith("ray-asd: ")]
    assert "No space left on device" in told
    assert str(out) in told
    assert "run the same command again" in told
    kept = {path: path.stat().st_mtime_ns for path in commits(out)}
    assert 2 <= len(kept) < 12
    whole = {path: pq.read_table(path).num_rows for path in out.rglob("*.parquet")}
    assert all(whole.values())
    assert not [path for path in out.rglob(".*") if path.suffix != ".lock"]

    ballast.unlink()
    score("--out", str(out)).end_well()
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in commits(out)}.items()
    assert_same_scores(out, undisturbed)
