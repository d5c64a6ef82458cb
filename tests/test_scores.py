from datetime import UTC, datetime
from pathlib import Path

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


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), tables.SCORES)


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    rows = table(row("a"), row("b", machine_type="valve A/1 é=%"), row("c", night="2026-01-02"))
    scores.publish(rows, "scores", str(tmp_path))
    found = scores.read_scores(str(tmp_path))
    tables.validate(found.schema, tables.SCORES, "found")
    assert found.select(rows.column_names).to_pylist() == rows.to_pylist()
    assert len(list(tmp_path.glob("scores/*/*/*.parquet"))) == 3


def test_the_same_rows_written_twice_are_there_once(tmp_path: Path) -> None:
    for _ in range(2):
        scores.publish(table(row("a"), row("b")), "scores", str(tmp_path))
    assert scores.read_scores(str(tmp_path), latest=False).num_rows == 2


def test_the_latest_row_of_a_changed_recording_counts(tmp_path: Path) -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    scores.publish(table(row("a"), row("b")), "scores", str(tmp_path))
    new = row("a", fingerprint="g", score=9.0, scored_at=later, night="2026-01-02", run_id="s")
    scores.publish(table(new), "scores", str(tmp_path))
    found = scores.read_scores(str(tmp_path)).to_pylist()
    assert [(r["uri"], r["score"]) for r in found] == [("a", 9.0), ("b", 1.0)]
    assert scores.read_scores(str(tmp_path), latest=False).num_rows == 3
    assert scores.done(str(tmp_path)) == {("a", "f", "d"), ("b", "f", "d"), ("a", "g", "d")}


def test_a_rejection_is_done_unless_the_recording_may_come_back(tmp_path: Path) -> None:
    shared = {name: value for name, value in row("a").items() if name in tables.REJECTIONS.names}
    rows = [
        {**shared, "uri": uri, "reason": reason, "detail": "x"}
        for uri, reason in (("a", "silent"), ("b", "vanished"))
    ]
    scores.publish(pa.Table.from_pylist(rows, tables.REJECTIONS), "rejections", str(tmp_path))
    assert scores.done(str(tmp_path)) == {("a", "f", "d")}
    assert scores.read_rejections(str(tmp_path)).num_rows == 2


def test_one_ensemble_of_several(tmp_path: Path) -> None:
    scores.publish(table(row("a"), row("a", ensemble="best")), "scores", str(tmp_path))
    assert scores.read_scores(str(tmp_path), ensemble="best")["ensemble"].to_pylist() == ["best"]
    with pytest.raises(BadInput, match="there are all, best"):
        scores.read_scores(str(tmp_path), ensemble="worst")


def test_a_folder_without_scores(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ray-asd score"):
        scores.read_scores(str(tmp_path))
    assert scores.done(str(tmp_path)) == set()
