from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pytest

from ray_asd import scores, tables
from ray_asd.errors import BadInput


def row(uri: str, **changes: object) -> dict[str, object]:
    return {
        "uri": uri,
        "bytes": 1,
        "modified_ns": 1,
        "fingerprint": "f",
        "machine_type": "fan",
        "section": "00",
        "domain": "source",
        "split": "test",
        "label": "normal",
        "attributes": [],
        "recorded_at": None,
        "fields": [],
        "start_s": 0.0,
        "duration_s": 2.0,
        "ensemble": "all",
        "score": 1.0,
        "percentile": 0.5,
        "decision": 0,
        "members_raw": [("a/b", 2.0)],
        "members": [("a/b", 1.0)],
        "segment_scores": [1.0],
        "segment_starts_s": [0.0],
        "nearest_uri": "n",
        "nearest_start_s": 0.0,
        "section_digest": "d",
        "bundle_id": "b",
        "run_id": "r",
        "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "night": "2026-01-01",
        **changes,
    }


def publish(place: str | Path, *rows: dict[str, object], kind: str = "scores") -> None:
    """Publish rows, one part for each night and machine type among them."""
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for one in rows:
        groups.setdefault((str(one["night"]), str(one["machine_type"])), []).append(one)
    for (night, machine_type), part in groups.items():
        scores.publish(part, kind, str(place), night=night, machine_type=machine_type, name="part")


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    rows = [row("a"), row("b", machine_type="valve A/1 é=%"), row("c", night="2026-01-02")]
    publish(tmp_path, *rows)
    found = scores.read_scores(str(tmp_path))
    tables.validate(found.schema, tables.SCORES, "found")
    expected = pa.Table.from_pylist(rows, tables.SCORES)
    assert found.select(expected.column_names).to_pylist() == expected.to_pylist()
    assert len(list(tmp_path.glob("scores/*/*/*.parquet"))) == 3


def test_a_part_that_is_published_again_is_replaced_or_removed(tmp_path: Path) -> None:
    publish(tmp_path, row("a"), row("b"))
    publish(tmp_path, row("a"))
    assert scores.read_scores(str(tmp_path), latest=False)["uri"].to_pylist() == ["a"]
    scores.publish([], "scores", str(tmp_path), night="2026-01-01", machine_type="fan", name="part")
    assert scores.read_scores(str(tmp_path)).num_rows == 0


def test_the_latest_row_of_a_changed_recording_counts(tmp_path: Path) -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    publish(tmp_path, row("a"), row("b"))
    publish(tmp_path, row("a", fingerprint="g", score=9.0, scored_at=later, night="2026-01-02"))
    found = scores.read_scores(str(tmp_path)).to_pylist()
    assert [(r["uri"], r["score"]) for r in found] == [("a", 9.0), ("b", 1.0)]
    assert scores.read_scores(str(tmp_path), latest=False).num_rows == 3


def test_rejections_are_read_back(tmp_path: Path) -> None:
    assert scores.read_rejections(str(tmp_path)).num_rows == 0
    shared = {name: value for name, value in row("a").items() if name in tables.REJECTIONS.names}
    publish(tmp_path, {**shared, "reason": "silent", "detail": "x"}, kind="rejections")
    assert scores.read_rejections(str(tmp_path))["reason"].to_pylist() == ["silent"]


def test_a_folder_that_a_crash_left_empty_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "scores" / "night=2026-01-01" / "machine_type=fan").mkdir(parents=True)
    assert scores.read_scores(str(tmp_path)).num_rows == 0


def test_one_ensemble_of_several(tmp_path: Path) -> None:
    publish(tmp_path, row("a"), row("a", ensemble="best"))
    assert scores.read_scores(str(tmp_path), ensemble="best")["ensemble"].to_pylist() == ["best"]
    with pytest.raises(BadInput, match="there are all, best"):
        scores.read_scores(str(tmp_path), ensemble="worst")


def test_a_folder_without_scores(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ray-asd score"):
        scores.read_scores(str(tmp_path))


def test_no_machine_type_is_told_in_hives_own_word(tmp_path: Path) -> None:
    publish(tmp_path, row("a", machine_type=""))
    (folder,) = (tmp_path / "scores").glob("*/*")
    assert folder.name == "machine_type=__HIVE_DEFAULT_PARTITION__"
    assert scores.read_scores(str(tmp_path))["machine_type"].to_pylist() == [None]


def test_the_readmes_query_finds_last_nights_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"u{i}", score=float(i), night="2026-01-02") for i in range(12)]
    publish(tmp_path / "scores", *rows, row("old", score=99.0), row("v", machine_type="valve"))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    query = readme.split("```sql\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(query).fetchall()
    assert found == [(f"u{i}", float(i)) for i in range(11, 1, -1)]


def test_polars_opens_the_table_with_one_glob(tmp_path: Path) -> None:
    publish(tmp_path, row("a"), row("b", machine_type="valve"), row("c", night="2026-01-02"))
    table = polars.read_parquet(tmp_path / "scores/*/*/*.parquet", hive_partitioning=True)
    assert sorted(table["uri"].to_list()) == ["a", "b", "c"]
    assert set(table["machine_type"].to_list()) == {"fan", "valve"}
    assert table["score"].to_list() == [1.0, 1.0, 1.0]
