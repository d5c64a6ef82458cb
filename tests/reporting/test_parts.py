"""Reading a scores table's parts a stretch at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_asd import scores
from ray_asd.errors import BadInput
from ray_asd.reporting import parts
from tests.test_scores import publish, row

COLUMNS = ("uri", "score")


def test_what_is_read_is_what_was_published(tmp_path: Path) -> None:
    rows = [
        row(f"{n}", score=float(n), machine_type=["fan", "valve A/1 é=%"][n % 2]) for n in range(20)
    ]
    publish(tmp_path, *rows, row("last", night="2026-01-02", score=20.0))
    found = parts.list_parts(str(tmp_path), "scores")
    assert [(part.number, part.night, part.machine_type) for part in found] == [
        (0, "2026-01-01", "fan"),
        (1, "2026-01-01", "valve A/1 é=%"),
        (2, "2026-01-02", "fan"),
    ]
    for most_rows in (1, 3, 100):
        stretches = list(parts.read(found, "scores", COLUMNS, most_rows))
        assert max(len(stretch) for stretch in stretches) < 2 * most_rows + 21
        table = pa.concat_tables(stretches)
        assert sorted(table["score"].to_pylist()) == list(range(21))
        for one in table.to_pylist():
            assert found[one["part"]].night == one["night"]
            (whole,) = parts.take(found, "scores", [(one["part"], one["row"])])
            assert (whole["uri"], whole["score"]) == (one["uri"], one["score"])
            assert whole["machine_type"] == one["machine_type"]


def test_whole_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    publish(tmp_path, *(row(f"{n}") for n in range(5)))
    found = parts.list_parts(str(tmp_path), "scores")
    places = [(0, 4), (0, 0), (0, 2)]
    taken = parts.take(found, "scores", places)
    assert [one["uri"] for one in taken] == ["4", "0", "2"]
    assert set(scores.read_scores(str(tmp_path)).column_names) <= set(taken[0])


def test_a_group_is_what_a_task_reads_in_a_second() -> None:
    small = [parts.Part(n, f"{n}", 1000, "", "") for n in range(600)]
    assert [len(group) for group in parts.groups(small)] == [256, 256, 88]
    large = [parts.Part(n, f"{n}", 50_000_000, "", "") for n in range(3)]
    assert [len(group) for group in parts.groups(large)] == [1, 1, 1]
    assert parts.groups([]) == []


def test_files_beside_the_parts_are_passed_over(tmp_path: Path) -> None:
    publish(tmp_path, row("a"))
    folder = next(tmp_path.glob("scores/*/*"))
    for name in (".part.parquet.crc", "_SUCCESS", "_metadata.parquet", "note.txt"):
        (folder / name).write_text("x")
    assert len(parts.list_parts(str(tmp_path), "scores")) == 1


def test_a_part_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    publish(tmp_path, row("a"))
    (part,) = tmp_path.glob("scores/*/*/*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    found = parts.list_parts(str(tmp_path), "scores")
    with pytest.raises(BadInput, match=r"part\.parquet: cannot be read"):
        list(parts.read(found, "scores", COLUMNS))
    pq.write_table(pa.table({"uri": ["a"]}), part)
    with pytest.raises(BadInput, match=r"part\.parquet.*score is missing"):
        list(parts.read(found, "scores", COLUMNS))


def test_no_table_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ray-asd score"):
        parts.list_parts(str(tmp_path), "scores")
    assert parts.list_parts(str(tmp_path), "rejections") == []
