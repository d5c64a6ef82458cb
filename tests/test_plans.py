import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd import plans, tables
from ray_asd.errors import BadInput
from tests.planned import commit, freeze, left, recordings

ROW = st.tuples(
    st.sampled_from(["fan", "valve", "pump"]), st.uuids().map(str), st.integers(0, 10**9)
)


@given(parts=st.lists(st.lists(ROW, max_size=40), max_size=3), rows=st.integers(1, 7))
def test_every_recording_is_in_one_shard_of_one_machine_type(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[str, str, int]]], rows: int
) -> None:
    place = tmp_path_factory.mktemp("scores")
    plan = freeze(place, *(recordings(*part) for part in parts), rows=rows)
    shards = list(plan.shards())
    assert len({shard.name for shard in shards}) == len(shards)
    found = []
    for shard in shards:
        table = plans.recordings(shard)
        assert set(table["shard"].to_pylist()) == {shard.name}
        assert table.num_rows == shard.rows <= rows
        assert len(set(table["machine_type"].to_pylist())) == 1
        assert set(table["shard_recordings"].to_pylist()) == {shard.rows}
        assert shard.rows == 1 or sum(table["bytes"].to_pylist()) <= 256_000_000
        found += table.to_pylist()
    assert sorted((r["uri"], r["fingerprint"]) for r in found) == sorted(
        (uri, f"f{uri}") for part in parts for _, uri, _ in part
    )


def test_a_shard_is_read_wherever_its_rows_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_ROW_GROUP", 4)
    table = recordings(*(("fan", f"u{i:02d}", 1) for i in range(20)))
    plan = freeze(tmp_path, table, rows=7)
    shards = list(plan.shards())
    assert [(shard.first, shard.rows) for shard in shards] == [(0, 7), (7, 7), (14, 6)]
    found = pa.concat_tables(plans.recordings(shard) for shard in shards)
    assert found.select(tables.RECORDINGS.names).equals(table)
    assert all(a.first + a.rows == b.first for a, b in pairwise(shards))


def test_a_plan_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    assert plans.unfinished(str(tmp_path)) is None
    table = recordings(*(("fan", f"u{i}", 1) for i in range(7)))
    plan = freeze(tmp_path, table)
    first, *rest = plan.shards()
    commit(tmp_path, first.name, plans.recordings(first))
    again = plans.unfinished(str(tmp_path))
    assert again == plan
    assert plans.pending(str(tmp_path), again) == rest
    assert left(tmp_path, table) == [f"u{i}" for i in range(3, 7)]
    plans.finish(str(tmp_path), again)
    assert plans.unfinished(str(tmp_path)) is None


def test_names_follow_from_what_is_planned_and_the_run(tmp_path: Path) -> None:
    table = recordings(("fan", "a", 1), ("fan", "b", 1))
    names = [
        [shard.name for shard in freeze(tmp_path / place, table, rows=1, run_id=run).shards()]
        for place, run in (("1", "r1"), ("2", "r1"), ("3", "r2"))
    ]
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])


def test_the_oldest_unfinished_plan_comes_first(tmp_path: Path) -> None:
    one = recordings(("fan", "u", 1))
    for run_id in ("r2", "r1", "r3"):
        plan = freeze(tmp_path, one, run_id=run_id)
        if run_id == "r1":
            plans.finish(str(tmp_path), plan)
    found = plans.unfinished(str(tmp_path))
    assert found is not None
    assert found.run_id == "r2"


def test_a_plan_that_was_never_frozen_counts_for_nothing(tmp_path: Path) -> None:
    one = recordings(("fan", "u", 1))
    kept = freeze(tmp_path, one, run_id="r1")
    plans.write_part(str(tmp_path), "r2", 0, one, 3)
    aside = Path(plans.planning(str(tmp_path), "r2"))
    aside.mkdir(parents=True)
    plans.finish(str(tmp_path), kept)
    assert plans.unfinished(str(tmp_path)) is None
    plans.tidy(str(tmp_path))
    there = sorted(path.name for path in (tmp_path / "ledger" / "plans").iterdir())
    assert there == ["r1", "r1.done", "r1.json"]
    assert not aside.parent.exists()


def test_a_plan_of_an_earlier_version_is_finished(tmp_path: Path) -> None:
    """One file, whose schema says what is a header's now."""
    table = recordings(("fan", "a", 1), ("fan", "b", 1), ("valve", "c", 1))
    planned = table.append_column("shard", pa.array(["s1", "s1", "s2"])).append_column(
        "shard_recordings", pa.array([2, 2, 1], pa.int32())
    )
    about = {"run_id": "r1", "night": "2026-01-01", "bundle_id": "b"}
    place = tmp_path / "ledger" / "plans" / "r1.parquet"
    place.parent.mkdir(parents=True)
    pq.write_table(planned.cast(plans.PLANNED).replace_schema_metadata(about), place)
    plans.tidy(str(tmp_path))
    plan = plans.unfinished(str(tmp_path))
    assert plan is not None
    assert (plan.run_id, plan.night, plan.bundle_id) == ("r1", "2026-01-01", "b")
    commit(tmp_path, "s2", table.slice(2))
    (shard,) = plans.pending(str(tmp_path), plan)
    assert plans.recordings(shard)["uri"].to_pylist() == ["a", "b"]
    plans.finish(str(tmp_path), plan)
    assert plans.unfinished(str(tmp_path)) is None


def test_an_empty_plan(tmp_path: Path) -> None:
    plan = freeze(tmp_path)
    assert list(plan.shards()) == []
    assert plans.pending(str(tmp_path), plan) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["header", "words", "part", "gone", "foreign"])
def test_a_damaged_plan_is_named(tmp_path: Path, damage: str) -> None:
    freeze(tmp_path, recordings(("fan", "a", 1)))
    header = tmp_path / "ledger" / "plans" / "r1.json"
    part = tmp_path / "ledger" / "plans" / "r1" / "00000.parquet"
    if damage == "header":
        header.write_bytes(header.read_bytes()[:-3])
    elif damage == "words":
        header.write_text(json.dumps(["r1"]))
    elif damage == "part":
        part.write_bytes(part.read_bytes()[:-20])
    elif damage == "gone":
        part.unlink()
    else:
        pq.write_table(pa.table({"uri": ["a"]}), part)
    with pytest.raises(BadInput, match=r"r1(\.json|/00000\.parquet): not a ") as refused:
        [plans.pending(str(tmp_path), plan) for plan in [plans.unfinished(str(tmp_path))] if plan]
    assert "\n" not in str(refused.value)
