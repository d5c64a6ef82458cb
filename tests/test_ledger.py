from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd import ledger, tables
from ray_asd.errors import BadInput


def recordings(*rows: tuple[str, str, int]) -> pa.Table:
    """Of (machine type, uri, bytes) each."""
    return pa.Table.from_pylist(
        [
            {
                "uri": uri,
                "bytes": size,
                "modified_ns": 1,
                "fingerprint": f"f{uri}",
                "machine_type": machine_type,
                "section": "00",
                "domain": "source",
                "split": "test",
                "label": "unknown",
                "attributes": [],
                "recorded_at": None,
                "fields": [],
            }
            for machine_type, uri, size in rows
        ],
        tables.RECORDINGS,
    )


def freeze(place: Path, table: pa.Table, rows: int = 3, run_id: str = "r1") -> ledger.Plan:
    return ledger.freeze(
        str(place), table, run_id=run_id, night="2026-01-01", bundle_id="b", rows=rows
    )


def commit(place: Path, shard: str, table: pa.Table, final: bool = True) -> None:
    (place / "ledger" / "shards").mkdir(parents=True, exist_ok=True)
    rows = [
        {"uri": r["uri"], "fingerprint": r["fingerprint"], "section_digest": "d", "final": final}
        for r in table.to_pylist()
    ]
    ledger.commit(str(place), shard, rows)


def left(place: Path, table: pa.Table, digest: str = "d") -> list[str]:
    digests = {(machine_type, "00"): digest for machine_type in ("fan", "valve")}
    return ledger.without_done(str(place), table, digests)["uri"].to_pylist()


def test_what_changed_is_not_done(tmp_path: Path) -> None:
    table = recordings(("fan", "b", 1), ("valve", "a", 1), ("pump", "c", 1))
    commit(tmp_path, "s1", table.slice(0, 2))
    assert left(tmp_path, table) == ["c"]
    assert left(tmp_path, table, digest="another bundle") == ["b", "a", "c"]
    changed = table.set_column(3, table.schema.field(3), pa.array(["fb", "anew", "fc"]))
    assert left(tmp_path, changed) == ["a", "c"]
    moved = pa.concat_tables([recordings(("fan", "z", 1)), table])
    assert left(tmp_path, moved) == ["z", "c"]


@given(
    names=st.lists(
        st.tuples(
            st.sampled_from(["fan", "valve", "pump"]), st.uuids().map(str), st.integers(0, 10**9)
        ),
        max_size=40,
    ),
    rows=st.integers(1, 7),
)
def test_every_recording_is_in_one_shard_of_one_machine_type(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str, int]], rows: int
) -> None:
    place = tmp_path_factory.mktemp("scores")
    shards = freeze(place, recordings(*names), rows).shards()
    found = [uri for shard in shards.values() for uri in shard["uri"].to_pylist()]
    assert sorted(found) == sorted(uri for _, uri, _ in names)
    for shard in shards.values():
        assert shard.num_rows <= rows
        assert len(set(shard["machine_type"].to_pylist())) == 1
        assert set(shard["shard_recordings"].to_pylist()) == {shard.num_rows}
        assert shard.num_rows == 1 or sum(shard["bytes"].to_pylist()) <= 256_000_000


def test_a_plan_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    assert ledger.unfinished(str(tmp_path)) is None
    table = recordings(*(("fan", f"u{i}", 1) for i in range(7)))
    assert left(tmp_path, table) == [f"u{i}" for i in range(7)]
    plan = freeze(tmp_path, table)
    first, *rest = plan.shards()
    commit(tmp_path, first, plan.shards()[first])
    again = ledger.unfinished(str(tmp_path))
    assert again is not None
    assert (again.run_id, again.night, again.bundle_id) == ("r1", "2026-01-01", "b")
    assert list(ledger.pending(str(tmp_path), again)) == rest
    assert again.recordings.equals(plan.recordings)
    assert left(tmp_path, table) == [f"u{i}" for i in range(3, 7)]
    ledger.finish(str(tmp_path), again)
    assert ledger.unfinished(str(tmp_path)) is None


def test_the_oldest_unfinished_plan_comes_first(tmp_path: Path) -> None:
    one = recordings(("fan", "u", 1))
    for run_id in ("r2", "r1", "r3"):
        plan = freeze(tmp_path, one, run_id=run_id)
        if run_id == "r1":
            ledger.finish(str(tmp_path), plan)
    left = ledger.unfinished(str(tmp_path))
    assert left is not None
    assert left.run_id == "r2"


def test_a_rejection_that_may_pass_is_not_done(tmp_path: Path) -> None:
    plan = freeze(tmp_path, recordings(("fan", "a", 1), ("valve", "b", 1)))
    for (name, shard), final in zip(plan.shards().items(), (True, False), strict=True):
        commit(tmp_path, name, shard, final)
    assert ledger.pending(str(tmp_path), plan) == {}
    assert left(tmp_path, plan.recordings) == ["b"]


def test_an_empty_plan(tmp_path: Path) -> None:
    plan = freeze(tmp_path, tables.RECORDINGS.empty_table())
    assert plan.shards() == {}
    assert ledger.pending(str(tmp_path), plan) == {}


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    freeze(tmp_path, recordings(("fan", "a", 1)))
    place = tmp_path / "ledger" / "plans" / "r1.parquet"
    place.write_bytes(place.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"r1\.parquet: not a plan"):
        ledger.unfinished(str(tmp_path))
