from pathlib import Path

import pyarrow as pa

from ray_asd import ledger
from tests.planned import commit, left, recordings


def test_what_changed_is_not_done(tmp_path: Path) -> None:
    table = recordings(("fan", "b", 1), ("valve", "a", 1), ("pump", "c", 1))
    assert left(tmp_path, table) == ["b", "a", "c"]
    commit(tmp_path, "s1", table.slice(0, 2))
    assert left(tmp_path, table) == ["c"]
    assert left(tmp_path, table, digest="another bundle") == ["b", "a", "c"]
    changed = table.set_column(3, table.schema.field(3), pa.array(["fb", "anew", "fc"]))
    assert left(tmp_path, changed) == ["a", "c"]
    moved = pa.concat_tables([recordings(("fan", "z", 1)), table])
    assert left(tmp_path, moved) == ["z", "c"]


def test_a_rejection_that_may_pass_is_not_done(tmp_path: Path) -> None:
    table = recordings(("fan", "a", 1), ("valve", "b", 1))
    commit(tmp_path, "s1", table.slice(0, 1))
    commit(tmp_path, "s2", table.slice(1), final=False)
    assert left(tmp_path, table) == ["b"]


def test_commit_records_are_read_by_name(tmp_path: Path) -> None:
    assert list(ledger.committed(str(tmp_path))) == []
    assert ledger.done(str(tmp_path)) is None
    table = recordings(("fan", "a", 1), ("fan", "b", 1))
    for number, shard in enumerate(("s1", "s2")):
        commit(tmp_path, shard, table.slice(number, 1))
    assert sorted(ledger.committed(str(tmp_path))) == ["s1", "s2"]
    done = ledger.done(str(tmp_path), ["s2"])
    assert done is not None
    assert done.to_table()["uri"].to_pylist() == ["b"]
