"""Published data sets: the Zenodo records that they consist of, and the files in those."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import quote

from ray_asd.archive import store
from ray_asd.archive.fetch import Remote, fetch_json
from ray_asd.errors import BadInput, RunFailed

ORIGIN = "https://zenodo.org"


@dataclass(frozen=True)
class Record:
    """One record, and how its zips are named: the pattern's group is the machine type."""

    number: int
    zips: str


# Names, sizes and checksums come from the records themselves.
DATASETS = {
    "dcase2023": (
        Record(7882613, r"dev_(\w+)\.zip"),  # development
        Record(7830345, r"eval_data_(\w+)_train\.zip"),  # additional training
        Record(7860847, r"eval_data_(\w+)_test\.zip"),  # evaluation
    ),
}


def records(dataset: str) -> tuple[Record, ...]:
    """The records of a data set.

    Raises:
        BadInput: there is no such data set.
    """
    if dataset not in DATASETS:
        raise BadInput(f"{dataset}: there is no such data set; there are {', '.join(DATASETS)}")
    return DATASETS[dataset]


def page(record: Record) -> str:
    """The address of a record's page: licence, authors, how to cite."""
    return f"{ORIGIN}/records/{record.number}"


def zips_by_machine(dataset: str, kept: Path, stop: Event) -> dict[str, list[Remote]]:
    """The zips of each machine type, in the order of the records.

    A record's list of files is kept in the folder ``kept`` and asked for once: what a record's
    number names never changes, a new version is a new record.

    Raises:
        BadInput: there is no such data set.
        RunFailed: a record cannot be had, or is not what it was.
    """
    found: dict[str, list[Remote]] = {}
    for record in records(dataset):
        named = [(re.fullmatch(record.zips, r.name), r) for r in _files(record, kept, stop)]
        zips = [(match[1], remote) for match, remote in named if match]
        if not zips:
            raise RunFailed(f"{page(record)}: no file there is named as {record.zips}")
        for machine_type, remote in zips:
            found.setdefault(machine_type, []).append(remote)
    return dict(sorted(found.items()))


def _files(record: Record, kept: Path, stop: Event) -> list[Remote]:
    url, file = f"{ORIGIN}/api/records/{record.number}", kept / f"record_{record.number}.json"
    # Of a list that cannot be read a new one is asked for.
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _remotes(record, json.loads(file.read_bytes()))
    answer = fetch_json(url, stop)
    try:
        remotes = _remotes(record, answer)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(
            f"{url}: not the description of a record ({type(error).__name__}: {error}); see "
            f"{page(record)}"
        ) from None
    listed = [{"key": r.name, "size": r.bytes, "checksum": r.checksum} for r in remotes]
    store.write_atomic(str(file), json.dumps({"files": listed}, indent=1).encode())
    return remotes


def _remotes(record: Record, answer: object) -> list[Remote]:
    """The files that a record's description (Zenodo's REST API) lists.

    Their addresses are those of the record's page: the API's own answer no range requests.
    """
    if not isinstance(answer, dict):
        raise TypeError("no object")
    return [
        Remote(
            name=file["key"],
            url=f"{page(record)}/files/{quote(file['key'])}?download=1",
            bytes=int(file["size"]),
            checksum=_checksum(file["checksum"]),
        )
        for file in answer["files"]
    ]


def _checksum(text: str) -> str:
    if not re.fullmatch(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})", text):
        raise ValueError(f"{text!r} is no checksum")
    return text
