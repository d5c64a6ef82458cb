"""The manifest: one row a recording, and the choices made on it by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_asd.archive import store
from ray_asd.archive.listing import Listing
from ray_asd.errors import BadInput
from ray_asd.tables import DOMAINS, LABELS, RECORDINGS, SPLITS, validate

_HINT = "make a manifest with `ray-asd index`"
_WORDS = {"domain": DOMAINS, "split": SPLITS, "label": LABELS}

# Rows written and read at once, and bytes of a column.
_ROW_GROUP = 100_000
_BATCH = 20_000
_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True)
class Index:
    """What an archive holds."""

    table: pa.Table
    """One row a recording, schema :data:`ray_asd.tables.RECORDINGS`, in the order of listing."""
    skipped: list[str] = field(default_factory=list)
    """Audio files whose name does not fit the layout, relative to the root."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, one line each."""


def build(root: str, layout: str = "dcase") -> Index:
    """List the folder or bucket ``root`` and read every recording's name.

    All rows are held at once; :class:`ray_asd.archive.listing.Listing` gives them as they come.

    Raises:
        BadInput: no such folder, no audio in it, no name that fits, a malformed csv or template.
    """
    listing = Listing(root, layout)
    table = pa.concat_tables(listing.tables())
    return Index(table, listing.skipped, listing.notes())


def write(rows: pa.Table | Iterable[pa.Table], path: str) -> None:
    """Write a manifest as Parquet, whole or not at all; of several tables, one after the other.

    Raises:
        BadInput: the file cannot be written.
    """
    some = [rows] if isinstance(rows, pa.Table) else rows
    try:
        with (
            store.written_whole(path) as file,
            pq.ParquetWriter(file, RECORDINGS, compression="zstd") as writer,
        ):
            for table in _apart(some):
                writer.write_table(table.cast(RECORDINGS), row_group_size=_ROW_GROUP)
    except _NoRows as error:
        raise error.why from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from None


def read(path: str) -> pa.Table:
    """Read a manifest; its columns come in the order and types of the contract.

    Raises:
        BadInput: no such file, not Parquet, or not a manifest.
    """
    table = pa.concat_tables([RECORDINGS.empty_table(), *scan(path)])
    refuse_doubled(path, len(table) - pc.count_distinct(table["uri"]).as_py(), len(table))
    return table


def row_groups(path: str) -> list[int]:
    """How many rows each row group of a manifest has.

    Raises:
        BadInput: no such file, not Parquet, or not a manifest.
    """
    with _opened(path) as file:
        about = file.metadata
        return [about.row_group(n).num_rows for n in range(about.num_row_groups)]


