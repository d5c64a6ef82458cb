"""What is done, so that nothing is lost and nothing is scored twice.

Under ``SCORES/ledger/``:

``plans/<run_id>/<number>.parquet``
    A part of a run's plan: recordings that it will score, each in a shard; the rows of a shard
    stand together.
``plans/<run_id>.json``
    The plan is frozen, and which parts it has. Written after them and before the first recording
    is scored; whoever comes after a crash finishes it before anything is listed anew. Parts
    without it were never frozen: they count for nothing, and the next run removes them.
``plans/<run_id>.done``
    The plan is finished.
``plans/<run_id>.parquet``
    A plan that is its own only part, as earlier versions wrote it.
``planning/<run_id>/``
    What a run sets aside while it plans a large archive; removed when the plan is frozen.
``shards/<shard>.parquet``
    A shard's commit record: written last, after its parts. A shard without one is scored again,
    into parts of the same names, so that what a crash left is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from ray_asd.archive import store

COMMITS = pa.schema(
    [
        ("uri", pa.string()),
        ("fingerprint", pa.string()),
        ("section_digest", pa.string()),
        ("final", pa.bool_()),
    ]
)
"""``final`` is false for a rejection that may pass: the recording is tried again in later runs."""

_KEY = ("uri", "fingerprint", "section_digest")


def commit(uri: str, shard: str, rows: list[dict[str, Any]]) -> None:
    """Say that a shard's parts are written; ``rows`` as :data:`COMMITS`."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, COMMITS), sink, compression="zstd")
    place = store.join(_shards(uri), f"{shard}.parquet")
    store.write_atomic(place, sink.getvalue().to_pybytes())


def committed(uri: str) -> Iterator[str]:
    """Names of the shards under ``uri`` that have a commit record."""
    folder = _shards(uri)
    if store.is_folder(folder):
        for entry in store.list_files(folder):
            name, _, ending = entry.relative.rpartition(".")
            if ending == "parquet":
                yield name


def done(uri: str, shards: Sequence[str] | None = None) -> pd.Dataset | None:
    """What was scored or finally rejected, as :data:`COMMITS`; None where nothing ever was.

    Args:
        uri: the scores table.
        shards: whose commit records are read; all if None.
    """
    folder = _shards(uri)
    if not store.is_folder(folder):
        return None
    filesystem, path = store.resolve(folder)
    files = path if shards is None else [f"{path}/{name}.parquet" for name in shards]
    commits = pd.dataset(files, filesystem=filesystem, format="parquet", schema=COMMITS)
    return commits.filter(pd.field("final"))


def without(
    done: pd.Dataset | None, recordings: pa.Table, digests: Mapping[tuple[str, str], str]
) -> pa.Table:
    """The recordings that are neither scored nor finally rejected under their section's digest.

    Args:
        done: as :func:`done` gives it. It passes by and is never held, however much it is.
        recordings: a manifest's rows.
        digests: section digests by (machine type, section); unknown ones have an empty digest.
    """
    if done is None or not recordings.num_rows:
        return recordings
    asked = pa.table(
        {
            "uri": recordings["uri"],
            "fingerprint": recordings["fingerprint"],
            "section_digest": _digests_of(recordings, digests),
            "row": pa.array(np.arange(recordings.num_rows)),
        }
    )
    left = done.join(pd.dataset(asked), keys=list(_KEY), join_type="right anti").to_table()
    return recordings.take(left["row"].combine_chunks().sort())


def _shards(uri: str) -> str:
    return store.join(uri, "ledger", "shards")


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
