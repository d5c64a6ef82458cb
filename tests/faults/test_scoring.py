"""Scoring loses nothing and repeats nothing, whatever is killed, hangs, or changes under it."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import ray_asd
from tests.faults.commands import END_S, START_S, Command, wait_for

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


@pytest.fixture
def archive(small_fleet: Path, tmp_path: Path) -> Path:
    """Test recordings of the small fleet, 24 of them."""
    root = tmp_path / "archive"
    for machine_type in ("fan", "valve"):
        shutil.copytree(small_fleet / machine_type / "test", root / machine_type / "test")
    return root


@pytest.fixture
def score(archive: Path, random_bundle: str, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*options: str, **environment: str) -> Command:
        arguments = ["score", str(archive), "--bundle", random_bundle, "--batch", "2"]
        arguments += ["--out", str(tmp_path / "scores"), *options]
        started.append(Command(*arguments, **environment))
        return started[-1]

    yield start
    for command in started:
        if command.alive():
            command.kill()


def end_well(command: Command) -> None:
    code, said = command.end(END_S)
    assert code == 0, said


def outcomes(out: Path) -> tuple[Counter[str], dict[str, str]]:
    """How often each recording was scored, by name, and the reasons of those rejected."""
    scored = ray_asd.read_scores(str(out), latest=False)["uri"].to_pylist()
    rejected = ray_asd.read_rejections(str(out)).to_pylist()
    reasons = {Path(row["uri"]).name: row["reason"] for row in rejected}
    assert len(reasons) == len(rejected)
    return Counter(Path(uri).name for uri in scored), reasons


def sound(archive: Path) -> Counter[str]:
    return Counter(file.name for file in archive.rglob("*.wav"))


def rename(archive: Path, machine_type: str, name: str) -> str:
    """Give the machine type's first recording a name that carries a fault."""
    (file, *_) = sorted((archive / machine_type / "test").glob("*.wav"))
    new = f"{file.stem}_{name}_1.wav"
    file.rename(file.with_name(new))
    return new


def commits(out: Path) -> list[Path]:
    return list((out / "ledger" / "shards").glob("*.parquet"))


def committed(out: Path, enough: int) -> bool:
    return len(commits(out)) >= enough


def test_recordings_that_kill_or_hang_cost_themselves_only(
    archive: Path, score: Callable[..., Command], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    rename(archive, "fan", "kills_once")
    always, hangs = (
        rename(archive, "fan", "kills_always"),
        rename(archive, "valve", "never_returns"),
    )
    expected = sound(archive) - Counter([always, hangs])
    end_well(score("--patience", "5", PYTHONPATH=str(tmp_path)))
    scored, reasons = outcomes(tmp_path / "scores")
    assert scored == expected
    assert reasons == {always: "crashed", hangs: "crashed"}


def test_a_driver_killed_twice_is_carried_on_by_the_same_command(
    archive: Path, score: Callable[..., Command], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    seen: dict[Path, int] = {}
    for enough in (4, 8):
        command = score()
        wait_for(partial(committed, out, enough), START_S, command.alive)
        command.kill()
        kept = {path: path.stat().st_mtime_ns for path in commits(out)}
        assert len(kept) < 12
        assert seen.items() <= kept.items()
        seen = kept
    new = archive / "fan" / "test" / "section_00_source_test_normal_9999_came_later.wav"
    shutil.copy(next((archive / "fan" / "test").glob("*.wav")), new)
    end_well(score())
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert seen.items() <= {path: path.stat().st_mtime_ns for path in commits(out)}.items()
