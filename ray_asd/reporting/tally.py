"""What a report counts, a stretch of the scores table at a time; what two stretches give is merged.

Two walks over the table. The first keeps of each row which clip it is of and when it was scored
(:func:`keys`), from which follows which rows are outdated, as in ``read_scores``. The second
counts what is left (:func:`tally`): histograms, alarms, and the rows that score highest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KEY_COLUMNS = ("uri", "start_s", "ensemble", "scored_at")
REJECTION_COLUMNS = ("uri", "start_s", "reason", "run_id")
TALLY_COLUMNS = (
    "section",
    "domain",
    "label",
    "split",
    "fields",
    "duration_s",
    "ensemble",
    "score",
    "decision",
    "section_digest",
    "bundle_id",
)

EDGES: npt.NDArray[np.float64] = 3 * np.sinh(np.arange(-140, 141) / 20)
"""Edges of the histograms' bins, in standard deviations above normal.

0.15 wide about 0, and a twentieth of the score far from it, up to 1,600 on both sides. Fixed,
so that the histograms of any two stretches can be added.
"""

ASSET = ("site", "asset")
"""What names one machine among those of its section, where the layout does."""

PER_ASSET = 3
"""Of one asset no more clips are shown, so that one broken machine does not fill the page."""

MOST_ASSETS = 20_000
MOST_LABELLED = 200_000

_SECTION = ["machine_type", "section"]
_CELL = [*_SECTION, "night", "domain", "label", "bin"]
_ORIGIN = [*_SECTION, "section_digest", "bundle_id"]
_UNIT = [*_SECTION, *ASSET]
_TOP = [*_UNIT, "score", "part", "row"]
_LABELLED = [*_SECTION, "domain", "label", "score", "decision", "part", "row"]


def keys(table: pa.Table) -> pa.Table:
    """Which clip each row is of: ``digest`` of uri and start; ``scored_at``, and its place."""
    return pa.table(
        {
            "digest": _digests(table),
            "ensemble": table["ensemble"],
            "scored_at": table["scored_at"],
            "part": table["part"],
            "row": table["row"],
        }
    )


def joined(found: Iterable[pa.Table]) -> pa.Table:
    """The rows of all of them; a table without columns where there are none."""
    rows = [table for table in found if table.num_rows]
    return pa.concat_tables(rows) if rows else pa.table({})


def outdated(found: pa.Table) -> pa.Table:
    """``part`` and ``row`` of the rows of which a newer one of the same clip is there.

    Args:
        found: the :func:`keys` of all rows of one ensemble.
    """
    order = pc.sort_indices(found, [("digest", "ascending"), ("scored_at", "descending")])
    digests = found["digest"].take(order).combine_chunks()
    older = pc.equal(digests.slice(1), digests.slice(0, max(len(digests) - 1, 0)))
    return found.select(["part", "row"]).take(order.slice(1).filter(older))


def rejections(table: pa.Table) -> pa.Table:
    """Which clip each rejection is of, as :func:`keys`, with night, run, reason and machine."""
    kept = ["machine_type", "night", "run_id", "reason", "part", "row"]
    return table.select(kept).append_column("digest", _digests(table))


def standing(rejected: pa.Table, scored: pa.Table) -> pa.Table:
    """The rejections that still hold: of each clip the newest, unless it was scored since.

    A clip that was scored on the day of its rejection counts as scored.

    Args:
        rejected: :func:`rejections` of the whole table.
        scored: :func:`keys` of the whole table.
    """
    if not rejected.num_rows:
        return rejected
    order = [("digest", "ascending"), ("night", "descending"), ("run_id", "descending")]
    rejected = rejected.sort_by(order)
    wanted = pc.unique(rejected["digest"])
    also = scored.filter(pc.is_in(scored["digest"], value_set=wanted))
    last: dict[bytes, datetime] = {}
    for digest, at in zip(also["digest"].to_pylist(), also["scored_at"].to_pylist(), strict=True):
        last[digest] = max(at, last.get(digest, at))
    keep, before = [], None
    for digest, night in zip(
        rejected["digest"].to_pylist(), rejected["night"].to_pylist(), strict=True
    ):
        newest, before = digest != before, digest
        keep.append(newest and not (digest in last and last[digest] >= _midnight(night)))
    return rejected.filter(pa.array(keep, pa.bool_()))


def _midnight(night: str) -> datetime:
    try:
        return datetime.fromisoformat(night).replace(tzinfo=UTC)
    except ValueError:
        # A night of another's making: no score is known to be later.
        return datetime.max.replace(tzinfo=UTC)


def _digests(table: pa.Table) -> pa.Array:
    """16 bytes of uri and start: what tells clips apart, in constant space."""
    # Adding 0 makes one of 0 and -0, which are equal.
    starts = (np.asarray(table["start_s"], np.float64) + 0.0).tobytes()
    found = [
        hashlib.blake2b(starts[8 * i : 8 * i + 8] + uri.encode(), digest_size=16).digest()
        for i, uri in enumerate(table["uri"].to_pylist())
    ]
    return pa.array(found, pa.binary(16))


@dataclass(frozen=True)
class Tally:
    """The counts of some rows of one ensemble, all outdated ones left out."""

    cells: pa.Table
    """``clips``, ``above``, ``seconds`` and ``highest`` by machine type, section, night, domain,
    label and bin; bin 0 lies below the first of :data:`EDGES`."""
    origins: pa.Table
    """``clips`` by machine type, section, section digest and bundle."""
    units: pa.Table | None
    """``clips``, ``above``, those of the last night, and ``highest`` by machine type, section
    and asset; None where there are more than :data:`MOST_ASSETS`."""
    top: pa.Table
    """The rows that score highest, no more than :data:`PER_ASSET` of one asset, the highest
    first: where they stand."""
    labelled: pa.Table | None
    """Labelled clips of the split test, and where they stand; None where there are more than
    :data:`MOST_LABELLED`."""
    not_finite: int
    """Rows left out everywhere, since their score is no number."""

    @classmethod
    def merged(cls, tallies: Iterable[Tally], top: int) -> Tally | None:
        """The tally of all their rows together, in any order; None of none."""
        total = None
        for other in tallies:
            total = other if total is None else total._plus(other, top)
        return total

    def _plus(self, other: Tally, top: int) -> Tally:
        return Tally(
            _added([self.cells, other.cells], _CELL),
            _added([self.origins, other.origins], _ORIGIN),
            _bounded([self.units, other.units], MOST_ASSETS, partial(_added, by=_UNIT)),
            _highest(pa.concat_tables([self.top, other.top]), top),
            _bounded([self.labelled, other.labelled], MOST_LABELLED, pa.concat_tables),
            self.not_finite + other.not_finite,
        )


def tally(
    table: pa.Table,
    old: pa.Table,
    *,
    ensemble: str,
    nights: Sequence[str],
    top: int,
) -> Tally:
    """Count one stretch of the scores table.

    Args:
        table: rows with :data:`TALLY_COLUMNS`, as :func:`ray_asd.reporting.parts.read` gives.
        old: ``part`` and ``row`` of :func:`outdated` rows.
        ensemble: rows of other ensembles are left out.
        nights: those that are counted apart, the newest last; what is older goes to the
            night ``""``.
        top: how many rows that score highest are kept.
    """
    table = table.filter(_current(table, old, ensemble))
    finite = pc.is_finite(table["score"])
    not_finite = table.num_rows - pc.sum(finite, min_count=0).as_py()
    table = table.filter(finite)
    scores = np.asarray(table["score"], np.float64)
    ones = pa.array(np.ones(len(scores), np.int64))
    is_last = pc.equal(table["night"], nights[-1]).cast(pa.int64())
    above = table["decision"].cast(pa.int64())
    known = pc.is_in(table["night"], value_set=pa.array(list(nights), pa.string()))
    columns: dict[str, Any] = {
        "clips": ones,
        "above": above,
        "seconds": table["duration_s"],
        "highest": table["score"],
        "clips_last": is_last,
        "above_last": pc.multiply(above, is_last),
        "bin": pa.array(np.searchsorted(EDGES, scores, side="right").astype(np.int16)),
        **{name: _looked_up(table["fields"], name) for name in ASSET},
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    place = table.schema.get_field_index("night")
    table = table.set_column(place, "night", pc.if_else(known, table["night"], ""))
    judged = pc.and_(
        pc.equal(table["split"], "test"),
        pc.is_in(table["label"], value_set=pa.array(["normal", "anomaly"])),
    )
    alarms = ["clips", "above", "clips_last", "above_last", "highest"]
    return Tally(
        _added([table.select([*_CELL, "clips", "above", "seconds", "highest"])], _CELL),
        _added([table.select([*_ORIGIN, "clips"])], _ORIGIN),
        _bounded([table.select([*_UNIT, *alarms])], MOST_ASSETS, partial(_added, by=_UNIT)),
        _highest(table.select(_TOP), top),
        _bounded([table.filter(judged).select(_LABELLED)], MOST_LABELLED, pa.concat_tables),
        not_finite,
    )


def _current(table: pa.Table, old: pa.Table, ensemble: str) -> pa.Array:
    """Which rows are of the ensemble and not outdated."""
    mask = np.asarray(pc.equal(table["ensemble"], ensemble), np.bool_)
    if old.num_rows:
        mask = mask & ~np.isin(_place(table), _place(old))
    return pa.array(mask)


def _place(table: pa.Table) -> npt.NDArray[np.int64]:
    """Part and row in one number."""
    part, row = (np.asarray(table[name]).astype(np.int64) for name in ("part", "row"))
    place: npt.NDArray[np.int64] = (part << 40) + row
    return place


def _looked_up(fields: pa.ChunkedArray, name: str) -> pa.Array:
    """A recording's field of this name, null where it has none."""
    whole = fields.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no rows
        return pa.nulls(0, pa.string())
    return pc.map_lookup(whole, pa.scalar(name), "first").cast(pa.string())


