"""A sweep whose driver is killed is carried on: what was tried is not tried again."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import ray_asd
from tests.faults.commands import Command

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]

SPACE = {
    "detectors": ["knn", "lof"],
    "aggregations": ["clip", "segment/mean"],
    "references": [],
    "pseudo_normals": [],
    "settings": {"size": list(range(1, 11))},
    "only": {},
    "pseudo_anomaly_share": 0.3,
    "fewest_normals": 10,
}
TRIALS = 40


@pytest.fixture
def tune(
    run: Callable[..., Command], small_fleet: Path, random_run: str, tmp_path: Path
) -> Callable[[Path], Command]:
    """Starts ``ray-asd tune`` over the space above."""
    manifest, space = str(tmp_path / "manifest.parquet"), tmp_path / "space.yaml"
    ray_asd.index(str(small_fleet), manifest)
    space.write_text(yaml.safe_dump(SPACE))
    start = partial(run, "tune", manifest, "--upstream", random_run, "--space", str(space))
    return lambda out: start("--out", str(out), "--json")


def trials_of(out: Path) -> list[Path]:
    return sorted(Path(f"{out}.tune", "trials").glob("*.parquet"))


def kept_of(out: Path) -> dict[Path, tuple[int, bytes]]:
    """Time and content of every file that a sweep keeps."""
    files = [*trials_of(out), *Path(f"{out}.tune", "embeddings").glob("*.parquet")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def table_of(out: Path) -> list[dict[str, str]]:
    """The table of trials, but for the seconds that each took."""
    with open(f"{out}.trials.csv", newline="") as file:
        return [{**line, "seconds": ""} for line in csv.DictReader(file)]


def test_a_killed_driver_is_carried_on_by_the_same_command_to_the_same_recipe(
    tune: Callable[[Path], Command], tmp_path: Path
) -> None:
    out, whole = tmp_path / "tuned.yaml", tmp_path / "whole.yaml"
    command = tune(out)
    command.wait_for(lambda: len(trials_of(out)) >= 4)
    command.kill()
    recorded, kept = len(trials_of(out)), kept_of(out)
    assert 4 <= recorded < TRIALS
    assert not out.exists()

    for place in (out, whole):
        command = tune(place)
        code, said = command.end()
        assert code == 0, said
        result = json.loads(command.printed)
        assert (result["trials"], result["failed"]) == (TRIALS, {})
        assert result["recorded"] == (recorded if place == out else 0)

    assert kept.items() <= kept_of(out).items()
    assert {path.name for path in Path(f"{out}.tune").iterdir()} == {"embeddings", "trials"}
    assert out.read_bytes() == whole.read_bytes()
    assert table_of(out) == table_of(whole)
    names = [path.name for path in trials_of(out)]
    assert names == [path.name for path in trials_of(whole)]
    assert len(names) == TRIALS
    for one, other in zip(trials_of(out), trials_of(whole), strict=True):
        assert pq.read_table(one).equals(pq.read_table(other))
