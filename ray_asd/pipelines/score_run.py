"""One run over a frozen plan: a Ray Data stream from recordings to published shards.

decode + mel + backbones (an actor pool) → one stage for each kind of detector → reducer. A block
of the stream is a shard of the plan; what the ledger holds is not scored again.
"""

from __future__ import annotations

import math
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from ray_asd import bundle as bundles
from ray_asd import console, plans, scores
from ray_asd.bundle import Bundle
from ray_asd.errors import RunFailed
from ray_asd.pipelines import in_flight, session
from ray_asd.pipelines.columns import BEGAN, SPENT
from ray_asd.pipelines.embed import EmbedShard
from ray_asd.pipelines.plan import Pool
from ray_asd.pipelines.stages import Detect, Reduce
from ray_asd.plans import Plan, Shard


@dataclass(frozen=True)
class Scoring:
    """What all runs of one call of :func:`ray_asd.score` share."""

    loaded: Bundle
    bundle: str
    out: str
    workers: int | None
    patience_s: float
    still_ours: Callable[[], None]
    """raises where another run has taken the scores table over"""
    hold_ray: Callable[[], None]

    def run(self, plan: Plan, *, skipped: int) -> dict[str, Any]:
        """Score a plan's shards that are not committed, and write down what the run did.

        Raises:
            RunFailed: the stream broke off.
        """
        started = time.monotonic()
        outcome = _Outcome()
        shards = plans.pending(self.out, plan)
        recordings = sum(shard.rows for shard in shards)
        if shards:
            self.hold_ray()
            self._consume(self._stream(plan, shards), recordings, outcome)
        run = {
            "run_id": plan.run_id,
            "bundle_id": plan.bundle_id,
            "scores": self.out,
            "night": plan.night,
            "false_alarm_rate": self.loaded.recipe.false_alarm_rate,
            "combine": {
                name: ensemble.combine for name, ensemble in self.loaded.recipe.ensembles.items()
            },
            "recordings": recordings,
            "skipped": skipped,
            **outcome.summary(),
            "seconds": round(time.monotonic() - started, 1),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("ray-asd", "ray", "torch", "openvino")},
            },
        }
        if plan.parts:
            scores.write_run(self.out, run)
            plans.finish(self.out, plan)
        return run

    def _stream(self, plan: Plan, shards: list[Shard]) -> Any:
        """The Ray Data stream over shards, a block each; its rows are those of :class:`Reduce`."""
        recipe, light = self.loaded.recipe, Pool.light()
        watched = in_flight.start(sum(shard.rows for shard in shards))
        pool = Pool.embedding(len(shards), self.workers)
        # A block a shard. Of tables, Ray would start a task for each, only to look at it.
        blocks = ray.data.from_items(
            [shard._asdict() for shard in shards], override_num_blocks=len(shards)
        )
        dataset = pool.stage(
            blocks,
            EmbedShard,
            device=pool.device,
            retries=in_flight.RETRIES,
            guard=in_flight.Guard(watched, self.patience_s),
            recipe=recipe.model_dump(),
            weights=bundles.weights_of(self.bundle),
            sections=[list(key) for key in self.loaded.digests],
        )
        for kind in sorted({detector.kind for detector in recipe.downstream.detectors.values()}):
            dataset = light.stage(dataset, Detect, bundle=self.bundle, kind=kind)
        return light.stage(
            dataset,
            Reduce,
            bundle=self.bundle,
            out=self.out,
            run_id=plan.run_id,
            night=plan.night,
        )

    def _consume(self, dataset: Any, recordings: int, outcome: _Outcome) -> None:
        with console.track("score", recordings, "recordings") as advance:
            try:
                for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                    self.still_ours()
                    outcome.add(block)
                    rejected = sum(outcome.reasons.values())
                    note = f"({rejected} rejected)" if rejected else ""
                    advance(len(set(block["uri"].to_pylist())), note)
            except Exception as error:
                raise session.our_own(error) or RunFailed(
                    f"scoring broke off after {outcome.scored} clips: {session.in_a_line(error)}; "
                    "what is published stays: run the same command again to carry on"
                ) from error


class _Outcome:
    """What became of the clips, and how fast."""

    def __init__(self) -> None:
        self.scored = 0
        self.scored_s = 0.0
        self.reasons: Counter[str] = Counter()
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self._started = time.time()
        self._first = math.inf
        self._last = self._started

    def add(self, block: pa.Table) -> None:
        """Count a block that the reducer has published."""
        for duration_s, reason in zip(
            block["duration_s"].to_pylist(), block["reason"].to_pylist(), strict=True
        ):
            if reason is None:
                self.scored += 1
                self.scored_s += duration_s
            else:
                self.reasons[reason] += 1
        for name in block.column_names:
            if name.startswith(SPENT):
                self.spent_s[name.removeprefix(SPENT)] += pc.sum(block[name]).as_py() or 0.0
        # Of other machines' clocks, which may be behind.
        first = max(self._started, pc.min(block[BEGAN]).as_py())
        self._first = min(self._first, first)
        self._last = time.time()

    def _clips_per_s(self) -> float | None:
        """Clips a second, from when the first shard was begun to the last one's end.

        So all of the work counts: what workers had in hand when the first shard was through
        would flatter a small archive.
        """
        if self._last <= self._first:
            return None
        return (self.scored + sum(self.reasons.values())) / (self._last - self._first)

    def summary(self) -> dict[str, Any]:
        """Counts, hours and speed, fit for JSON."""
        hours = self.scored_s / 3600
        speed, mean_s = self._clips_per_s(), self.scored_s / max(1, self.scored)
        return {
            "scored": self.scored,
            "rejected": sum(self.reasons.values()),
            "reasons": dict(sorted(self.reasons.items())),
            "audio_hours": round(hours, 4),
            "stage_seconds": {stage: round(spent, 2) for stage, spent in self.spent_s.items()},
            "startup_s": None if speed is None else round(self._first - self._started, 1),
            "clips_per_s": None if speed is None else round(speed, 2),
            "audio_hours_per_hour": None if speed is None else round(speed * mean_s, 1),
        }
