"""What a run will score: frozen in shards before the first is scored.

:mod:`ray_asd.ledger` says where a plan lies. Whoever reads one holds its shards' names; a shard's
rows are read when it is its turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ray_asd import ledger, tables
from ray_asd.archive import store
from ray_asd.errors import BadInput

PLANNED = pa.schema([*tables.RECORDINGS, ("shard", pa.string()), ("shard_recordings", pa.int32())])
"""A plan's row: a recording, its shard, and how many recordings that has."""

# A shard travels through the stages as one block; past this its embeddings might be split.
_MOST_SHARD_BYTES = 256_000_000

# Of a part: what is read for one shard.
_ROW_GROUP = 5_000


class Shard(NamedTuple):
    """Recordings that are scored together, and where their rows stand."""

    name: str
    part: str
    first: int
    rows: int


@dataclass(frozen=True)
class Plan:
    """What one run scores."""

    run_id: str
    night: str
    bundle_id: str
    parts: tuple[str, ...]
    """where its parts lie; none where there is nothing to score"""

    def shards(self) -> Iterator[Shard]:
        """Its shards, each within one machine type.

        Raises:
            BadInput: a part cannot be read.
        """
        for part in self.parts:
            first = 0
            for name, run in groupby(_names(part)):
                rows = sum(1 for _ in run)
                yield Shard(name, part, first, rows)
                first += rows


def write_part(uri: str, run_id: str, number: int, recordings: pa.Table, rows: int) -> str:
    """Write a part of a plan, in shards of at most ``rows`` recordings; returns where it lies.

    A shard lies within one machine type; its name follows from its recordings and the run.
    """
    order = [("machine_type", "ascending"), ("uri", "ascending")]
    recordings = recordings.select(tables.RECORDINGS.names).sort_by(order)
    machines = recordings["machine_type"].to_pylist()
    sizes = recordings["bytes"].to_pylist()
    keys = list(
        zip(recordings["uri"].to_pylist(), recordings["fingerprint"].to_pylist(), strict=True)
    )
    names: list[str] = []
    counts: list[int] = []
    for start, stop in _runs(machines):
        for first, last in _cut(sizes, start, stop, rows):
            digest = hashlib.sha256(repr((run_id, keys[first:last])).encode()).hexdigest()[:20]
            names += [digest] * (last - first)
            counts += [last - first] * (last - first)
    planned = recordings.append_column("shard", pa.array(names, pa.string())).append_column(
        "shard_recordings", pa.array(counts, pa.int32())
    )
    folder = store.join(_plans(uri), run_id)
    store.make_dir(folder)
    part = store.join(folder, f"{number:05d}.parquet")
    with store.written_whole(part) as file:
        pq.write_table(planned.cast(PLANNED), file, compression="zstd", row_group_size=_ROW_GROUP)
    return part


def freeze(uri: str, parts: Sequence[str], *, run_id: str, night: str, bundle_id: str) -> Plan:
    """Say that a plan is whole, and will be scored. Nothing is written where it has no parts."""
    plan = Plan(run_id, night, bundle_id, tuple(parts))
    if parts:
        names = [store.name(part) for part in parts]
        about = {"run_id": run_id, "night": night, "bundle_id": bundle_id, "parts": names}
        store.make_dir(store.join(uri, "ledger", "shards"))
        store.write_atomic(store.join(_plans(uri), f"{run_id}.json"), json.dumps(about).encode())
    return plan


def unfinished(uri: str) -> Plan | None:
    """The oldest plan under ``uri`` that is not finished.

    Raises:
        BadInput: it cannot be read.
    """
    there = set(store.names(_plans(uri)))
    for name in sorted(there):
        run_id, _, ending = name.rpartition(".")
        if ending in ("json", "parquet") and f"{run_id}.done" not in there:
            place = store.join(_plans(uri), name)
            return _frozen(place, uri) if ending == "json" else _of_one_file(place)
    return None


