"""A source less what the ledger holds → a frozen plan, in memory that an archive does not move.

What fits a bucket is planned in this process. A larger archive is planned by Ray Data jobs, whose
rows are pieces of it: this process knows how many recordings there are and where they are set
aside, and holds none of them.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Protocol

import pyarrow as pa
import ray.data

from ray_asd import console, ledger, planning, plans
from ray_asd.archive import manifest, store
from ray_asd.archive.listing import Listing
from ray_asd.pipelines import reach, session
from ray_asd.pipelines.index import tell
from ray_asd.planning import Choice
from ray_asd.plans import Plan

# Commit records in a piece of a job: each is a file, and most of the time goes on opening them.
_PIECE_SHARDS = 2_000

Piece = dict[str, Any]
Step = Callable[..., dict[str, Any]]


class Todo(Protocol):
    """What is to be scored, before it is frozen."""

    recordings: int
    skipped: int
    """asked for, and scored already"""
    first: str
    """the uri of one of them"""

    def sums(self) -> dict[str, Any]:
        """As :func:`ray_asd.planning.sums`."""

    def parts(self, run_id: str, rows: int) -> list[str]:
        """Write the plan's parts, in shards of at most ``rows``; returns where they lie."""


@dataclass(frozen=True)
class Wanted:
    """Which recordings a call asks for."""

    source: str
    layout: str
    choice: Choice
    limit: int | None
    rescore: bool

    @contextmanager
    def todo(
        self,
        out: str,
        digests: Mapping[tuple[str, str], str],
        aside: str,
        run_job: RunJob,
    ) -> Iterator[Todo]:
        """What of them is to be scored; it stands for as long as the block runs.

        Args:
            out: the scores table.
            digests: as for :func:`ledger.without`.
            aside: a folder for what this process shall not hold; removed at the end.
            run_job: runs the pieces of a large archive.

        Raises:
            BadInput: a source that cannot be used.
        """
        try:
            found = self._found(aside)
            if isinstance(found, pa.Table):
                yield self._small(found, out, digests)
            else:
                yield _Large.of(self, found, out, digests, aside, run_job)
        finally:
            # What stays, the next run removes.
            with suppress(OSError):
                store.remove_folder(aside)

    def _found(self, aside: str) -> pa.Table | str:
        """The source's rows, or, of a large one, a manifest of them."""
        if not store.is_folder(self.source):
            if sum(manifest.row_groups(self.source)) > planning.MOST_ROWS:
                return store.absolute(self.source)
            return manifest.read(self.source)
        listing = Listing(self.source, self.layout)
        tables = listing.tables()
        held: list[pa.Table] = []
        count = 0
        for table in tables:
            held.append(table)
            count += len(table)
            if count > planning.MOST_ROWS:
                break
        if count > planning.MOST_ROWS:
            store.make_dir(aside)
            found = store.join(aside, "listing.parquet")
            manifest.write(chain(_emptied(held), tables), found)
        else:
            found = pa.concat_tables(held)
        tell(listing, self.source, self.layout)
        return found

    def _small(self, found: pa.Table, out: str, digests: Mapping[tuple[str, str], str]) -> Todo:
        asked = self.choice.of(found)
        done = None if self.rescore else ledger.done(out)
        left = ledger.without(done, asked, digests)
        skipped = len(asked) - len(left)
        if self.limit is not None:
            left = left.sort_by("uri").slice(0, self.limit)
        return _Small(left, skipped, out)


def freeze(
    wanted: Wanted,
    out: str,
    *,
    bundle: str,
    bundle_id: str,
    digests: Mapping[tuple[str, str], str],
    hold_ray: Callable[[], None],
    still_ours: Callable[[], None],
    shard_rows: Callable[[int], int],
) -> tuple[Plan, int]:
    """Freeze the plan of a new run.

    Args:
        wanted: which recordings it is asked for.
        out: the scores table; this process holds its lease.
        bundle: what the run will read besides.
        bundle_id: of that bundle.
        digests: as for :func:`ledger.without`.
        hold_ray: called before Ray is needed: not where a small archive has nothing to score.
        still_ours: raises where the lease was lost.
        shard_rows: recordings in a shard, for how many there are to score.

    Returns:
        The plan, and how many recordings are skipped since they are scored already.

    Raises:
        BadInput: a source that cannot be used, or that not all machines reach.
        RunFailed: the lease was lost, or other jobs hold all cores.
    """
    plans.tidy(out)
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    places = (bundle, store.join(out, "ledger"))

    def run_job(step: Step, pieces: list[Piece], **shared: Any) -> Iterator[Piece]:
        hold_ray()
        reach.everywhere(*places, *([shared["source"]] if "source" in shared else []))
        return over_ray(step, pieces, **shared)

    with wanted.todo(out, digests, plans.planning(out, run_id), run_job) as todo:
        skipped = todo.skipped
        if skipped:
            console.say(f"score: {skipped} recordings are in {out} already")
        if todo.recordings:
            # Before the plan is frozen: it would be finished first, whatever is asked for next.
            hold_ray()
            reach.everywhere(*places, todo.first)
        parts = todo.parts(run_id, shard_rows(todo.recordings))
    # Whoever has it now has removed these parts.
    still_ours()
    night = f"{now:%Y-%m-%d}"
    return plans.freeze(out, parts, run_id=run_id, night=night, bundle_id=bundle_id), skipped