def scan(path: str, groups: Sequence[int] | None = None) -> Iterator[pa.Table]:
    """A manifest's rows as they are read, some at a time, or those of some of its row groups.

    That no uri stands in it twice is not checked.

    Raises:
        BadInput: no such file, not Parquet, or not a manifest.
    """
    with _opened(path) as file:
        chosen = range(file.metadata.num_row_groups) if groups is None else groups
        for batch in file.iter_batches(_BATCH, list(chosen), columns=RECORDINGS.names):
            try:
                table = pa.table(batch).select(RECORDINGS.names).cast(RECORDINGS)
            except (pa.ArrowException, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise BadInput(f"{path}: not a manifest: {reason}; {_HINT}") from None
            if any(_strange(table, column) for column in _WORDS):
                _refuse_strange(path, file)
            yield table


def refuse_doubled(path: str, doubled: int, rows: int) -> None:
    """Refuse a manifest of whose rows some name a uri again.

    Raises:
        BadInput: ``doubled`` is not 0.
    """
    if doubled:
        raise BadInput(f"{path}: {doubled} of its {rows} rows name a uri again; {_HINT}")


class _NoRows(Exception):
    def __init__(self, why: OSError) -> None:
        self.why = why


def _apart(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables; an error that comes with them is not one of the file that they are written to."""
    try:
        yield from tables
    except OSError as error:
        raise _NoRows(error) from None


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """The file, whose schema is a manifest's; what cannot be read of it is :class:`BadInput`."""
    filesystem, place = store.resolve(path)
    if store.stat(path) is None:
        raise BadInput(f"{path}: there is no such file or folder; {_HINT}")
    try:
        with (
            filesystem.open_input_file(place) as source,
            pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            try:
                validate(file.schema_arrow, RECORDINGS, path)
            except BadInput as error:
                raise BadInput(f"{error}; {_HINT}") from None
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path}: cannot be read as Parquet ({reason}); {_HINT}") from None


def _strange(table: pa.Table, column: str) -> set[str]:
    return set(pc.unique(table[column]).to_pylist()) - set(_WORDS[column])


def _refuse_strange(path: str, file: pq.ParquetFile) -> NoReturn:
    """Name the word that all rows together would name, wherever the reading has come to."""
    words = file.read(columns=list(_WORDS))
    column = next(column for column in _WORDS if _strange(words, column))
    allowed = ", ".join(_WORDS[column])
    word = min(_strange(words, column))
    raise BadInput(f"{path}: {column} {word!r} is none of {allowed}; {_HINT}")


def training(table: pa.Table) -> pa.Table:
    """The normal clips to learn from: the train split but for clips labelled anomaly.

    A train clip whose label is unknown is taken as normal, as archives record their training
    data; one labelled anomaly is never learnt from.
    """
    return table.filter(pa.array(_normal_training(table)))


def in_hash_order(table: pa.Table) -> pa.Table:
    """The rows by a hash of their uris: any run of them is then a fair sample."""
    hashes = [hashlib.sha256(uri.encode()).hexdigest() for uri in table["uri"].to_pylist()]
    return table.take(pa.array(np.argsort(hashes, kind="stable")))


def held_out(table: pa.Table, share: float) -> npt.NDArray[np.bool_]:
    """Which rows are training clips that the encoder never sees: (rows,).

    Of the n training clips of each (machine type, section, domain), the ``share``·n, rounded
    half up, whose hash is lowest, and never all n. The hash is that of machine type, section
    and file name, so that moving an archive changes nothing.
    """
    chosen = np.zeros(len(table), dtype=np.bool_)
    groups: dict[tuple[str, str, str], list[int]] = {}
    keys = _keys(table)
    for row in np.flatnonzero(_normal_training(table)).tolist():
        groups.setdefault(keys.groups[row], []).append(row)
    for rows in groups.values():
        count = min(int(np.floor(len(rows) * share + 0.5)), len(rows) - 1)
        rows.sort(key=keys.order)
        chosen[rows[:count]] = True
    return chosen


def identities(table: pa.Table) -> list[str]:
    """16 hexadecimal digits for each row, by the hash of :func:`held_out`."""
    return [digest.hex()[:16] for digest in _keys(table).digests]


@dataclass(frozen=True)
class _Keys:
    groups: Sequence[tuple[str, str, str]]
    digests: Sequence[bytes]
    uris: Sequence[str]

    def order(self, row: int) -> tuple[bytes, str]:
        return self.digests[row], self.uris[row]


def _keys(table: pa.Table) -> _Keys:
    uris = table["uri"].to_pylist()
    columns = (table[name].to_pylist() for name in ("machine_type", "section", "domain"))
    groups = list(zip(*columns, strict=True))
    digests = [
        hashlib.sha256(f"{machine_type}/{section}/{store.name(uri)}".encode()).digest()
        for (machine_type, section, _), uri in zip(groups, uris, strict=True)
    ]
    return _Keys(groups, digests, uris)


def _normal_training(table: pa.Table) -> npt.NDArray[np.bool_]:
    mask = pc.and_(pc.equal(table["split"], "train"), pc.not_equal(table["label"], "anomaly"))
    return np.asarray(mask, dtype=np.bool_)
