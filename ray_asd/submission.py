"""A system's scores as the challenge's files, in the form that :mod:`ray_asd.challenge` reads."""

import csv
import io
import os
from collections.abc import Iterable

import pyarrow as pa

from ray_asd.archive import store
from ray_asd.challenge import file_name
from ray_asd.errors import BadInput

KINDS = {"anomaly_score": "score", "decision_result": "decision"}
"""Files of the challenge, and the column of the scores table that each holds."""


def write(table: pa.Table, folder: str) -> list[str]:
    """Write ``anomaly_score_…csv`` and ``decision_result_…csv`` of each (machine type, section).

    A line is a clip's official file name and a number, without a header (DCASE 2023 Challenge
    Task 2, submission). Numbers are written in as many digits as they have, so that what is read
    back is the same to the last one. Whatever the archive keeps its recordings in, the official
    names end in ``.wav``.

    Args:
        table: one ensemble's rows of a scores table, of test clips.
        folder: made if it is not there.

    Returns:
        The names of the files.

    Raises:
        BadInput: two clips of a section would share a name, a section has no name in the
            challenge's form, or ``folder`` holds files of other sections.
    """
    files: dict[str, str] = {}
    keys = list(zip(table["machine_type"].to_pylist(), table["section"].to_pylist(), strict=True))
    for key in sorted(set(keys)):
        own = table.filter(pa.array([k == key for k in keys])).sort_by("uri")
        names = _clips(own["uri"].to_pylist())
        for kind, column in KINDS.items():
            files[file_name(kind, *key)] = _csv(names, own[column].to_pylist())
    store.make_dir(folder)
    _refuse_others(folder, files)
    for name, text in files.items():
        store.write_atomic(store.join(folder, name), text.encode())
    return list(files)


def _clips(uris: list[str]) -> list[str]:
    names: dict[str, str] = {}
    for uri in uris:
        name = f"{os.path.splitext(store.name(uri))[0]}.wav"
        if name in names:
            raise BadInput(
                f"{uri}: its section has a clip {name} already, of {names[name]}; the challenge "
                "knows one score a file name"
            )
        names[name] = uri
    return list(names)


def _csv(names: Iterable[str], values: Iterable[float]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerows((name, repr(value)) for name, value in zip(names, values, strict=True))
    return text.getvalue()


def _refuse_others(folder: str, files: dict[str, str]) -> None:
    for entry in store.list_files(folder):
        if entry.relative not in files and entry.relative.startswith(tuple(KINDS)):
            raise BadInput(
                f"{entry.uri}: is of no section of these scores, and `evaluate` would count it "
                "in; name an empty folder"
            )
