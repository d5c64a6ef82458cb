"""The Parquet parts of a scores table: a few columns and a few thousand rows at a time.

:func:`ray_asd.read_scores` holds a table whole; what is built from here holds one stretch of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from ray_asd import tables
from ray_asd.archive import store
from ray_asd.errors import BadInput
from ray_asd.scores import CONTRACTS, HIVE, PARTITIONS

# Tasks of about a second each: a part of 64 rows takes some milliseconds to open.
_MOST_PARTS = 256
_MOST_BYTES = 64_000_000
_STRETCH_ROWS = 65_536


class Part(NamedTuple):
    """One Parquet file of a scores table; ``number`` is its place in the listing."""

    number: int
    uri: str
    bytes: int
    night: str
    machine_type: str


def list_parts(uri: str, kind: str) -> list[Part]:
    """Every part of the dataset ``kind`` (scores or rejections) of the scores table ``uri``.

    Raises:
        BadInput: there is no scores table, or it may not be read.
    """
    folder = store.join(uri, kind)
    if not store.is_folder(folder):
        if kind == "rejections":
            return []
        raise BadInput(f"{uri}: holds no {kind}; name the folder that `ray-asd score` wrote")
    parts: list[Part] = []
    for entry in store.list_files(folder):
        base = entry.relative.rpartition("/")[2]
        # What pyarrow's own datasets pass over: files that readers and writers put beside.
        if base.startswith("_") or not base.endswith(".parquet"):
            continue
        place = pd.get_partition_keys(HIVE.parse(entry.relative))
        named = [place.get(name) or "" for name in PARTITIONS]
        parts.append(Part(len(parts), entry.uri, entry.bytes, *named))
    return parts


def groups(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts in groups that a task reads in a second or so."""
    found: list[list[Part]] = []
    held = 0
    for part in parts:
        if not found or len(found[-1]) == _MOST_PARTS or held + part.bytes > _MOST_BYTES:
            found.append([])
            held = 0
        found[-1].append(part)
        held += part.bytes
    return found


def read(
    parts: Sequence[Part], kind: str, columns: Sequence[str], most_rows: int = _STRETCH_ROWS
) -> Iterator[pa.Table]:
    """Rows of ``parts`` in their order, in tables of little more than ``most_rows`` rows.

    Beside ``columns`` each has ``machine_type``, ``night``, and where the row stands: ``part``
    (its number) and ``row`` (in the part).

    Raises:
        BadInput: a part cannot be read, or is no part of a table of this kind.
    """
    held: list[pa.Table] = []
    rows = 0
    for part in parts:
        for table in _tables(part, kind, columns, most_rows):
            held.append(table)
            rows += table.num_rows
            if rows >= most_rows:
                yield pa.concat_tables(held)
                held, rows = [], 0
    if rows:
        yield pa.concat_tables(held)


def take(parts: Sequence[Part], kind: str, places: Sequence[tuple[int, int]]) -> list[Any]:
    """Whole rows, as dictionaries, in the order of ``places``: part number and row in it.

    Raises:
        BadInput: as :func:`read`.
    """
    numbered = {part.number: part for part in parts}
    wanted: dict[int, list[int]] = {}
    for number, row in places:
        wanted.setdefault(number, []).append(row)
    found = {}
    columns = [name for name in CONTRACTS[kind].names if name not in PARTITIONS]
    for number, rows in wanted.items():
        for table in _tables(numbered[number], kind, columns, _STRETCH_ROWS // 16):
            own = np.isin(np.asarray(table["row"]), rows)
            for row in table.filter(pa.array(own)).to_pylist():
                found[number, row["row"]] = row
    return [found[place] for place in places]


def _tables(part: Part, kind: str, columns: Sequence[str], most_rows: int) -> Iterator[pa.Table]:
    filesystem, path = store.resolve(part.uri)
    contract = pa.schema([CONTRACTS[kind].field(name) for name in columns])
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            tables.validate(file.schema_arrow, contract, part.uri)
            first = 0
            for batch in file.iter_batches(most_rows, columns=list(columns), use_threads=False):
                # Dictionaries and large strings are other writers' choices.
                table = pa.Table.from_batches([batch]).select(list(columns)).cast(contract)
                yield _placed(table, part, first)
                first += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{part.uri}: cannot be read: {str(error).splitlines()[0]}") from None


def _placed(table: pa.Table, part: Part, first: int) -> pa.Table:
    """``table`` with the columns that its part's place says."""
    rows: npt.NDArray[np.int64] = np.arange(first, first + table.num_rows, dtype=np.int64)
    said: dict[str, Any] = {
        "machine_type": pa.repeat(part.machine_type, table.num_rows),
        "night": pa.repeat(part.night, table.num_rows),
        "part": pa.array(np.full(table.num_rows, part.number, np.int32)),
        "row": pa.array(rows),
    }
    for name, column in said.items():
        table = table.append_column(name, column)
    return table