def pending(uri: str, plan: Plan) -> list[Shard]:
    """The plan's shards that have no commit record, in the plan's order.

    Raises:
        BadInput: a part cannot be read.
    """
    left = {shard.name: shard for shard in plan.shards()}
    if left:
        for name in ledger.committed(uri):
            left.pop(name, None)
    return list(left.values())


def recordings(shard: Shard) -> pa.Table:
    """A shard's rows, as :data:`PLANNED`.

    Raises:
        BadInput: its part cannot be read.
    """
    found, passed = [], 0
    for group, count in enumerate(_row_groups(shard.part)):
        first, last = max(shard.first - passed, 0), min(shard.first + shard.rows - passed, count)
        if first < last:
            found.append(_row_group(shard.part, group).slice(first, last - first))
        passed += count
    return pa.concat_tables(found).combine_chunks()


def finish(uri: str, plan: Plan) -> None:
    """Say that all of a plan's shards are committed."""
    store.write_atomic(store.join(_plans(uri), f"{plan.run_id}.done"), b"")


def planning(uri: str, run_id: str) -> str:
    """Where a run may set aside what it needs while it plans."""
    return store.join(uri, "ledger", "planning", run_id)


def tidy(uri: str) -> None:
    """Remove what runs left that were ended while they planned."""
    store.remove_folder(store.join(uri, "ledger", "planning"))
    there = set(store.names(_plans(uri)))
    for name in there:
        if "." not in name and f"{name}.json" not in there:
            store.remove_folder(store.join(_plans(uri), name))


def _plans(uri: str) -> str:
    return store.join(uri, "ledger", "plans")


def _frozen(place: str, uri: str) -> Plan:
    try:
        about: dict[str, Any] = json.loads(store.read_bytes(place))
        names, run_id = about.pop("parts"), about["run_id"]
        parts = tuple(store.join(_plans(uri), run_id, name) for name in names)
        return Plan(**about, parts=parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{place}: not a plan: {error}") from None


def _of_one_file(place: str) -> Plan:
    about = _metadata(place).schema.to_arrow_schema().metadata or {}
    try:
        texts = [about[key].decode() for key in (b"run_id", b"night", b"bundle_id")]
    except KeyError as error:
        raise BadInput(f"{place}: not a plan: it does not say its {error}") from None
    return Plan(texts[0], texts[1], texts[2], (place,))


def _names(part: str) -> Iterator[str]:
    """The shard of each row of a part."""
    about = _metadata(part)
    with _opened(part) as source, pq.ParquetFile(source, metadata=about) as file:
        for batch in file.iter_batches(columns=["shard"]):
            yield from batch["shard"].to_pylist()


@contextmanager
def _opened(part: str) -> Iterator[pa.NativeFile]:
    filesystem, path = store.resolve(part)
    try:
        with filesystem.open_input_file(path) as source:
            yield source
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{part}: not a plan: {str(error).splitlines()[0]}") from None


# Parts never change: what was read of one stays true.
@lru_cache(maxsize=4)
def _metadata(part: str) -> pq.FileMetaData:
    with _opened(part) as source:
        about = pq.read_metadata(source)
    tables.validate(about.schema.to_arrow_schema(), PLANNED, part)
    return about


def _row_groups(part: str) -> list[int]:
    about = _metadata(part)
    return [about.row_group(n).num_rows for n in range(about.num_row_groups)]


# Shards that follow each other stand in the same one.
@lru_cache(maxsize=2)
def _row_group(part: str, number: int) -> pa.Table:
    about = _metadata(part)
    with _opened(part) as source, pq.ParquetFile(source, metadata=about) as file:
        return file.read_row_group(number).select(PLANNED.names).cast(PLANNED)


def _runs(values: list[Any]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of equal values."""
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield start, i
            start = i


def _cut(sizes: list[int], start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Cut a run into pieces of at most ``rows`` rows, and of not too many bytes."""
    first, held = start, 0
    for i in range(start, stop):
        if i > first and (i - first == rows or held + sizes[i] > _MOST_SHARD_BYTES):
            yield first, i
            first, held = i, 0
        held += sizes[i]
    if first < stop:
        yield first, stop
