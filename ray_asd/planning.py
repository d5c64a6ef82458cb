"""What is to be scored of a large archive: found bucket by bucket, none larger than memory.

Recordings and commit records are set aside in buckets, by a hash of their uris; a bucket's
recordings less what is done are what is left of it; of what is left, the parts of a plan are
made. Each function here does one piece of one of these steps, needs memory for some
:data:`MOST_ROWS` rows whatever the archive holds, and may run anywhere that reaches the ledger.
What is set aside lies in one folder:

``asked/<number>.parquet``, ``done/<number>.parquet``
    A manifest's rows and the ledger's, with their bucket; a row group holds rows of one bucket.
``left/<bucket>.parquet``
    What is to be scored, in the order of the uris.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from ray_asd import ledger, plans, tables
from ray_asd.archive import manifest, store

MOST_ROWS = 250_000
"""Of a manifest, about this many rows are held at once."""

_BATCH = 10_000

_BUCKET = pa.field("bucket", pa.int32())
_WANTED = pa.field("wanted", pa.bool_())
_ASKED = pa.schema([*tables.RECORDINGS, _WANTED, _BUCKET])
_DONE = pa.schema([*ledger.COMMITS, _BUCKET])


@dataclass(frozen=True)
class Choice:
    """Which of a manifest's recordings a call asks for."""

    split: str | None = None
    since: datetime | None = None
    """recorded at this moment or later, or, where that is not known, last changed"""

    def of(self, recordings: pa.Table) -> pa.Table:
        """The rows that are asked for."""
        if self == Choice():
            return recordings
        return recordings.filter(self.among(recordings))

    def among(self, recordings: pa.Table) -> pa.Array:
        """True for each row that is asked for."""
        chosen = pa.array(np.ones(recordings.num_rows, np.bool_))
        if self.split is not None:
            chosen = pc.equal(recordings["split"], self.split)
        if self.since is not None:
            # In microseconds: a table of nanoseconds ends in the year 2262.
            changed = pc.divide(recordings["modified_ns"], 1000).cast(pa.timestamp("us", "UTC"))
            when = pc.coalesce(recordings["recorded_at"].cast(changed.type), changed)
            late = pc.greater_equal(when, pa.scalar(self.since, changed.type))
            chosen = pc.and_(chosen, late)
        return chosen


def set_recordings_aside(
    piece: Mapping[str, Any], source: str, place: str, buckets: int, choice: Choice
) -> dict[str, Any]:
    """Spread some row groups of a manifest over the buckets.

    Args:
        piece: ``number``, and ``groups``, the row groups.
        source: the manifest.
        place: where it is set aside.
        buckets: how many there are.
        choice: which rows are asked for; the others go along, so that doubled uris are found.

    Returns:
        ``asked``, how many rows are.

    Raises:
        BadInput: not a manifest.
    """
    asked = 0

    def marked() -> Iterator[pa.Table]:
        nonlocal asked
        for table in manifest.scan(source, piece["groups"]):
            wanted = choice.among(table)
            asked += pc.sum(wanted).as_py() or 0
            yield table.append_column(_WANTED, wanted)

    with _spread(store.join(place, "asked"), piece["number"], _ASKED, buckets) as write:
        for table in _gathered(marked()):
            write(table)
    return {"asked": asked}


def set_done_aside(piece: Mapping[str, Any], out: str, place: str, buckets: int) -> dict[str, Any]:
    """Spread some commit records over the buckets.

    Args:
        piece: ``number``, and ``shards``, whose records are read.
        out: the scores table.
        place: where it is set aside.
        buckets: how many there are.

    Returns:
        ``done``, how many rows are.
    """
    count = 0
    done = ledger.done(out, piece["shards"])
    batches = () if done is None else done.to_batches()
    with _spread(store.join(place, "done"), piece["number"], _DONE, buckets) as write:
        for table in _gathered(pa.Table.from_batches([batch]) for batch in batches):
            count += len(table)
            write(table)
    return {"done": count}


