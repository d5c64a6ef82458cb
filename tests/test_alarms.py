from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd import alarms
from ray_asd.alarms import Budget
from ray_asd.errors import BadInput
from tests.test_scores import publish, row

NIGHT = {"run_ids": ["r"], "nights": ["2026-01-01"]}


def alarm(uri: str, score: float, asset: str | None = None, **changes: object) -> dict:
    fields = [] if asset is None else [("asset", asset)]
    return row(uri, score=score, decision=1, percentile=1.0, fields=fields, **changes)


def test_the_worst_come_first_under_their_assets(tmp_path: Path) -> None:
    publish(
        tmp_path,
        alarm("a", 3.0, "press 1"),
        alarm("b", 9.0, "press 2"),
        alarm("c", 5.0, "press 1"),
        alarm("d", 4.0, machine_type="pump"),
        row("e", score=99.0, decision=0),
    )
    found = alarms.raised(str(tmp_path), **NIGHT)
    assert (found["ensemble"], found["above_threshold"], found["raised"]) == ("all", 4, 4)
    assert [(a["machine_type"], a["asset"], a["score"]) for a in found["assets"]] == [
        ("fan", "press 2", 9.0),
        ("fan", "press 1", 5.0),
        ("pump", None, 4.0),
    ]
    assert [clip["uri"] for clip in found["assets"][1]["clips"]] == ["c", "a"]


def test_a_budget_keeps_the_worst_and_counts_the_others(tmp_path: Path) -> None:
    publish(tmp_path, *(alarm(f"u{i}", float(i)) for i in range(10)))
    found = alarms.raised(str(tmp_path), **NIGHT, budget=Budget(alarms=3))
    assert (found["above_threshold"], found["raised"]) == (10, 3)
    assert [clip["uri"] for clip in found["assets"][0]["clips"]] == ["u9", "u8", "u7"]
    assert alarms.raised(str(tmp_path), **NIGHT, budget=Budget(alarms=0))["assets"] == []


def test_a_false_alarm_rate_is_stricter_than_the_bundles_threshold(tmp_path: Path) -> None:
    rows = [alarm(f"u{i}", 1.0) | {"percentile": i / 100} for i in range(90, 100)]
    publish(tmp_path, *rows)
    found = alarms.raised(str(tmp_path), **NIGHT, budget=Budget(false_alarm_rate=0.03))
    assert {clip["uri"] for clip in found["assets"][0]["clips"]} == {"u97", "u98", "u99"}


def test_only_the_run_of_the_night_and_one_ensemble_count(tmp_path: Path) -> None:
    publish(
        tmp_path,
        alarm("mine", 1.0),
        alarm("another ensemble", 5.0, ensemble="best"),
        alarm("another run", 6.0, run_id="q"),
        alarm("another night", 7.0, night="2026-01-02"),
    )
    found = alarms.raised(str(tmp_path), **NIGHT)
    assert [clip["uri"] for a in found["assets"] for clip in a["clips"]] == ["mine"]
    found = alarms.raised(str(tmp_path), **NIGHT, ensemble="best")
    assert [clip["uri"] for a in found["assets"] for clip in a["clips"]] == ["another ensemble"]
    with pytest.raises(BadInput, match="no ensemble worst; there are all, best"):
        alarms.raised(str(tmp_path), **NIGHT, ensemble="worst")


def test_a_night_without_scores(tmp_path: Path) -> None:
    assert alarms.raised(str(tmp_path), **NIGHT)["raised"] == 0
    publish(tmp_path, alarm("a", 1.0, night="2026-01-02"))
    assert alarms.raised(str(tmp_path), **NIGHT)["ensemble"] is None


@given(
    scores=st.lists(st.floats(-1e6, 1e6), max_size=30),
    most=st.one_of(st.none(), st.integers(0, 12)),
)
def test_what_is_kept_is_the_top_of_all(scores: list[float], most: int | None) -> None:
    kept = alarms._Kept(most)
    for number, score in enumerate(scores):
        kept.add({"score": score, "uri": str(number), "start_s": 0.0})
    found = sorted((score for score, *_ in kept.heap), reverse=True)
    assert found == sorted(scores, reverse=True)[: len(scores) if most is None else most]
    assert kept.above == len(scores)
