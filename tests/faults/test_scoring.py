"""Scoring loses nothing and repeats nothing, whatever is killed, hangs, or changes under it."""

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

import ray_asd
from ray_asd.archive import manifest
from tests.faults.commands import Command, sabotage
from tests.faults.outcome import assert_same_scores, commits, outcomes, sound

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

# Python runs this at the start of every process, so of every worker: whatever reads a recording
# of such a name meets the fault itself.
SABOTAGE = """
import ctypes, os, signal
from ray_asd.archive import store

read = store.read_bytes

def sabotaged(uri):
    if "kills_once" in uri and not os.path.exists(uri + ".killed"):
        open(uri + ".killed", "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if "kills_always" in uri:
        os.kill(os.getpid(), signal.SIGKILL)
    if "never_returns" in uri:
        ctypes.PyDLL(None).pause()  # and never lets go of the interpreter
    return read(uri)

store.read_bytes = sabotaged
"""


def rename(archive: Path, machine_type: str, name: str) -> str:
    """Give the machine type's first recording a name that carries a fault."""
    (file, *_) = sorted((archive / machine_type / "test").glob("*.wav"))
    new = f"{file.stem}_{name}_1.wav"
    file.rename(file.with_name(new))
    return new


def fingerprints(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["uri"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))


def committed(out: Path, enough: int) -> bool:
    return len(commits(out)) >= enough


def test_recordings_that_kill_or_hang_cost_themselves_only(
    archive: Path, score: Callable[..., Command], tmp_path: Path
) -> None:
    rename(archive, "fan", "kills_once")
    always, hangs = (
        rename(archive, "fan", "kills_always"),
        rename(archive, "valve", "never_returns"),
    )
    expected = sound(archive) - Counter([always, hangs])
    score("--patience", "5", **sabotage(tmp_path, SABOTAGE)).end_well()
    scored, reasons = outcomes(tmp_path / "scores")
    assert scored == expected
    assert reasons == {always: "crashed", hangs: "crashed"}


def test_a_driver_killed_twice_is_carried_on_by_the_same_command(
    archive: Path,
    score: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores"
    seen: dict[Path, int] = {}
    for enough in (4, 8):
        command = score()
        command.wait_for(partial(committed, out, enough))
        command.kill()
        kept = {path: path.stat().st_mtime_ns for path in commits(out)}
        assert len(kept) < 12
        assert seen.items() <= kept.items()
        seen = kept
    new = archive / "fan" / "test" / "section_00_source_test_normal_9999_came_later.wav"
    shutil.copy(next((archive / "fan" / "test").glob("*.wav")), new)
    score().end_well()
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert seen.items() <= {path: path.stat().st_mtime_ns for path in commits(out)}.items()
    assert_same_scores(out, undisturbed)


def test_recordings_that_change_after_they_are_planned_wait_for_the_next_night(
    archive: Path,
    score: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out, aside = tmp_path / "scores", tmp_path / "aside.wav"
    deleted, *_, other, replaced = sorted(archive.rglob("*.wav"))
    command = score()
    command.wait_for(lambda: any((out / "ledger" / "plans").glob("*.json")))
    deleted.rename(aside)
    shutil.copy(other, replaced)
    command.end_well()
    vanished = {deleted.name: "vanished", replaced.name: "vanished"}
    scored, reasons = outcomes(out)
    assert reasons == vanished
    assert scored == Counter(undisturbed.keys() - vanished.keys())

    aside.rename(deleted)
    score().end_well()
    scored, reasons = outcomes(out)
    assert reasons == vanished
    assert scored == sound(archive)
    there, rows = manifest.build(str(archive)).table, ray_asd.read_scores(str(out))
    assert fingerprints(rows) == fingerprints(there)
    assert_same_scores(out, {**undisturbed, replaced.name: undisturbed[other.name]})
