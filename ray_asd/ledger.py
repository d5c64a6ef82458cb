"""What is to be scored, and what is done: so that nothing is lost and nothing is scored twice.

Under ``SCORES/ledger/``:

``plans/<run_id>.parquet``
    A run's frozen plan: the recordings it will score, each in a shard. Written before the first
    is scored; whoever comes after a crash finishes it before anything is listed anew.
``plans/<run_id>.done``
    The plan is finished.
``shards/<shard>.parquet``
    A shard's commit record: written last, after its parts. A shard without one is scored again,
    into parts of the same names, so that what a crash left is replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from ray_asd import tables
from ray_asd.archive import store
from ray_asd.errors import BadInput

COMMITS = pa.schema(
    [
        ("uri", pa.string()),
        ("fingerprint", pa.string()),
        ("section_digest", pa.string()),
        ("final", pa.bool_()),
    ]
)
"""``final`` is false for a rejection that may pass: the recording is tried again in later runs."""

PLANNED = pa.schema([*tables.RECORDINGS, ("shard", pa.string()), ("shard_recordings", pa.int32())])
"""A plan's row: a recording, its shard, and how many recordings that has."""

# A shard travels through the stages as one block; past this its embeddings might be split.
_MOST_SHARD_BYTES = 256_000_000


@dataclass(frozen=True)
class Plan:
    """What one run scores, and what its rows say of the run."""

    run_id: str
    night: str
    bundle_id: str
    recordings: pa.Table
    """Columns of :data:`PLANNED`."""

    def shards(self) -> dict[str, pa.Table]:
        """Recordings by shard, each within one machine type."""
        found: dict[str, pa.Table] = {}
        names = self.recordings["shard"].to_pylist()
        for start, stop in _runs(names):
            found[names[start]] = self.recordings.slice(start, stop - start).combine_chunks()
        return found


def freeze(
    uri: str, recordings: pa.Table, *, run_id: str, night: str, bundle_id: str, rows: int
) -> Plan:
    """Write down what a run will score, in shards of at most ``rows`` recordings.

    A shard lies within one machine type; its name follows from its recordings and the run.
    Nothing is written where there is nothing to score.
    """
    recordings = recordings.sort_by([("machine_type", "ascending"), ("uri", "ascending")])
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
    plan = Plan(run_id, night, bundle_id, planned.cast(PLANNED))
    if not recordings.num_rows:
        return plan
    about = {"run_id": run_id, "night": night, "bundle_id": bundle_id}
    sink = pa.BufferOutputStream()
    pq.write_table(plan.recordings.replace_schema_metadata(about), sink, compression="zstd")
    folder = store.join(uri, "ledger", "plans")
    store.make_dir(folder)
    store.make_dir(store.join(uri, "ledger", "shards"))
    store.write_atomic(store.join(folder, f"{run_id}.parquet"), sink.getvalue().to_pybytes())
    return plan


def unfinished(uri: str) -> Plan | None:
    """The oldest plan under ``uri`` that is not finished.

    Raises:
        BadInput: it cannot be read.
    """
    folder = store.join(uri, "ledger", "plans")
    if not store.is_folder(folder):
        return None
    there = {entry.relative for entry in store.list_files(folder)}
    for name in sorted(name for name in there if name.endswith(".parquet")):
        if name.replace(".parquet", ".done") in there:
            continue
        place = store.join(folder, name)
        try:
            table = pq.read_table(pa.BufferReader(store.read_bytes(place)))
        except pa.ArrowException as error:
            raise BadInput(f"{place}: not a plan: {str(error).splitlines()[0]}") from None
        tables.validate(table.schema, PLANNED, place)
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        return Plan(
            about["run_id"],
            about["night"],
            about["bundle_id"],
            table.select(PLANNED.names).cast(PLANNED),
        )
    return None


def pending(uri: str, plan: Plan) -> dict[str, pa.Table]:
    """The plan's shards that have no commit record."""
    if not plan.recordings.num_rows:
        return {}
    folder = store.join(uri, "ledger", "shards")
    there = {entry.relative for entry in store.list_files(folder)}
    return {name: shard for name, shard in plan.shards().items() if f"{name}.parquet" not in there}


def commit(uri: str, shard: str, rows: list[dict[str, Any]]) -> None:
    """Say that a shard's parts are written; ``rows`` as :data:`COMMITS`."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, COMMITS), sink, compression="zstd")
    place = store.join(uri, "ledger", "shards", f"{shard}.parquet")
    store.write_atomic(place, sink.getvalue().to_pybytes())


def finish(uri: str, plan: Plan) -> None:
    """Say that all of a plan's shards are committed."""
    store.write_atomic(store.join(uri, "ledger", "plans", f"{plan.run_id}.done"), b"")


def without_done(
    uri: str, recordings: pa.Table, digests: Mapping[tuple[str, str], str]
) -> pa.Table:
    """The recordings that are neither scored nor finally rejected under their section's digest.

    Args:
        uri: the scores table.
        recordings: a manifest's rows.
        digests: section digests by (machine type, section); unknown ones have an empty digest.
    """
    folder = store.join(uri, "ledger", "shards")
    if not store.is_folder(folder) or not recordings.num_rows:
        return recordings
    filesystem, path = store.resolve(folder)
    commits = pd.dataset(path, filesystem=filesystem, format="parquet", schema=COMMITS)
    asked = pa.table(
        {
            "uri": recordings["uri"],
            "fingerprint": recordings["fingerprint"],
            "section_digest": _digests_of(recordings, digests),
            "row": pa.array(np.arange(recordings.num_rows)),
        }
    )
    # What is done passes by and is never held, however many nights it holds.
    done = commits.filter(pd.field("final"))
    left = done.join(pd.dataset(asked), keys=list(_KEY), join_type="right anti").to_table()
    return recordings.take(left["row"].combine_chunks().sort())


_KEY = ("uri", "fingerprint", "section_digest")


def _digests_of(
    recordings: pa.Table, digests: Mapping[tuple[str, str], str]
) -> pa.ChunkedArray | pa.Array:
    machines, sections = (
        recordings[name].combine_chunks().dictionary_encode()
        for name in ("machine_type", "section")
    )
    width = max(1, len(sections.dictionary))
    pairs = pc.add(pc.multiply(machines.indices.cast(pa.int64()), width), sections.indices)
    table = [
        digests.get((machine, section), "")
        for machine in machines.dictionary.to_pylist()
        for section in sections.dictionary.to_pylist()
    ]
    return pa.array(table, pa.string()).take(pairs)


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
