"""What a run says of itself."""

import itertools

import pyarrow as pa
import pytest

from ray_asd.pipelines import score_run
from ray_asd.pipelines.columns import BEGAN
from ray_asd.pipelines.score_run import _Outcome


def shard(began: float, reasons: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "uri": [str(number) for number in range(len(reasons))],
            "duration_s": pa.array([10.0 if reason is None else 0.0 for reason in reasons]),
            "reason": pa.array(reasons, pa.string()),
            BEGAN: pa.array([began] * len(reasons)),
        }
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("rounds", [1, 2, 50])
def test_speed_does_not_depend_on_how_many_shards_there_are(
    monkeypatch: pytest.MonkeyPatch, workers: int, rounds: int
) -> None:
    """Workers that each take 5 s for a shard of ten clips, after 20 s of starting."""
    begins = [1020.0 + 5 * turn for turn in range(rounds) for _ in range(workers)]
    clock = itertools.chain([1000.0], (began + 5 for began in begins))
    monkeypatch.setattr(score_run.time, "time", lambda: next(clock))
    outcome = _Outcome()
    for began in begins:
        outcome.add(shard(began, [None] * 9 + ["silent"]))
    told = outcome.summary()
    assert told["startup_s"] == 20
    assert told["clips_per_s"] == 2 * workers
    assert told["audio_hours_per_hour"] == 20 * workers
    assert told["scored"] == 9 * len(begins)
    assert told["reasons"] == {"silent": len(begins)}


def test_a_worker_whose_clock_is_behind_began_no_earlier_than_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([1000.0, 1010.0])
    monkeypatch.setattr(score_run.time, "time", lambda: next(clock))
    outcome = _Outcome()
    outcome.add(shard(900.0, [None] * 20))
    assert outcome.summary()["startup_s"] == 0
    assert outcome.summary()["clips_per_s"] == 2


def test_of_nothing_no_speed_is_told() -> None:
    told = _Outcome().summary()
    assert told["startup_s"] is told["clips_per_s"] is told["audio_hours_per_hour"] is None
