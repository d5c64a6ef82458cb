"""Recordings → scores: one Ray Data stream from the manifest to Parquet.

decode + mel + backbones (an actor pool) → one stage for each kind of detector → reducer. A block
of the stream is a shard of the run's frozen plan; what the ledger holds is not scored again.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_asd import bundle as bundles
from ray_asd import console, ledger, scores
from ray_asd.archive import manifest, store
from ray_asd.bundle import Bundle
from ray_asd.errors import BadInput, RunFailed
from ray_asd.ledger import Plan
from ray_asd.pipelines import session
from ray_asd.pipelines.embed import Embed
from ray_asd.pipelines.index import listing
from ray_asd.pipelines.plan import Pool, block_rows
from ray_asd.pipelines.stages import Detect, Reduce
from ray_asd.recipe import Recipe


def score(
    source: str,
    bundle: str,
    out: str,
    *,
    layout: str = "dcase",
    split: str | None = None,
    workers: int | None = None,
    batch: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Score recordings with a bundle; every clip lands in scores or in rejections.

    Args:
        source: a manifest, or a folder or bucket to list.
        bundle: the bundle's folder.
        out: the scores table's folder; what it holds under the same section digest is skipped.
        layout: how a folder's names are read.
        split: score recordings of this split only (``train`` or ``test``); all if None.
        workers: embedding actors; one a core if None.
        batch: recordings in a block; chosen by their number if None.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        What ``runs/<run_id>.json`` holds: counts, seconds, audio hours.

    Raises:
        BadInput: a source or a bundle that cannot be used.
        RunFailed: the stream broke off; what is published stays, and the same call carries on.
    """
    loaded = bundles.load(bundle, weights=False, sections=False)
    out = store.absolute(out)
    if store.exists(out) and not store.is_folder(out):
        raise BadInput(f"{out}: is a file; name a folder for the scores table")
    left = ledger.unfinished(out)
    if left is not None and left.bundle_id != loaded.bundle_id:
        raise BadInput(
            f"{out}: the run {left.run_id} with bundle {left.bundle_id} was never finished; run "
            "it again with that bundle first, or score into another folder"
        )
    with session.lazily(address) as hold:
        stream = partial(_stream, loaded=loaded, bundle=bundle, out=out, workers=workers)
        resumed = None
        if left is not None:
            console.say(f"score: finishing the run {left.run_id} first")
            resumed = _run(left, stream, hold, out, skipped=0, recipe=loaded.recipe)
        recordings = _recordings(source, layout, split)
        todo = _without_done(recordings, loaded, out)
        skipped = recordings.num_rows - todo.num_rows
        if skipped:
            console.say(f"score: {skipped} recordings are in {out} already")
        if not todo.num_rows and resumed is not None:
            return {**resumed, "skipped": skipped}
        now = datetime.now(UTC)
        plan = ledger.freeze(
            out,
            todo,
            run_id=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
            night=f"{now:%Y-%m-%d}",
            bundle_id=loaded.bundle_id,
            rows=batch or block_rows(todo.num_rows, workers),
        )
        run = _run(plan, stream, hold, out, skipped=skipped, recipe=loaded.recipe)
    return run if resumed is None else {**run, "resumed": resumed}


def _run(
    plan: Plan,
    stream: Callable[[Plan, list[pa.Table]], Any],
    hold: Callable[[], None],
    out: str,
    *,
    skipped: int,
    recipe: Recipe,
) -> dict[str, Any]:
    """Score a plan's shards that are not committed, and write down what the run did."""
    started = time.monotonic()
    outcome = _Outcome()
    shards = list(ledger.pending(out, plan).values())
    recordings = sum(shard.num_rows for shard in shards)
    if shards:
        hold()
        streaming = time.monotonic()
        _consume(stream(plan, shards), recordings, outcome)
        outcome.stream_s = time.monotonic() - streaming
    run = {
        "run_id": plan.run_id,
        "bundle_id": plan.bundle_id,
        "scores": out,
        "night": plan.night,
        "false_alarm_rate": recipe.false_alarm_rate,
        "recordings": recordings,
        "skipped": skipped,
        **outcome.summary(),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ray-asd", "ray", "torch")},
        },
    }
    if plan.recordings.num_rows:
        scores.write_run(out, run)
        ledger.finish(out, plan)
    return run


def _recordings(source: str, layout: str, split: str | None) -> pa.Table:
    is_folder = store.is_folder(source)
    recordings = listing(source, layout).table if is_folder else manifest.read(source)
    if split is not None:
        recordings = recordings.filter(pc.equal(recordings["split"], split))
    return recordings


def _without_done(recordings: pa.Table, bundle: Bundle, out: str) -> pa.Table:
    """The recordings that the scores table does not hold under their section's digest."""
    done = ledger.done(out)
    if not done:
        return recordings
    columns = ("uri", "fingerprint", "machine_type", "section")
    keep = [
        (uri, fingerprint, bundle.digests.get((machine_type, section), "")) not in done
        for uri, fingerprint, machine_type, section in zip(
            *(recordings[name].to_pylist() for name in columns), strict=True
        )
    ]
    return recordings.filter(pa.array(keep, pa.bool_()))


def _stream(
    plan: Plan,
    shards: list[pa.Table],
    *,
    loaded: Bundle,
    bundle: str,
    out: str,
    workers: int | None,
) -> Any:
    """The Ray Data stream over shards, a block each; its rows are those of :class:`Reduce`."""
    recipe, light = loaded.recipe, Pool.light()
    pool = Pool.heavy(len(shards), workers)
    place = store.absolute(bundle)
    dataset = pool.stage(
        shards,
        Embed,
        recipe=recipe.model_dump(),
        weights={
            n: store.join(place, "backbones", f"{n}.safetensors") for n in recipe.upstream.backbones
        },
        sections=[list(key) for key in loaded.digests],
    )
    for kind in sorted({detector.kind for detector in recipe.downstream.detectors.values()}):
        dataset = light.stage(dataset, Detect, bundle=place, kind=kind)
    return light.stage(dataset, Reduce, bundle=place, out=out, run_id=plan.run_id, night=plan.night)


class _Outcome:
    """What became of the clips."""

    def __init__(self) -> None:
        self.scored = 0
        self.scored_s = 0.0
        self.stream_s = 0.0
        self.reasons: Counter[str] = Counter()

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

    def summary(self) -> dict[str, Any]:
        """Counts, hours and speed, fit for JSON."""
        hours = self.scored_s / 3600
        return {
            "scored": self.scored,
            "rejected": sum(self.reasons.values()),
            "reasons": dict(sorted(self.reasons.items())),
            "audio_hours": round(hours, 4),
            "audio_hours_per_hour": round(hours / self.stream_s * 3600, 1) if self.stream_s else 0,
        }


def _consume(dataset: Any, recordings: int, outcome: _Outcome) -> None:
    with console.track("score", recordings, "recordings") as advance:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                outcome.add(block)
                rejected = sum(outcome.reasons.values())
                note = f"({rejected} rejected)" if rejected else ""
                advance(len(set(block["uri"].to_pylist())), note)
        except Exception as error:
            raise RunFailed(
                f"scoring broke off after {outcome.scored} clips: {_in_a_line(error)}; what is "
                "published stays: run the same command again to carry on"
            ) from error


def _in_a_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"
