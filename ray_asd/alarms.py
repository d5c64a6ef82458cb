"""From decisions to alarms: which of last night's recordings somebody should listen to.

A million recordings at a false-alarm rate of 0.1 make a hundred thousand decisions for «anomaly»;
a budget keeps the worst of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.dataset as pd

from ray_asd import scores
from ray_asd.errors import BadInput

_COLUMNS = (
    "uri",
    "start_s",
    "machine_type",
    "section",
    "fields",
    "score",
    "percentile",
)


@dataclass(frozen=True)
class Budget:
    """How many alarms a night may raise; None where there is no such limit."""

    alarms: int | None = None
    """the worst so many clips"""
    false_alarm_rate: float | None = None
    """only clips that score above all but this share of their section's reference normals"""


@dataclass
class _Kept:
    """The worst rows so far, in bounded memory."""

    most: int | None
    above: int = 0
    heap: list[tuple[float, str, float, dict[str, Any]]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        self.above += 1
        # URI and start make the order total, so that the rows themselves are never compared.
        entry = (row["score"], row["uri"], row["start_s"], row)
        if self.most is None or len(self.heap) < self.most:
            heapq.heappush(self.heap, entry)
        elif self.heap:
            heapq.heappushpop(self.heap, entry)


def raised(
    scores_uri: str,
    *,
    run_ids: Iterable[str],
    nights: Iterable[str],
    ensemble: str | None = None,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """The alarms of some runs, worst first, by asset.

    Args:
        scores_uri: a scores table.
        run_ids: the runs.
        nights: their nights, so that no other partition is read.
        ensemble: whose scores count; the first by name if None.
        budget: how many alarms there may be.

    Returns:
        ``ensemble``; ``above_threshold``, the clips that were decided to be anomalous; ``raised``,
        those of them that the budget leaves; ``assets``, a list by the worst score of each, with
        ``machine_type``, ``section``, ``asset`` (None where the layout names none), ``score`` and
        ``clips``.

    Raises:
        BadInput: there is no such ensemble.
    """
    limits = budget or Budget()
    kept = _Kept(limits.alarms)
    wanted = pd.field("run_id").isin(list(run_ids)) & pd.field("night").isin(list(nights))
    there = scores.ensembles(scores_uri, wanted)
    if ensemble is not None and there and ensemble not in there:
        raise BadInput(f"{scores_uri}: no ensemble {ensemble}; there are {', '.join(there)}")
    chosen = ensemble or next(iter(there), None)
    if chosen is not None:
        own = wanted & (pd.field("ensemble") == chosen) & (pd.field("decision") == 1)
        for batch in scores.scan(scores_uri, _COLUMNS, own):
            for row in batch.to_pylist():
                rate = limits.false_alarm_rate
                if rate is None or row["percentile"] >= 1 - rate:
                    kept.add(row)
    worst = [row for *_, row in sorted(kept.heap, reverse=True)]
    return {
        "ensemble": chosen,
        "above_threshold": kept.above,
        "raised": len(worst),
        "assets": _by_asset(worst),
    }


def _by_asset(worst: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that come worst first, under their assets; an asset stands where its worst does."""
    assets: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for row in worst:
        asset = dict(row["fields"]).get("asset")
        key = (row["machine_type"], row["section"], asset)
        group = assets.setdefault(
            key,
            {**dict(zip(("machine_type", "section", "asset"), key, strict=True)), "clips": []},
        )
        group.setdefault("score", row["score"])
        clip = {name: row[name] for name in ("uri", "start_s", "score", "percentile")}
        group["clips"].append(clip)
    return list(assets.values())
