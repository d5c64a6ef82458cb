"""A large archive is planned in buckets as a small one is in memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_asd import planning, plans, tables
from ray_asd.archive import manifest, store
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import reach
from ray_asd.pipelines.planning import Piece, Step, Wanted, freeze, in_this_process, over_ray
from ray_asd.planning import Choice
from tests.conftest import Bucket
from tests.planned import commit

DIGESTS = {("fan", "00"): "d", ("valve", "00"): "d"}
COUNT = 60


def archive(count: int = COUNT) -> pa.Table:
    """Of three machine types, every other recording of the test split, made hour by hour."""
    rows = [
        {
            "uri": f"/rec/{number * 7919 % 1000:03d}.wav",
            "bytes": number,
            "modified_ns": number * 3600 * 10**9,
            "fingerprint": f"f{number}",
            "machine_type": ("fan", "pump", "valve")[number % 3],
            "section": "00",
            "domain": "source",
            "split": ("test", "train")[number % 2],
            "label": "unknown",
            "attributes": [("speed", str(number))],
            "recorded_at": None if number % 5 else datetime(2026, 1, 1, tzinfo=UTC),
            "fields": [],
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, tables.RECORDINGS)


def planned(
    place: Path | str, source: str, run_job: Any = in_this_process, rows: int = 4, **asked: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is told of the recordings to score, and their rows, shard by shard."""
    out = str(place)
    choice = Choice(asked.pop("split", None), asked.pop("since", None))
    wanted = Wanted(source, "dcase", choice, asked.pop("limit", None), asked.pop("rescore", False))
    aside = plans.planning(out, "r")
    with wanted.todo(out, DIGESTS, aside, run_job) as todo:
        told = {"recordings": todo.recordings, "skipped": todo.skipped, **todo.sums()}
        parts = todo.parts("r", rows)
        assert bool(todo.first) == bool(todo.recordings)
    assert not store.exists(aside)
    plan = plans.freeze(out, parts, run_id="r", night="n", bundle_id="b")
    shards = list(plan.shards())
    assert len({shard.name for shard in shards}) == len(shards)
    tables_of = [plans.recordings(shard) for shard in shards]
    for table in tables_of:
        assert set(table["shard_recordings"].to_pylist()) == {len(table)}
        assert len(table) <= rows
        assert len(set(table["machine_type"].to_pylist())) == 1
    return told, [row for table in tables_of for row in table.to_pylist()]


