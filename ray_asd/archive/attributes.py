"""The attribute tables of a DCASE archive: ``<machine>/attributes_NN.csv``.

Columns ``file_name,d1p,d1v,d2p,d2v,…``: a clip and, in turn, the names and values of its
attributes. The file name is that of the official WAV; clips are found by split and name without
extension, so that a FLAC of the same recording matches too.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterator

from ray_asd.archive import store
from ray_asd.archive.layout import Named
from ray_asd.errors import BadInput

_NAME = re.compile(r"attributes_\d+\.csv", re.IGNORECASE)
_NONE = ("", "noAttribute")
_Clip = tuple[str, str]  # split, name without extension


class AttributeTables:
    """The attribute tables that a walk over an archive meets, and where they differ from names.

    A walk meets a folder's own files before its folders': the tables of a machine before its
    clips. So those of folders that it has left are forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[_Clip, tuple[str, dict[str, str]]]] = {}
        self._differing: dict[str, tuple[int, str]] = {}

    @staticmethod
    def recognizes(entry: store.Entry) -> bool:
        """Whether ``entry`` is named as an attribute table."""
        return _NAME.fullmatch(posixpath.basename(entry.relative)) is not None

    def add(self, entry: store.Entry) -> None:
        """Read one table.

        Raises:
            BadInput: it is malformed; names the file and the line.
        """
        folder = posixpath.dirname(entry.relative)
        above = {folder, *_above(folder)}
        self._known = {name: known for name, known in self._known.items() if name in above}
        known = self._known.setdefault(folder, {})
        for file_name, attributes in _rows(entry.uri):
            known[_clip(file_name)] = entry.relative, attributes

    def attributes(self, entry: store.Entry, named: Named) -> dict[str, str]:
        """The clip's attributes: the table's where it lists the clip, or else the name's."""
        folder = posixpath.dirname(posixpath.dirname(entry.relative))
        found = self._known.get(folder, {}).get(_clip(entry.relative))
        if found is None:
            return named.attributes
        table, attributes = found
        # A name that carries none (an unlabelled clip) contradicts nothing.
        if named.attributes and named.attributes != attributes:
            count, first = self._differing.get(table, (0, entry.relative))
            self._differing[table] = count + 1, first
        return attributes

    def notes(self) -> list[str]:
        """One line for each table that differs from the names seen by :meth:`attributes`."""
        return [
            f"{table}: differs from the attributes in the names of {count} recordings "
            f"(the first: {first}); the table's are used"
            for table, (count, first) in self._differing.items()
        ]


def _above(folder: str) -> Iterator[str]:
    """The folders above ``folder``, to the one that the walk began in."""
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def _rows(uri: str) -> list[tuple[str, dict[str, str]]]:
    try:
        text = store.read_bytes(uri).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{uri}: not a table of attributes: {error}; mend or remove it") from None
    header = [title.strip() for title in lines[0]] if lines else []
    pairs = [f"d{n // 2 + 1}{'pv'[n % 2]}" for n in range(len(header) - 1)]
    if header != ["file_name", *pairs] or len(pairs) % 2:
        raise BadInput(
            f"{uri}: not a table of attributes: its first line is {','.join(header)[:80]!r}, "
            "and should be file_name,d1p,d1v,…; mend or remove it"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) > len(header) or not cells[0]:
            raise BadInput(
                f"{uri}: line {number} has {len(cells)} cells and the file name {cells[0]!r}, "
                f"for {len(header)} columns; mend or remove it"
            )
        # Values may be left out, and with them the rest of the line.
        found = zip(cells[1::2], cells[2::2], strict=False)
        rows.append((cells[0], {k: v for k, v in found if k not in _NONE and v not in _NONE}))
    return rows


def _clip(file_name: str) -> _Clip:
    folder, base = posixpath.split(file_name.replace("\\", "/"))
    return posixpath.basename(folder), posixpath.splitext(base)[0]
