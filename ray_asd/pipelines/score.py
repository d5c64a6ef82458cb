"""Recordings → scores: what is to be scored, and one run over it."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_asd import bundle as bundles
from ray_asd import console, lease, ledger, scores, tables
from ray_asd.archive import manifest, store
from ray_asd.archive.listing import Listing
from ray_asd.bundle import Bundle
from ray_asd.errors import BadInput
from ray_asd.pipelines import in_flight, reach, session
from ray_asd.pipelines.index import tell
from ray_asd.pipelines.plan import block_rows
from ray_asd.pipelines.score_run import Scoring


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
    wanted = _Wanted(source, layout, split, since, limit, rescore)
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
        todo, skipped = wanted.recordings(loaded, out)
        if skipped:
            console.say(f"score: {skipped} recordings are in {out} already")
        if not todo.num_rows and resumed is not None:
            return {**resumed, "skipped": skipped}
        if todo.num_rows:
            # Before the plan is frozen: it would be finished first, whatever is asked for next.
            scoring.hold_ray()
            reach.everywhere(scoring.bundle, store.join(out, "ledger"), todo["uri"][0].as_py())
        now = datetime.now(UTC)
        plan = ledger.freeze(
            out,
            todo,
            run_id=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
            night=f"{now:%Y-%m-%d}",
            bundle_id=loaded.bundle_id,
            rows=batch or block_rows(todo.num_rows, workers),
        )
        run = scoring.run(plan, skipped=skipped)
    return run if resumed is None else {**run, "resumed": resumed}


def _resume(scoring: Scoring) -> dict[str, Any] | None:
    """Finish the run that was broken off, if there is one."""
    left = ledger.unfinished(scoring.out)
    if left is None:
        return None
    if left.bundle_id != scoring.loaded.bundle_id:
        raise BadInput(
            f"{scoring.out}: the run {left.run_id} with bundle {left.bundle_id} was never "
            "finished; run it again with that bundle first, or score into another folder"
        )
    console.say(f"score: finishing the run {left.run_id} first")
    return scoring.run(left, skipped=0)


def _dry_run(wanted: _Wanted, loaded: Bundle, out: str) -> dict[str, Any]:
    """What a run would do, and how long it would take at the last run's speed."""
    todo, skipped = wanted.recordings(loaded, out)
    left = ledger.unfinished(out)
    resumed = 0 if left is None else sum(t.num_rows for t in ledger.pending(out, left).values())
    last = scores.last_run(out)
    rate = last["scored"] / last["seconds"] if last and last["scored"] and last["seconds"] else None
    machines = todo["machine_type"].value_counts().to_pylist()
    return {
        "recordings": todo.num_rows,
        "skipped": skipped,
        "unfinished": resumed,
        "bytes": pc.sum(todo["bytes"]).as_py() or 0,
        "machines": {row["values"]: row["counts"] for row in machines},
        "seconds": None if rate is None else round((todo.num_rows + resumed) / rate, 1),
    }


@dataclass(frozen=True)
class _Wanted:
    """Which recordings a call asks for."""

    source: str
    layout: str
    split: str | None
    since: str | None
    limit: int | None
    rescore: bool

    def recordings(self, loaded: Bundle, out: str) -> tuple[pa.Table, int]:
        """Those that are to be scored, and how many are skipped since they are scored already."""
        since = None if self.since is None else _moment(self.since)
        if store.is_folder(self.source):
            listing = Listing(self.source, self.layout)
            found = pa.concat_tables(listing.tables())
            tell(listing, self.source, self.layout)
        else:
            found = manifest.read(self.source)
        if self.split is not None:
            found = found.filter(pc.equal(found["split"], self.split))
        if since is not None:
            # In microseconds: a table of nanoseconds ends in the year 2262.
            changed = pc.divide(found["modified_ns"], 1000).cast(pa.timestamp("us", "UTC"))
            when = pc.coalesce(found["recorded_at"].cast(changed.type), changed)
            found = found.filter(pc.greater_equal(when, pa.scalar(since, changed.type)))
        todo = found if self.rescore else ledger.without_done(out, found, loaded.digests)
        skipped = found.num_rows - todo.num_rows
        if self.limit is not None:
            todo = todo.sort_by("uri").slice(0, self.limit)
        return todo, skipped


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"--since {text}: not a date or time; write 2026-11-22 or 2026-11-22T06:00:00+01:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