def _added(found: list[pa.Table], by: list[str]) -> pa.Table:
    """One row for each value of ``by``, the counts added, ``highest`` the highest."""
    table = pa.concat_tables(found)
    rest = [name for name in table.column_names if name not in by]
    how = [(name, "max" if name == "highest" else "sum") for name in rest]
    # With threads the order in which seconds are added would change, and so their last digits.
    added = table.group_by(by, use_threads=False).aggregate(how)
    return added.rename_columns([*by, *rest]).select(table.column_names)


def _highest(table: pa.Table, top: int) -> pa.Table:
    """The ``top`` rows of highest score, no more than :data:`PER_ASSET` of one asset."""
    order = [("score", "descending"), ("part", "ascending"), ("row", "ascending")]
    chosen = pc.sort_indices(table, order)
    assets = zip(*(table[name].take(chosen).to_pylist() for name in _UNIT), strict=True)
    shown: Counter[tuple[Any, ...]] = Counter()
    keep: list[int] = []
    for place, unit in enumerate(assets):
        if len(keep) == top:
            break
        shown[unit] += 1
        if unit[-1] is None or shown[unit] <= PER_ASSET:
            keep.append(place)
    return table.take(chosen.take(pa.array(keep, pa.int64())))


def _bounded(
    found: list[pa.Table | None], most: int, add: Callable[[list[pa.Table]], pa.Table]
) -> pa.Table | None:
    """What ``add`` makes of them; None where one is None already, or it has too many rows."""
    known = [table for table in found if table is not None]
    if len(known) < len(found):
        return None
    table = add(known)
    return table if table.num_rows <= most else None
