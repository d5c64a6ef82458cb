"""A driver killed while a large archive is planned leaves nothing that a later run trips over."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.commands import Command, sabotage
from tests.faults.outcome import assert_same_scores, commits, outcomes, sound

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

# Archives of more than eight recordings are large, so that 24 are planned by jobs.
LARGE = """
import time
from ray_asd import planning, plans
planning.MOST_ROWS = 8
"""

# Each stops planning for good at a place of its own.
STOPPED_AMONG_BUCKETS = """
subtract = planning.subtract

def stops(piece, **shared):
    if piece["bucket"]:
        time.sleep(10_000)
    return subtract(piece, **shared)

planning.subtract = stops
"""
STOPPED_BEFORE_THE_HEADER = """
def stops(*_, **__):
    time.sleep(10_000)

plans.freeze = stops
"""


def parts(out: Path, pattern: str) -> list[Path]:
    return list((out / "ledger").glob(pattern))


def test_a_driver_killed_while_planning_is_carried_on_by_the_same_command(
    archive: Path,
    score: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores"
    stops = {
        "planning/*/left/*.parquet": STOPPED_AMONG_BUCKETS,
        "plans/*/*.parquet": STOPPED_BEFORE_THE_HEADER,
    }
    for left_behind, where in stops.items():
        command = score(**sabotage(tmp_path, LARGE + where))
        command.wait_for(partial(parts, out, left_behind))
        command.kill()
        assert parts(out, left_behind)
        assert not parts(out, "plans/*.json")
    new = archive / "valve" / "test" / "section_00_source_test_normal_9999_came_later.wav"
    shutil.copy(next((archive / "valve" / "test").glob("*.wav")), new)
    said = score(**sabotage(tmp_path, LARGE)).end_well()
    assert "are in" not in said
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert_same_scores(out, undisturbed)
    # Of the plans that were never frozen nothing is left.
    assert not parts(out, "planning/*")
    (frozen,) = parts(out, "plans/*.json")
    assert {part.parent.name for part in parts(out, "plans/*/*")} == {frozen.stem}
    assert commits(out)
