"""The manifest: one row a recording, and the choices made on it by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_asd.archive import store
from ray_asd.archive.attributes import AttributeTables
from ray_asd.archive.layout import DcaseLayout, Named, layout_of
from ray_asd.errors import BadInput
from ray_asd.tables import DOMAINS, LABELS, RECORDINGS, SPLITS, validate

AUDIO = (".wav", ".flac")


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

    In the DCASE layout, the ``attributes_NN.csv`` beside the train and test folders are read
    too, and win over the names.

    Raises:
        BadInput: no such folder, no audio in it, no name that fits, a malformed csv or template.
    """
    naming = layout_of(layout)
    csvs = AttributeTables()
    rows: list[tuple[store.Entry, Named]] = []
    skipped: list[str] = []
    base = store.resolve(root)[1]
    for entry in store.list_files(root):
        if isinstance(naming, DcaseLayout) and csvs.recognizes(entry):
            csvs.add(entry)
        elif entry.relative.lower().endswith(AUDIO):
            named = naming.parse(entry.relative, base)
            if named is None:
                skipped.append(entry.relative)
            else:
                rows.append((entry, named))
    if not rows:
        raise BadInput(_nothing(root, layout, skipped))
    attributes = [csvs.attributes(entry, named) for entry, named in rows]
    return Index(_table(rows, attributes), skipped, csvs.notes())


def write(table: pa.Table, path: str) -> None:
    """Write a manifest as Parquet, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    try:
        store.write_atomic(path, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from None


def read(path: str) -> pa.Table:
    """Read a manifest; its columns come in the order and types of the contract.

    Raises:
        BadInput: no such file, not Parquet, or not a manifest.
    """
    hint = "make a manifest with `ray-asd index`"
    filesystem, place = store.resolve(path)
    if store.stat(path) is None:
        raise BadInput(f"{path}: there is no such file or folder; {hint}")
    try:
        found = pq.read_table(place, filesystem=filesystem, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path}: cannot be read as Parquet ({reason}); {hint}") from None
    try:
        validate(found.schema, RECORDINGS, path)
        table = found.select(RECORDINGS.names).cast(RECORDINGS)
    except BadInput as error:
        raise BadInput(f"{error}; {hint}") from None
    except (pa.ArrowException, ValueError) as error:
        raise BadInput(f"{path}: not a manifest: {str(error).splitlines()[0]}; {hint}") from None
    for column, allowed in (("domain", DOMAINS), ("split", SPLITS), ("label", LABELS)):
        strange = set(pc.unique(table[column]).to_pylist()) - set(allowed)
        if strange:
            raise BadInput(
                f"{path}: {column} {min(strange)!r} is none of {', '.join(allowed)}; {hint}"
            )
    doubled = len(table) - pc.count_distinct(table["uri"]).as_py()
    if doubled:
        raise BadInput(f"{path}: {doubled} of its {len(table)} rows name a uri again; {hint}")
    return table


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


def _table(rows: list[tuple[store.Entry, Named]], attributes: list[dict[str, str]]) -> pa.Table:
    columns = {
        "uri": [entry.uri for entry, _ in rows],
        "bytes": [entry.bytes for entry, _ in rows],
        "modified_ns": [entry.modified_ns for entry, _ in rows],
        "fingerprint": [entry.fingerprint for entry, _ in rows],
        "machine_type": [named.machine_type for _, named in rows],
        "section": [named.section for _, named in rows],
        "domain": [named.domain for _, named in rows],
        "split": [named.split for _, named in rows],
        "label": [named.label for _, named in rows],
        "attributes": [list(found.items()) for found in attributes],
        "recorded_at": [named.recorded_at for _, named in rows],
        "fields": [list(named.fields.items()) for _, named in rows],
    }
    return pa.table(columns, schema=RECORDINGS)


def _nothing(root: str, layout: str, skipped: list[str]) -> str:
    if not skipped:
        return f"{root}: there is no .wav or .flac file in it; give the folder of the recordings"
    return (
        f"{root}: none of its {len(skipped)} recordings is named as the layout {layout} says "
        f"(the first: {skipped[0]}); name the layout with --layout, such as "
        "'{machine_type}/{file}'"
    )
