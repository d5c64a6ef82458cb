"""Recordings → scores: what is to be scored, and one run over it."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from tempfile import TemporaryDirectory
from typing import Any

from ray_asd import bundle as bundles
from ray_asd import console, lease, plans, scores, tables
from ray_asd.archive import store
from ray_asd.bundle import Bundle
from ray_asd.errors import BadInput
from ray_asd.pipelines import in_flight, planning, session
from ray_asd.pipelines.plan import block_rows
from ray_asd.pipelines.planning import Wanted
from ray_asd.pipelines.score_run import Scoring
from ray_asd.planning import Choice


def score(
    source: str,
    bundle: str,
    out: str,
    *,
    layout: str = "dcase",
    split: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    rescore: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    batch: int | None = None,
    patience_s: float | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Score recordings with a bundle; every clip lands in scores or in rejections.

    Args:
        source: a manifest, or a folder or bucket to list.
        bundle: the bundle's folder.
        out: the scores table's folder; what it holds under the same section digest is skipped.
        layout: how a folder's names are read.
        split: score recordings of this split only (``train`` or ``test``); all if None.
        since: only recordings of this time or later: when they were recorded where the layout
            says so, else when the file was last changed. ISO 8601, UTC where no zone is given.
        limit: at most so many recordings, in the order of their URIs.
        rescore: also what is scored already.
        dry_run: say what would be scored, and score nothing.
        workers: embedding actors; one a core if None.
        batch: recordings in a block; chosen by their number if None.
        patience_s: seconds that one clip may take; a recording that takes longer, or that ends
            its worker, twice, is rejected as ``crashed``. :data:`in_flight.PATIENCE_S` if None.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        What ``runs/<run_id>.json`` holds: counts, seconds, audio hours. Of a dry run, the counts
        that are known before.

    Raises:
        BadInput: a source or a bundle that cannot be used, or that not all machines reach.
        RunFailed: the stream broke off; what is published stays, and the same call carries on.

    >>> score("recordings", "bundle", "scores")["scored"]  # doctest: +SKIP
    """
    if split is not None and split not in tables.SPLITS:
        raise BadInput(f"--split {split}: there are {', '.join(tables.SPLITS)}")
    loaded = bundles.load(bundle, weights=False, sections=False)
    out = store.absolute(out)
    if store.exists(out) and not store.is_folder(out):
        raise BadInput(f"{out}: is a file; name a folder for the scores table")
    choice = Choice(split, None if since is None else _moment(since))
    wanted = Wanted(source, layout, choice, limit, rescore)
    if dry_run:
        return _dry_run(wanted, loaded, out)
    with ExitStack() as held:
        scoring = Scoring(
            loaded=loaded,
            bundle=store.absolute(bundle),
            out=out,
            workers=workers,
            patience_s=patience_s or in_flight.PATIENCE_S,
            still_ours=held.enter_context(lease.held(out)),
            hold_ray=held.enter_context(session.lazily(address)),
        )
        resumed = _resume(scoring)
        plan, skipped = planning.freeze(
            wanted,
            out,
            bundle=scoring.bundle,
            bundle_id=loaded.bundle_id,
            digests=loaded.digests,
            hold_ray=scoring.hold_ray,
            still_ours=scoring.still_ours,
            shard_rows=lambda count: batch or block_rows(count, workers),
        )
        if not plan.parts and resumed is not None:
            return {**resumed, "skipped": skipped}
        run = scoring.run(plan, skipped=skipped)
    return run if resumed is None else {**run, "resumed": resumed}


def _resume(scoring: Scoring) -> dict[str, Any] | None:
    """Finish the run that was broken off, if there is one."""
    left = plans.unfinished(scoring.out)
    if left is None:
        return None
    if left.bundle_id != scoring.loaded.bundle_id:
        raise BadInput(
            f"{scoring.out}: the run {left.run_id} with bundle {left.bundle_id} was never "
            "finished; run it again with that bundle first, or score into another folder"
        )
    console.say(f"score: finishing the run {left.run_id} first")
    return scoring.run(left, skipped=0)


def _dry_run(wanted: Wanted, loaded: Bundle, out: str) -> dict[str, Any]:
    """What a run would do, and how long it would take at the last run's speed."""
    with TemporaryDirectory(prefix="ray-asd-") as place:
        aside = store.join(place, "aside")
        with wanted.todo(out, loaded.digests, aside, planning.in_this_process) as todo:
            count, skipped, sums = todo.recordings, todo.skipped, todo.sums()
    left = plans.unfinished(out)
    resumed = 0 if left is None else sum(shard.rows for shard in plans.pending(out, left))
    last = scores.last_run(out)
    rate = last["scored"] / last["seconds"] if last and last["scored"] and last["seconds"] else None
    return {
        "recordings": count,
        "skipped": skipped,
        "unfinished": resumed,
        **sums,
        "seconds": None if rate is None else round((count + resumed) / rate, 1),
    }


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"--since {text}: not a date or time; write 2026-11-22 or 2026-11-22T06:00:00+01:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
