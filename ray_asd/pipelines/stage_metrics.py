"""What Prometheus sees of scoring, through Ray: clips, rejections by reason, seconds by stage."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache

from ray.util import metrics

_BOUNDARIES_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


@cache
def _seconds() -> metrics.Histogram:
    return metrics.Histogram(
        "asd_stage_seconds",
        description="Seconds that a stage took for a clip, or, the reducer, for a shard.",
        boundaries=_BOUNDARIES_S,
        tag_keys=("stage",),
    )


@cache
def _scored() -> metrics.Counter:
    return metrics.Counter("asd_clips_scored", description="Clips that were scored.")


@cache
def _rejections() -> metrics.Counter:
    return metrics.Counter(
        "asd_rejections",
        description="Clips or recordings that could not be scored, by reason.",
        tag_keys=("reason",),
    )


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        return spent


def observe(stage: str, seconds: float) -> None:
    """Count seconds that a stage took."""
    if seconds > 0:
        _seconds().observe(seconds, tags={"stage": stage})


def count(scored: int, reasons: Counter[str]) -> None:
    """Count what a shard came to."""
    if scored:
        _scored().inc(scored)
    for reason, number in reasons.items():
        _rejections().inc(number, tags={"reason": reason})
