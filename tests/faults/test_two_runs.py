"""The same command started twice at once: one works, the other waits and finds nothing to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.commands import Command
from tests.faults.outcome import assert_same_scores, commits, outcomes, sound

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


def test_every_recording_is_scored_once(
    archive: Path,
    score: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores"
    commands = [score("--json"), score("--json")]
    said = [command.end_well() for command in commands]
    runs = [json.loads(command.printed) for command in commands]
    first, second = sorted(range(2), key=lambda n: -runs[n]["recordings"])
    assert (runs[first]["recordings"], runs[first]["skipped"]) == (24, 0)
    assert (runs[second]["recordings"], runs[second]["skipped"]) == (0, 24)
    assert f"score: another run holds {out}; waiting until it ends" in said[second]
    assert "another run" not in said[first]
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert_same_scores(out, undisturbed)

    there = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert len(commits(out)) == 12
    score().end_well()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == there