def subtract(
    piece: Mapping[str, Any], place: str, digests: Mapping[tuple[str, str], str], limit: int | None
) -> dict[str, Any]:
    """What is left of a bucket when what is done is subtracted.

    Args:
        piece: ``bucket``, its number.
        place: where it is set aside.
        digests: as for :func:`ledger.without`.
        limit: of what is left, this many at most are wanted, in the order of the uris.

    Returns:
        ``part``, where what is left lies; ``rows`` in it; ``left``, how many there are beyond the
        limit too; ``doubled``, how many rows of the bucket name a uri again; ``first``, a uri.
    """
    mine = pd.field(_BUCKET.name) == piece["bucket"]
    asked = _opened(store.join(place, "asked"), _ASKED).to_table(filter=mine)
    doubled = asked.num_rows - pc.count_distinct(asked["uri"]).as_py()
    wanted = asked.filter(asked[_WANTED.name]).select(tables.RECORDINGS.names)
    done = store.join(place, "done")
    of_bucket = _opened(done, _DONE).filter(mine) if store.is_folder(done) else None
    left = ledger.without(of_bucket, wanted, digests).sort_by("uri")
    kept = left.slice(0, limit)
    store.make_dir(store.join(place, "left"))
    part = store.join(place, "left", f"{piece['bucket']:05d}.parquet")
    with store.written_whole(part) as file:
        pq.write_table(kept, file, compression="zstd", row_group_size=_BATCH)
    first = kept["uri"][0].as_py() if len(kept) else ""
    return {
        "part": part, "rows": len(kept), "left": len(left), "doubled": doubled, "first": first
    }  # fmt: skip


def write_part(
    piece: Mapping[str, Any], out: str, run_id: str, rows: int, upto: str | None
) -> dict[str, Any]:
    """Make a part of a plan of what is left of some buckets.

    Args:
        piece: ``number``, and ``parts``, where what is left lies.
        out: the scores table.
        run_id: the run.
        rows: recordings in a shard, at most.
        upto: the last uri that is wanted; all if None.

    Returns:
        ``part``, where the plan's part lies.
    """
    held = [table for part in piece["parts"] for table in left_of(part, upto)]
    recordings = pa.concat_tables([tables.RECORDINGS.empty_table(), *held])
    return {"part": plans.write_part(out, run_id, piece["number"], recordings, rows)}


def left_of(
    part: str, upto: str | None = None, columns: Sequence[str] = tables.RECORDINGS.names
) -> Iterator[pa.Table]:
    """What is left of a bucket, some rows at a time, up to the uri ``upto``."""
    filesystem, path = store.resolve(part)
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
        for batch in file.iter_batches(_BATCH, columns=[*{"uri", *columns}]):
            table = pa.table(batch)
            kept = table if upto is None else table.filter(pc.less_equal(table["uri"], upto))
            if len(kept):
                yield kept.select(columns)
            if len(kept) < len(table):
                return


def uri_at(parts: Iterable[str], limit: int) -> str:
    """The uri that ``limit`` recordings come up to, of all that is left in their order."""
    in_order = heapq.merge(*(_uris(part) for part in parts))
    return next(islice(in_order, limit - 1, None))


def sums(recordings: Iterable[pa.Table]) -> dict[str, Any]:
    """``machines``, recordings by machine type, and their ``bytes``."""
    machines: Counter[str] = Counter()
    size = 0
    for table in recordings:
        size += pc.sum(table["bytes"]).as_py() or 0
        for row in table["machine_type"].value_counts().to_pylist():
            machines[row["values"]] += row["counts"]
    return {"machines": dict(machines), "bytes": size}


def _uris(part: str) -> Iterator[str]:
    for table in left_of(part, columns=["uri"]):
        yield from table["uri"].to_pylist()


def _opened(folder: str, schema: pa.Schema) -> pd.Dataset:
    filesystem, path = store.resolve(folder)
    return pd.dataset(path, filesystem=filesystem, format="parquet", schema=schema)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of as many rows as are held at once, of many small ones."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        if count >= MOST_ROWS:
            yield pa.concat_tables(held)
            held, count = [], 0
    if held:
        yield pa.concat_tables(held)


@contextmanager
def _spread(
    folder: str, number: int, schema: pa.Schema, buckets: int
) -> Iterator[Callable[[pa.Table], None]]:
    """Yields what writes rows into a file so that each of its row groups holds one bucket's.

    Its statistics then say which row groups hold a bucket, and a reader passes by the others.
    """
    store.make_dir(folder)
    with (
        store.written_whole(store.join(folder, f"{number:05d}.parquet")) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):

        def write(rows: pa.Table) -> None:
            hashes = np.array([crc32(uri.encode()) for uri in rows["uri"].to_pylist()], np.int64)
            mine = hashes % buckets
            order = np.argsort(mine, kind="stable")
            rows = rows.append_column(_BUCKET, pa.array(mine, _BUCKET.type)).take(pa.array(order))
            ends = np.searchsorted(mine[order], np.arange(buckets + 1))
            for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                if first < last:
                    writer.write_table(rows.slice(first, last - first).cast(schema))

        yield write