def plain(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(str({k: v for k, v in row.items() if not k.startswith("shard")}) for row in rows)


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Archives of more than eight rows are large."""
    with monkeypatch.context() as patch:
        patch.setattr(planning, "MOST_ROWS", 8)
        yield


ASKED: list[dict[str, Any]] = [
    {},
    {"rescore": True},
    {"split": "test"},
    {"since": datetime(1970, 1, 2, tzinfo=UTC)},
    {"limit": 0},
    {"limit": 5},
    {"limit": 40},
    {"limit": 1000, "split": "train"},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("groups", [1, 7, 100])
def test_buckets_find_what_memory_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], groups: int
) -> None:
    table = archive()
    source = str(tmp_path / "m.parquet")
    pq.write_table(table, source, row_group_size=groups)
    small, large = tmp_path / "small", tmp_path / "large"
    for place in (small, large):
        for number in range(6):
            commit(place, f"s{number}", table.slice(number * 5, 5), final=number != 2)
    told, rows = planned(small, source, **asked)
    monkeypatch.setattr(planning, "MOST_ROWS", 8)
    monkeypatch.setattr("ray_asd.pipelines.planning._PIECE_SHARDS", 4)
    told_large, rows_large = planned(large, source, **asked)
    assert told_large == told
    assert plain(rows_large) == plain(rows)
    assert len(rows) == told["recordings"]
    if not asked:
        # Twenty-five are done, of which pumps, unknown to the bundle, are not under its digest.
        assert Counter(row["machine_type"] for row in rows)["pump"] == 20
        assert told["skipped"] == len(table) - len(rows) == 17
    if "limit" in asked and asked["limit"] == 5:
        assert len(rows) == 5


def test_a_small_night_of_a_large_archive_has_the_shards_of_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = archive()
    source = str(tmp_path / "m.parquet")
    manifest.write(table, source)
    names = []
    for place, most in ((tmp_path / "small", 10**6), (tmp_path / "large", 40)):
        monkeypatch.setattr(planning, "MOST_ROWS", most)
        _, rows = planned(place, source, limit=12)
        names.append([(row["uri"], row["shard"]) for row in rows])
    assert names[0] == names[1]


def test_nothing_new_leaves_nothing(tmp_path: Path, buckets: None) -> None:
    table = archive(9).filter(pa.compute.not_equal(archive(9)["machine_type"], "pump"))
    table = pa.concat_tables(
        [
            table,
            table.set_column(
                0, table.schema.field(0), pa.array([f"/other/{n}.wav" for n in range(6)])
            ),
        ]
    )
    source = str(tmp_path / "m.parquet")
    manifest.write(table, source)
    commit(tmp_path, "s", table)
    told, rows = planned(tmp_path, source)
    assert told == {"recordings": 0, "skipped": 12, "machines": {}, "bytes": 0}
    assert rows == []
    assert plans.unfinished(str(tmp_path)) is None
    assert not (tmp_path / "ledger" / "plans").exists()


def test_a_folder_is_planned_like_its_manifest(tmp_path: Path, buckets: None) -> None:
    root = tmp_path / "rec"
    for number in range(20):
        file = root / ("fan", "valve")[number % 2] / "test" / f"section_00_{number:04d}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    index = manifest.build(str(root))
    manifest.write(index.table, str(tmp_path / "m.parquet"))
    listed = planned(tmp_path / "1", str(root))
    assert listed[0]["recordings"] == 20
    assert plain(listed[1]) == plain(planned(tmp_path / "2", str(tmp_path / "m.parquet"))[1])


def test_what_is_no_manifest_is_refused_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = archive()
    source = str(tmp_path / "m.parquet")
    words = table["label"].to_pylist()
    words[30], words[59] = "odd", "aberrant"
    doubled = pa.concat_tables([table, table.slice(0, 2), table.slice(0, 1)])
    nulls = table["uri"].to_pylist()
    nulls[40] = None
    for bad in (
        table.set_column(8, "label", pa.array(words)),
        table.set_column(0, "uri", pa.array(nulls, pa.string())),
        doubled,
    ):
        pq.write_table(bad, source, row_group_size=7)
        said = []
        for most in (10**6, 8):
            monkeypatch.setattr(planning, "MOST_ROWS", most)
            with pytest.raises(BadInput) as refused:
                planned(tmp_path / "out", source, split="test")
            said.append(str(refused.value))
        assert said[0] == said[1]
        assert plans.unfinished(str(tmp_path / "out")) is None
    assert "3 of its 63 rows name a uri again" in said[0]


def test_a_run_that_is_ended_while_it_plans_leaves_nothing_that_counts(
    tmp_path: Path, buckets: None
) -> None:
    source = str(tmp_path / "m.parquet")
    manifest.write(archive(), source)

    def ended(step: Step, pieces: list[Piece], **shared: Any) -> Iterator[Piece]:
        found = list(in_this_process(step, pieces, **shared))
        if step is planning.write_part:
            raise KeyboardInterrupt
        return iter(found)

    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path, source, ended)
    assert (tmp_path / "ledger" / "plans" / "r").is_dir()
    assert plans.unfinished(str(tmp_path)) is None
    plans.tidy(str(tmp_path))
    assert not (tmp_path / "ledger" / "plans" / "r").exists()


def test_a_ledger_in_a_bucket(tmp_path: Path, buckets: None, bucket: Bucket) -> None:
    source = bucket.uri("m.parquet")
    manifest.write(archive(), source)
    there = planned(bucket.uri("scores"), source)
    assert there[0]["recordings"] == COUNT
    plan = plans.unfinished(bucket.uri("scores"))
    assert plan is not None
    assert sum(shard.rows for shard in plans.pending(bucket.uri("scores"), plan)) == COUNT
    plans.write_part(bucket.uri("scores"), "r0", 0, archive(), 4)
    plans.tidy(bucket.uri("scores"))
    names = store.names(store.join(bucket.uri("scores"), "ledger", "plans"))
    assert names == ["r", "r.json"]


def test_a_run_that_was_taken_over_while_it_planned_freezes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "everywhere", lambda *places: None)
    source, out = str(tmp_path / "m.parquet"), str(tmp_path / "scores")
    manifest.write(archive(), source)

    def lost() -> None:
        raise RunFailed("another run has taken over")

    for still_ours in (lost, lambda: None):
        with suppress(RunFailed):
            freeze(
                Wanted(source, "dcase", Choice(), limit=None, rescore=False),
                out,
                bundle=str(tmp_path),
                bundle_id="b",
                digests=DIGESTS,
                hold_ray=lambda: None,
                still_ours=still_ours,
                shard_rows=lambda count: 4,
            )
        assert (plans.unfinished(out) is None) == (still_ours is lost)
    # What the first one left is gone.
    assert len(list((tmp_path / "scores" / "ledger" / "plans").iterdir())) == 2


@pytest.mark.integration
def test_ray_finds_what_this_process_finds(tmp_path: Path, buckets: None, held_ray: None) -> None:
    table = archive()
    source = str(tmp_path / "m.parquet")
    manifest.write(table, source)
    for place in ("here", "there"):
        commit(tmp_path / place, "s", table.slice(0, 20))
    told, rows = planned(tmp_path / "here", source, split="test")
    told_there, rows_there = planned(tmp_path / "there", source, over_ray, split="test")
    assert told_there == told
    assert rows_there == rows
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), source)
    with pytest.raises(BadInput, match="1 of its 61 rows name a uri again"):
        planned(tmp_path / "there", source, over_ray)
