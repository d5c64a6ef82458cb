"""A scores table on disk: two Parquet datasets that any reader opens with one glob.

``SCORES/scores/`` and ``SCORES/rejections/``, each hive-partitioned by night and machine type,
and one ``runs/<run_id>.json`` per run. A part is whole from the moment it can be seen, and is
never edited: a changed recording gets a new row.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from ray_asd import tables
from ray_asd.archive import store
from ray_asd.errors import BadInput

PARTITIONS = ("night", "machine_type")
HIVE = pd.partitioning(pa.schema([(name, pa.string()) for name in PARTITIONS]), flavor="hive")
CONTRACTS = {"scores": tables.SCORES, "rejections": tables.REJECTIONS}


def publish(
    rows: list[dict[str, Any]], kind: str, uri: str, *, night: str, machine_type: str, name: str
) -> None:
    """Make ``rows`` the part ``name`` of the dataset ``kind`` (scores or rejections) of ``uri``.

    All rows are of one night and machine type. Whatever part of this name a crash left there is
    replaced, or removed where there are no rows now.
    """
    place = {"night": night, "machine_type": machine_type}
    folder = store.join(uri, kind, *(f"{key}={_escape(place[key])}" for key in PARTITIONS))
    part = store.join(folder, f"{name}.parquet")
    if not rows:
        store.remove(part)
        return
    store.make_dir(folder)
    table = pa.Table.from_pylist(rows, CONTRACTS[kind]).drop_columns(list(PARTITIONS))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.write_atomic(part, sink.getvalue().to_pybytes())


def _escape(value: str) -> str:
    """A machine type as one folder's name, as hive and pyarrow write it."""
    return quote(value, safe=" ") or "__HIVE_DEFAULT_PARTITION__"


def read_scores(uri: str, *, latest: bool = True, ensemble: str | None = None) -> pa.Table:
    """Read the scores under ``uri``; columns as in ``tables.SCORES``.

    Args:
        uri: what ``ray-asd score`` wrote.
        latest: keep only the newest row per (uri, start_s, ensemble).
        ensemble: rows of this ensemble only.

    Raises:
        BadInput: no scores there, or a table of another kind.

    >>> read_scores("scores").sort_by([("score", "descending")]).slice(0, 10)  # doctest: +SKIP
    """
    rows = _read(uri, "scores", list(tables.SCORES.names))
    if ensemble is not None:
        there = rows["ensemble"].unique().to_pylist()
        if ensemble not in there:
            raise BadInput(f"{uri}: no ensemble {ensemble}; there are {', '.join(sorted(there))}")
        rows = rows.filter(pc.equal(rows["ensemble"], ensemble))
    return _latest(rows) if latest else rows


def read_rejections(uri: str) -> pa.Table:
    """Read the rejections under ``uri``; columns as in ``tables.REJECTIONS``, maybe no rows.

    Args:
        uri: what ``ray-asd score`` wrote.

    Raises:
        BadInput: a table of another kind.

    >>> read_rejections("scores of nothing").num_rows
    0
    """
    if not store.exists(store.join(uri, "rejections")):
        return tables.REJECTIONS.empty_table()
    return _read(uri, "rejections", list(tables.REJECTIONS.names))


def scan(uri: str, columns: Sequence[str], rows: pd.Expression) -> Iterator[pa.RecordBatch]:
    """The scores of some rows, batch by batch; nothing where there are no scores."""
    if not store.exists(store.join(uri, "scores")):
        return
    dataset = _dataset(uri, "scores")
    yield from dataset.to_batches(columns=list(columns), filter=rows)


def ensembles(uri: str, rows: pd.Expression) -> list[str]:
    """Names of the ensembles that some rows are of, in their order."""
    found: set[str] = set()
    for batch in scan(uri, ["ensemble"], rows):
        found.update(batch["ensemble"].unique().to_pylist())
    return sorted(found)


def write_run(uri: str, run: dict[str, Any]) -> None:
    """Write down what a run did: counts, times, versions."""
    folder = store.join(uri, "runs")
    store.make_dir(folder)
    text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
    store.write_atomic(store.join(folder, f"{run['run_id']}.json"), text.encode())


def read_run(uri: str, run_id: str) -> dict[str, Any] | None:
    """What :func:`write_run` wrote for this run, or None where it is not there."""
    place = store.join(uri, "runs", f"{run_id}.json")
    if not store.exists(place):
        return None
    run: dict[str, Any] = json.loads(store.read_bytes(place))
    return run


def last_run(uri: str) -> dict[str, Any] | None:
    """What the last run under ``uri`` wrote, or None where there was none."""
    folder = store.join(uri, "runs")
    if not store.is_folder(folder):
        return None
    names = [e.relative for e in store.list_files(folder) if e.relative.endswith(".json")]
    # Their names begin with the time at which they began.
    return read_run(uri, max(names).removesuffix(".json")) if names else None


def _read(uri: str, kind: str, columns: list[str]) -> pa.Table:
    return _dataset(uri, kind).to_table(columns=columns)


def _dataset(uri: str, kind: str) -> pd.Dataset:
    """The parts of one kind, checked against their contract.

    Raises:
        BadInput: there are none, or they are a table of another kind.
    """
    folder = store.join(uri, kind)
    filesystem, path = store.resolve(folder)
    if not store.exists(folder):
        raise BadInput(f"{uri}: holds no {kind}; name the folder that `ray-asd score` wrote")
    try:
        dataset = pd.dataset(path, filesystem=filesystem, format="parquet", partitioning=HIVE)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{folder}: cannot be read: {str(error).splitlines()[0]}") from None
    if dataset.files:
        tables.validate(dataset.schema, CONTRACTS[kind], folder)
        return dataset
    empty = CONTRACTS[kind].empty_table()
    return pd.dataset(empty)


def _latest(rows: pa.Table) -> pa.Table:
    """The newest row per (uri, start_s, ensemble), in the order of uri and start."""
    keys = ["uri", "start_s", "ensemble"]
    order = [(key, "ascending") for key in keys]
    rows = rows.sort_by([*order, ("scored_at", "descending")])
    seen: set[tuple[Any, ...]] = set()
    keep = []
    for key in zip(*(rows[k].to_pylist() for k in keys), strict=True):
        keep.append(key not in seen)
        seen.add(key)
    return rows.filter(pa.array(keep, pa.bool_()))
