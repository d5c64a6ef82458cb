"""Recordings → scores: one Ray Data stream from the manifest to Parquet.

decode + mel + backbones (an actor pool) → one stage for each kind of detector → reducer. What
is in the scores table already is not scored again.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from ray_asd import bundle as bundles
from ray_asd import console, scores
from ray_asd.archive import manifest, store
from ray_asd.bundle import Bundle
from ray_asd.errors import RunFailed
from ray_asd.pipelines import plan, session
from ray_asd.pipelines.embed import Embed
from ray_asd.pipelines.index import listing
from ray_asd.pipelines.stages import Detect, Reduce


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
    began = datetime.now(UTC)
    run_id = f"{began:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    loaded = bundles.load(bundle)
    recordings = _recordings(source, layout, split)
    todo = _without_done(recordings, loaded, out)
    skipped = recordings.num_rows - todo.num_rows
    if skipped:
        console.say(f"score: {skipped} recordings are in {out} already")
    started = time.monotonic()
    outcome = _Outcome()
    if todo.num_rows:
        store.make_dir(out)
        with session.session(address):
            started_up = time.monotonic()
            dataset = _stream(
                todo, loaded, bundle, out, run_id, f"{began:%Y-%m-%d}", workers, batch
            )
            _consume(dataset, todo.num_rows, outcome)
            outcome.stream_s = time.monotonic() - started_up
    run = {
        "run_id": run_id,
        "bundle": bundle,
        "bundle_id": loaded.bundle_id,
        "scores": out,
        "false_alarm_rate": loaded.recipe.false_alarm_rate,
        "began": began.isoformat(timespec="seconds"),
        "recordings": todo.num_rows,
        "skipped": skipped,
        **outcome.summary(),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ray-asd", "ray", "torch")},
        },
    }
    if todo.num_rows:
        scores.write_run(out, run)
    return run


def _recordings(source: str, layout: str, split: str | None) -> pa.Table:
    is_folder = store.is_folder(source)
    recordings = listing(source, layout).table if is_folder else manifest.read(source)
    if split is not None:
        recordings = recordings.filter(
            pa.array([s == split for s in recordings["split"].to_pylist()])
        )
    # Neighbours in the archive share a machine type, and so a block its detectors.
    return recordings.sort_by([("machine_type", "ascending"), ("uri", "ascending")])


def _without_done(recordings: pa.Table, bundle: Bundle, out: str) -> pa.Table:
    """The recordings that the scores table does not hold under their section's digest."""
    done = scores.done(out)
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
    todo: pa.Table,
    loaded: Bundle,
    bundle: str,
    out: str,
    run_id: str,
    night: str,
    workers: int | None,
    batch: int | None,
) -> Any:
    recipe, light = loaded.recipe, plan.Pool.light()
    blocks = plan.blocks(todo, batch, workers)
    pool = plan.Pool.heavy(len(blocks), workers)
    place, table = store.absolute(bundle), store.absolute(out)
    dataset = pool.stage(
        blocks,
        Embed,
        recipe=recipe.model_dump(),
        weights={n: store.join(place, "backbones", f"{n}.safetensors") for n in loaded.backbones},
        sections=[list(key) for key in loaded.sections],
        threads=pool.threads,
    )
    for kind in sorted({detector.kind for detector in recipe.downstream.detectors.values()}):
        dataset = light.stage(dataset, Detect, bundle=place, kind=kind)
    return light.stage(dataset, Reduce, bundle=place, out=table, run_id=run_id, night=night)


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
                f"scoring broke off after {outcome.scored} clips: {_first_line(error)}; what is "
                "published stays: run the same command again to carry on"
            ) from error


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"