class _Small:
    """What is to be scored, in this process's memory."""

    def __init__(self, left: pa.Table, skipped: int, out: str) -> None:
        self._left, self._out = left, out
        self.recordings, self.skipped = len(left), skipped
        self.first = left["uri"][0].as_py() if len(left) else ""

    def sums(self) -> dict[str, Any]:
        return planning.sums([self._left])

    def parts(self, run_id: str, rows: int) -> list[str]:
        return [plans.write_part(self._out, run_id, 0, self._left, rows)] if self.recordings else []


class RunJob(Protocol):
    """Runs a step over pieces, here or elsewhere; what it returns of each comes in any order."""

    def __call__(self, step: Step, pieces: list[Piece], **shared: Any) -> Iterator[Piece]:
        """Args: the step, its first argument for each piece, and its others."""


def in_this_process(step: Step, pieces: list[Piece], **shared: Any) -> Iterator[Piece]:
    """One piece after the other; see :class:`RunJob`."""
    return (step(piece, **shared) for piece in pieces)


def over_ray(step: Step, pieces: list[Piece], **shared: Any) -> Iterator[Piece]:
    """As a Ray Data job, a piece a task, on the Ray that is held; see :class:`RunJob`.

    Raises:
        RunFailed: other jobs hold the cores, and go on to.
    """
    if not pieces:
        return
    session.wait_for({"CPU": 1})
    # A block a piece, since a block is a task.
    dataset = ray.data.from_items(pieces, override_num_blocks=len(pieces))
    yield from dataset.map(step, fn_kwargs=shared).iter_rows()


class _Large:
    """What is to be scored, bucket by bucket where it was set aside."""

    def __init__(
        self, lefts: list[Piece], skipped: int, limit: int | None, out: str, run_job: RunJob
    ) -> None:
        self._lefts = sorted(
            (left for left in lefts if left["rows"]), key=lambda left: left["part"]
        )
        self._out, self._run_job = out, run_job
        self.recordings, self.skipped = sum(left["rows"] for left in lefts), skipped
        self.first = self._lefts[0]["first"] if self._lefts else ""
        self._upto: str | None = None
        if limit is not None and limit < self.recordings:
            self.recordings = limit
            self._upto = planning.uri_at((left["part"] for left in self._lefts), limit)

    @classmethod
    def of(
        cls,
        wanted: Wanted,
        source: str,
        out: str,
        digests: Mapping[tuple[str, str], str],
        aside: str,
        run_job: RunJob,
    ) -> _Large:
        """Subtract the ledger from a manifest."""
        groups = manifest.row_groups(source)
        rows = sum(groups)
        buckets = math.ceil(rows / planning.MOST_ROWS)
        shared = {"place": aside, "buckets": buckets}
        asked = sum(
            piece["asked"]
            for piece in run_job(
                planning.set_recordings_aside,
                list(_pieces_of(groups)),
                source=source,
                choice=wanted.choice,
                **shared,
            )
        )
        if not wanted.rescore:
            done = [
                {"number": number, "shards": shards}
                for number, shards in enumerate(_some(ledger.committed(out), _PIECE_SHARDS))
            ]
            for _ in run_job(planning.set_done_aside, done, out=out, **shared):
                pass
        lefts = list(
            run_job(
                planning.subtract,
                [{"bucket": bucket} for bucket in range(buckets)],
                place=aside,
                digests=dict(digests),
                limit=wanted.limit,
            )
        )
        manifest.refuse_doubled(wanted.source, sum(left["doubled"] for left in lefts), rows)
        return cls(lefts, asked - sum(left["left"] for left in lefts), wanted.limit, out, run_job)

    def sums(self) -> dict[str, Any]:
        return planning.sums(
            table
            for left in self._lefts
            for table in planning.left_of(left["part"], self._upto, ["machine_type", "bytes"])
        )

    def parts(self, run_id: str, rows: int) -> list[str]:
        pieces = [
            {"number": number, "parts": [left["part"] for left in some]}
            for number, some in enumerate(_together(self._lefts))
        ]
        shared = {"out": self._out, "run_id": run_id, "rows": rows, "upto": self._upto}
        # A small night of a large archive is one piece, as all nights of a small one are.
        run_job = in_this_process if len(pieces) == 1 else self._run_job
        return sorted(made["part"] for made in run_job(planning.write_part, pieces, **shared))


def _pieces_of(groups: list[int]) -> Iterator[Piece]:
    """A manifest's row groups, those that follow each other together as far as memory goes."""
    rows = [{"group": group, "rows": count} for group, count in enumerate(groups)]
    for number, some in enumerate(_together(rows)):
        yield {"number": number, "groups": [one["group"] for one in some]}


def _together(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Runs of pieces that have no more rows together than are held at once, or one that has."""
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(one["rows"] for one in held) + piece["rows"] > planning.MOST_ROWS:
            yield held
            held = []
        held.append(piece)
    if held:
        yield held


def _some(names: Iterator[str], count: int) -> Iterator[list[str]]:
    while held := list(islice(names, count)):
        yield held


def _emptied(held: list[pa.Table]) -> Iterator[pa.Table]:
    """The tables, none of which is held when it has passed."""
    while held:
        yield held.pop(0)
