"""Which machines need attention, and why."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ray_asd
from ray_asd.bundle import Bundle
from ray_asd.reporting import summary, tally
from ray_asd.reporting.summary import Alarms
from ray_asd.reporting.tally import Tally
from tests.reporting.conftest import ENSEMBLE, Scored, scored_row
from tests.reporting.test_tally import NIGHTS, NOTHING_OLD, stretch


def counted(rows: list[dict[str, Any]]) -> Tally:
    return tally.tally(stretch(rows), NOTHING_OLD, ensemble=ENSEMBLE, nights=NIGHTS, top=5)


def rows_of(scored: Scored, values: list[float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of fan 00 with these scores, of the last night."""
    recording = next(row for row in scored.rows if row["machine_type"] == "fan")
    return [
        scored_row(
            {name: recording[name] for name in recording if name not in ("score", "decision")},
            scored.loaded,
            value,
            uri=f"/archive/{n}.wav",
            **{"night": NIGHTS[-1], **changes},
        )
        for n, value in enumerate(values)
    ]


def attention(rows: list[dict[str, Any]], loaded: Bundle) -> list[summary.Unit]:
    total = counted(rows)
    machines = summary.machines(total, loaded, ENSEMBLE)
    return summary.attention(total, machines, 0.1, last_night=NIGHTS[-1])


def test_how_sure_a_share_is() -> None:
    # R: binom.test(3, 4)$conf.int, binom.test(20, 100)$conf.int
    assert Alarms(4, 3).at_least == pytest.approx(0.1941204, abs=1e-6)
    assert Alarms(100, 20).at_least == pytest.approx(0.1266556, abs=1e-6)
    assert Alarms(5, 0).at_least == 0.0
    assert Alarms(5, 5).share == 1.0


def test_normal_machines_need_none(scored: Scored) -> None:
    values = [-0.5] * 27 + [1.5] * 3
    assert attention(rows_of(scored, values), scored.loaded) == []


def test_many_alarms_need_it(scored: Scored) -> None:
    (unit,) = attention(rows_of(scored, [-0.5] * 20 + [2.0] * 15), scored.loaded)
    assert (unit.machine_type, unit.section, unit.asset) == ("fan", "00", None)
    assert unit.why[0].startswith("15 of 35 clips above the threshold in the last night (43%")


def test_one_bad_night_after_many_good_ones_needs_it(scored: Scored) -> None:
    before = rows_of(scored, [-0.5] * 300, night=NIGHTS[0])
    (unit,) = attention(before + rows_of(scored, [2.0] * 5), scored.loaded)
    assert unit.all == Alarms(305, 5)
    assert unit.last == Alarms(5, 5)
    assert unit.why[0].startswith("5 of 5 clips above the threshold in the last night")


def test_one_clip_far_out_needs_it_where_there_are_few(scored: Scored) -> None:
    (unit,) = attention(rows_of(scored, [-0.5, 40.0]), scored.loaded)
    assert unit.why == [f"highest score 40.0, of the reference normals {_furthest(scored):.1f}"]
    assert attention(rows_of(scored, [-0.5] * 50 + [40.0]), scored.loaded) == []


def _furthest(scored: Scored) -> float:
    calibration = scored.loaded.sections["fan", "00"].calibration
    return float(calibration.ensembles[ENSEMBLE].scores.max())


def test_one_asset_of_many_needs_it(scored: Scored) -> None:
    rows = []
    for n in range(5):
        values = [2.0] * 6 if n == 3 else [-0.5] * 6
        fields = [("site", "A"), ("asset", f"unit {n}"), ("file", "x")]
        rows += rows_of(scored, values, fields=fields)
    (unit,) = attention(rows, scored.loaded)
    assert (unit.site, unit.asset, unit.all) == ("A", "unit 3", Alarms(6, 6))


def test_sections_stand_for_too_many_assets(scored: Scored) -> None:
    total = replace(counted(rows_of(scored, [2.0] * 10)), units=None)
    machines = summary.machines(total, scored.loaded, ENSEMBLE)
    (unit,) = summary.attention(total, machines, 0.1, last_night=NIGHTS[-1])
    assert (unit.asset, unit.all, unit.last) == (None, Alarms(10, 10), Alarms(10, 10))


def test_what_a_machine_is_told_of(scored: Scored) -> None:
    values = np.linspace(-2, 30, 101)
    rows = rows_of(scored, values.tolist(), duration_s=36.0)
    (machine,) = summary.machines(counted(rows), scored.loaded, ENSEMBLE)
    assert machine.alarms.clips == machine.counts.sum() == 101
    assert machine.alarms.above == sum(row["decision"] for row in rows)
    assert machine.seconds == pytest.approx(3636)
    assert machine.highest == 30
    assert machine.median == pytest.approx(np.median(values), rel=0.06)
    assert list(machine.nights) == [NIGHTS[-1]]
    assert machine.warnings == []


def test_rows_of_another_bundle_are_told_apart(scored: Scored) -> None:
    mine, others = rows_of(scored, [0.0]), rows_of(scored, [1.0, 2.0])
    for row in others:
        row.update(section_digest="another", bundle_id="old one")
    total = counted(mine + others)
    assert [row["clips"] for row in summary.foreign(total.origins, scored.loaded)["fan", "00"]] == [
        2
    ]
    (machine,) = summary.machines(total, scored.loaded, ENSEMBLE)
    assert "another bundle (old one)" in machine.warnings[0]
    (unknown,) = summary.machines(
        counted([{**mine[0], "machine_type": "pump"}]), scored.loaded, ENSEMBLE
    )
    assert unknown.reference is None
    assert "not in the bundle" in unknown.warnings[0]


def test_the_figures_are_those_of_evaluate(scored: Scored) -> None:
    total = counted(scored.rows)
    judged = summary.judged(total, 0.1)
    assert judged is not None
    expected = ray_asd.evaluate(scored.scores)
    assert judged.official_score == expected["official_score"] is not None
    for key in ("means", "machines"):
        assert judged.to_dict()[key] == expected[key]
    assert summary.judged(replace(total, labelled=None), 0.1) is None
    assert summary.judged(replace(total, labelled=pa.table({})), 0.1) is None
