"""How long things take, measured fairly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    tasks: Mapping[str, Callable[[], object]], repetitions: int, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns, after the unmeasured ones of a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warm_up + repetitions):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
