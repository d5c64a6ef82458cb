"""Counts of a scores table, in stretches: right, and the same however it is cut."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ray_asd import scores, tables
from ray_asd.reporting import parts, tally
from ray_asd.reporting.tally import EDGES, Tally
from tests.test_scores import publish, row

NIGHTS = ["2026-01-01", "2026-01-02"]
NOTHING_OLD = pa.table({"part": pa.array([], pa.int32()), "row": pa.array([], pa.int64())})


def stretch(rows: list[dict[str, Any]], part: int = 0) -> pa.Table:
    """Rows as they come from a part."""
    table = pa.Table.from_pylist(rows, tables.SCORES)
    return table.append_column("part", pa.array([part] * len(rows), pa.int32())).append_column(
        "row", pa.array(range(len(rows)), pa.int64())
    )


def counted(table: pa.Table, top: int = 25, old: pa.Table = NOTHING_OLD) -> Tally:
    return tally.tally(table, old, ensemble="all", nights=NIGHTS, top=top)


def random_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        asset = [("asset", f"pump {random.integers(4)}"), ("site", "A")]
        rows.append(
            row(
                f"/archive/{n}.wav",
                machine_type=str(random.choice(["fan", "valve"])),
                section=str(random.choice(["00", "01"])),
                domain=str(random.choice(["source", "target"])),
                label=str(random.choice(["normal", "anomaly", "unknown"])),
                night=str(random.choice(NIGHTS)),
                fields=asset if random.random() < 0.7 else [],
                score=float(random.normal() * 10.0 ** random.integers(-2, 3)),
                decision=int(random.integers(2)),
                duration_s=10.0,
            )
        )
    return rows


def test_histograms_are_numpys() -> None:
    values = np.random.default_rng(0).normal(0, 100, 1000)
    values[:6] = [EDGES[0], EDGES[-1], EDGES[7], -1e9, 1e9, 0.0]
    cells = counted(stretch([row(str(n), score=float(s)) for n, s in enumerate(values)])).cells
    found = np.zeros(len(EDGES) + 1, np.int64)
    np.add.at(found, np.asarray(cells["bin"]), np.asarray(cells["clips"]))
    # numpy's last bin takes its right edge too: there must be one more behind it.
    expected, _ = np.histogram(values, [-np.inf, *EDGES, np.inf])
    np.testing.assert_array_equal(found, expected)


def test_counts_are_those_of_the_rows() -> None:
    rows = random_rows(300)
    found = counted(stretch(rows))
    for machine_type in ("fan", "valve"):
        own = [r for r in rows if r["machine_type"] == machine_type]
        cells = found.cells.filter(pc.equal(found.cells["machine_type"], machine_type))
        assert pc.sum(cells["clips"]).as_py() == len(own)
        assert pc.sum(cells["above"]).as_py() == sum(r["decision"] for r in own)
        assert pc.sum(cells["seconds"]).as_py() == 10.0 * len(own)
        assert pc.max(cells["highest"]).as_py() == max(r["score"] for r in own)
    assert found.units is not None
    for unit in found.units.to_pylist():
        own = [
            r
            for r in rows
            if (r["machine_type"], r["section"]) == (unit["machine_type"], unit["section"])
            and dict(r["fields"]).get("asset") == unit["asset"]
        ]
        last = [r for r in own if r["night"] == NIGHTS[-1]]
        assert (unit["clips"], unit["clips_last"]) == (len(own), len(last))
        assert unit["above"] == sum(r["decision"] for r in own)
        assert unit["above_last"] == sum(r["decision"] for r in last)
        assert unit["highest"] == max(r["score"] for r in own)


def test_the_top_is_the_highest_of_each_asset() -> None:
    rows = random_rows(300)
    found = counted(stretch(rows), top=20).top
    shown: dict[Any, int] = {}
    expected = []
    for place in sorted(range(300), key=lambda n: -rows[n]["score"]):
        own = rows[place]
        asset = dict(own["fields"]).get("asset")
        unit = own["machine_type"], own["section"], asset
        shown[unit] = shown.get(unit, 0) + 1
        if asset is None or shown[unit] <= tally.PER_ASSET:
            expected.append(place)
    assert found["row"].to_pylist() == expected[:20]


def test_pieces_that_are_merged_are_the_whole() -> None:
    rows = random_rows(400)
    # Of few assets, so that what one piece leaves out another might have shown.
    whole = counted(stretch(rows), top=15)
    for cut in (1, 37, 200):
        pieces = [stretch(rows).slice(start, cut) for start in range(0, 400, cut)]
        merged = Tally.merged((counted(piece, top=15) for piece in reversed(pieces)), 15)
        assert merged is not None
        assert merged.top.to_pylist() == whole.top.to_pylist()
        for name in ("cells", "origins", "units", "labelled"):
            one, other = (getattr(t, name).to_pylist() for t in (merged, whole))
            assert sorted(map(repr, one)) == sorted(map(repr, other)), name


def test_older_nights_are_counted_together() -> None:
    rows = [row("a", night="2025-12-30"), row("b", night="2025-12-31"), row("c", night=NIGHTS[0])]
    cells = counted(stretch(rows)).cells.to_pylist()
    assert {cell["night"]: cell["clips"] for cell in cells} == {"": 2, NIGHTS[0]: 1}


def test_other_ensembles_and_scores_that_are_no_numbers_are_left_out() -> None:
    rows = [row("a"), row("a", ensemble="best"), row("b", score=float("nan"))]
    found = counted(stretch(rows))
    assert pc.sum(found.cells["clips"]).as_py() == 1
    assert found.top["row"].to_pylist() == [0]
    assert found.not_finite == 1


def test_what_would_grow_with_the_rows_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MOST_ASSETS", 2)
    monkeypatch.setattr(tally, "MOST_LABELLED", 2)
    rows = [row(str(n), fields=[("asset", str(n))]) for n in range(4)]
    few, many = (counted(stretch(rows[:count])) for count in (2, 3))
    assert few.units is not None
    assert few.labelled is not None
    assert many.units is None
    assert many.labelled is None
    both = Tally.merged([few, counted(stretch(rows[2:]))], 25)
    assert both is not None
    assert both.units is None
    assert both.labelled is None


def test_tasks_that_count_start_without_torch_and_matplotlib() -> None:
    code = "import ray_asd.reporting.walks, sys; "
    code += "assert not {'torch', 'matplotlib', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _walked(uri: str) -> Iterator[pa.Table]:
    found = parts.list_parts(uri, "scores")
    yield from parts.read(found, "scores", tally.KEY_COLUMNS, most_rows=7)


def test_the_latest_rows_are_those_of_read_scores(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = {
        # Unique in time as well: of two rows of one instant neither is the later.
        at: row(
            f"/archive/{random.integers(20)}.wav",
            start_s=float(random.choice([0.0, -0.0, 10.0, 12.5])),
            ensemble=str(random.choice(["all", "best"])),
            machine_type=str(random.choice(["fan", "valve"])),
            scored_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=int(at)),
            night=str(random.choice(NIGHTS)),
            score=float(at),
        )
        for at in random.permutation(200)
    }
    publish(tmp_path, *rows.values())
    keys = tally.joined(map(tally.keys, _walked(str(tmp_path))))
    expected = scores.read_scores(str(tmp_path), ensemble="all")
    own = keys.filter(pc.equal(keys["ensemble"], "all"))
    old = tally.outdated(own)
    assert old.num_rows == own.num_rows - expected.num_rows > 0
    places = set(zip(own["part"].to_pylist(), own["row"].to_pylist(), strict=True))
    places -= set(zip(old["part"].to_pylist(), old["row"].to_pylist(), strict=True))
    taken = parts.take(parts.list_parts(str(tmp_path), "scores"), "scores", sorted(places))
    assert sorted(r["score"] for r in taken) == sorted(expected["score"].to_pylist())
    # And the second walk leaves the same out.
    walked = parts.read(parts.list_parts(str(tmp_path), "scores"), "scores", tally.TALLY_COLUMNS)
    total = Tally.merged((counted(table, old=old) for table in walked), 25)
    assert total is not None
    assert pc.sum(total.cells["clips"]).as_py() == expected.num_rows


def rejected(uri: str, night: str, reason: str = "silent", part: int = 0) -> pa.Table:
    return pa.table(
        {
            "uri": [uri],
            "start_s": [0.0],
            "machine_type": ["fan"],
            "night": [night],
            "run_id": [f"run of {night}"],
            "reason": [reason],
            "part": pa.array([part], pa.int32()),
            "row": pa.array([0], pa.int64()),
        }
    )


def test_a_rejection_stands_once_and_until_the_clip_is_scored() -> None:
    found = tally.joined(
        tally.rejections(rejected(*one))
        for one in (
            ("twice", NIGHTS[0], "vanished"),
            ("twice", NIGHTS[1], "truncated"),
            ("scored before", NIGHTS[1], "unreadable"),
            ("scored later", NIGHTS[0], "vanished"),
            ("never scored", NIGHTS[0], "silent"),
            ("of a night of another's", "monday", "silent"),
        )
    )
    first, second = (datetime.fromisoformat(night).replace(tzinfo=UTC) for night in NIGHTS)
    scored = tally.keys(
        stretch(
            [
                row("scored before", scored_at=first),
                row("scored later", scored_at=second),
                row("of a night of another's", scored_at=second),
                row("something else", scored_at=second),
            ]
        )
    )
    standing = tally.standing(found, scored)
    assert sorted(standing["reason"].to_pylist()) == ["silent", "silent", "truncated", "unreadable"]
    assert tally.standing(pa.table({}), scored).num_rows == 0
