"""What a crash leaves is finished by the same command, and nothing is scored twice."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import ray_asd
from ray_asd import bundle, plans
from ray_asd.archive import manifest
from tests.conftest import System

pytestmark = pytest.mark.integration


def in_one_file(plan: plans.Plan, folder: Path) -> None:
    """Write a plan as earlier versions did: its only part is its header too."""
    (part,) = plan.parts
    about = {"run_id": plan.run_id, "night": plan.night, "bundle_id": plan.bundle_id}
    table = pq.read_table(part).replace_schema_metadata(about)
    pq.write_table(table, folder / f"{plan.run_id}.parquet")
    shutil.rmtree(folder / plan.run_id)
    (folder / f"{plan.run_id}.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["this", "earlier"])
def test_an_interrupted_run_is_finished_first_and_then_what_is_new(
    system: System, small_fleet: Path, tmp_path: Path, version: str
) -> None:
    root, out = tmp_path / "an archive 100% ü", str(tmp_path / "scores")
    folder = root / "fan" / "test"
    folder.mkdir(parents=True)
    files = sorted((small_fleet / "fan" / "test").glob("*.wav"))
    for file in files[:4]:
        shutil.copy(file, folder)
    # The plan of a run that was killed after its first shard was published but not committed.
    run_id = "20260101T000000Z-killed"
    plan = plans.freeze(
        out,
        [plans.write_part(out, run_id, 0, manifest.build(str(root)).table, rows=2)],
        run_id=run_id,
        night="2026-01-01",
        bundle_id=bundle.load(system.bundle, weights=False).bundle_id,
    )
    first, second = (shard.name for shard in plans.pending(out, plan))
    if version == "earlier":
        in_one_file(plan, Path(out) / "ledger" / "plans")
    ray_asd.score(str(root), system.bundle, out)
    published = Path(out) / "scores" / "night=2026-01-01" / "machine_type=fan"
    assert {file.stem for file in published.iterdir()} == {first, second}
    (Path(out) / "ledger" / "shards" / f"{first}.parquet").unlink()
    (Path(out) / "ledger" / "plans" / f"{plan.run_id}.done").unlink()
    kept = (published / f"{second}.parquet").stat().st_mtime_ns
    for file in files[4:6]:
        shutil.copy(file, folder)

    result = ray_asd.score(str(root), system.bundle, out)

    assert result["resumed"]["recordings"] == 2
    assert result["recordings"] == 2
    assert result["skipped"] == 4
    rows = ray_asd.read_scores(out, latest=False)
    assert sorted(rows["uri"].to_pylist()) == sorted(str(p) for p in folder.iterdir())
    assert (published / f"{second}.parquet").stat().st_mtime_ns == kept


def test_an_unfinished_run_of_another_bundle_is_not_mixed_with_this_one(
    system: System, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    parts = [plans.write_part(out, "r", 0, manifest.read(system.manifest), rows=4)]
    plans.freeze(out, parts, run_id="r", night="2026-01-01", bundle_id="another")
    with pytest.raises(ray_asd.errors.BadInput, match="the run r with bundle another"):
        ray_asd.score(system.manifest, system.bundle, out)
