"""What a run says of itself."""

import itertools

import pyarrow as pa
import pytest

from ray_asd.pipelines import score_run
from ray_asd.pipelines.score_run import _Outcome


def shard(reasons: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "uri": [str(number) for number in range(len(reasons))],
            "duration_s": pa.array([10.0 if reason is None else 0.0 for reason in reasons]),
            "reason": pa.array(reasons, pa.string()),
        }
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_speed_does_not_depend_on_how_many_shards_there_are(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Workers that each take 5 s for a shard of ten clips, after 20 s of starting."""
    for rounds in (2, 3, 50):
        ends = [20.0 + 5 * turn for turn in range(1, rounds + 1) for _ in range(workers)]
        clock = itertools.chain([0.0], ends)
        monkeypatch.setattr(score_run.time, "monotonic", lambda clock=clock: next(clock))
        outcome = _Outcome()
        outcome.workers = workers
        for _ in ends:
            outcome.add(shard([None] * 9 + ["silent"]))
        told = outcome.summary()
        assert told["startup_s"] == 25
        assert told["clips_per_s"] == 2 * workers
        assert told["scored"] == 9 * len(ends)
        assert told["reasons"] == {"silent": len(ends)}


def test_no_speed_is_told_of_what_is_over_when_workers_are_warm() -> None:
    outcome = _Outcome()
    outcome.workers = 2
    for _ in range(2):
        outcome.add(shard([None]))
    assert outcome.summary()["clips_per_s"] is None
    assert _Outcome().summary()["startup_s"] is None
