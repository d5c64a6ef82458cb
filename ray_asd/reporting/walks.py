"""What one task does with its parts of a scores table. Light: imports no torch, no matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_asd.reporting import parts, tally
from ray_asd.reporting.parts import Part
from ray_asd.reporting.tally import Tally


def apply(function: Callable[[list[Part]], Any], group: list[Part]) -> Any:
    """``function(group)``, as a Ray task: one of this module, whose imports are few."""
    return function(group)


def keys(group: Sequence[Part]) -> pa.Table:
    """Which clip each row of these parts of the scores is of; see :func:`tally.keys`."""
    return _each(group, "scores", tally.KEY_COLUMNS, tally.keys)


def rejections(group: Sequence[Part]) -> pa.Table:
    """Which clip each row of these parts of the rejections is of."""
    return _each(group, "rejections", tally.REJECTION_COLUMNS, tally.rejections)


def counts(
    group: Sequence[Part],
    old: pa.Table,
    *,
    ensemble: str,
    nights: Sequence[str],
    top: int,
) -> Tally | None:
    """The tally of these parts; the arguments as of :func:`tally.tally`. None of no rows."""
    own = pa.array([part.number for part in group], pa.int32())
    old = old.filter(pc.is_in(old["part"], value_set=own))
    count = partial(tally.tally, old=old, ensemble=ensemble, nights=nights, top=top)
    return Tally.merged(map(count, parts.read(group, "scores", tally.TALLY_COLUMNS)), top)


def _each(
    group: Sequence[Part],
    kind: str,
    columns: Sequence[str],
    function: Callable[[pa.Table], pa.Table],
) -> pa.Table:
    return tally.joined(map(function, parts.read(group, kind, columns)))
