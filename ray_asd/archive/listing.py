"""An archive's recordings as its listing shows them, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_asd.archive import store
from ray_asd.archive.attributes import AttributeTables
from ray_asd.archive.layout import DcaseLayout, Named, layout_of
from ray_asd.errors import BadInput
from ray_asd.tables import RECORDINGS

AUDIO = (".wav", ".flac")

# As Python objects these take some 25 MB.
_ROWS = 20_000

_Row = tuple[store.Entry, Named, dict[str, str]]


class Listing:
    """What a folder or bucket holds, in one walk over it.

    Args:
        root: the folder.
        layout: how names are read. In the DCASE layout, the ``attributes_NN.csv`` beside the
            train and test folders are read too, and win over the names.

    Raises:
        BadInput: no such layout.
    """

    def __init__(self, root: str, layout: str) -> None:
        self._root, self._layout = root, layout
        self._naming = layout_of(layout)
        self._csvs = AttributeTables()
        self.skipped: list[str] = []
        """Audio files met so far whose name does not fit the layout, relative to the root."""

    def tables(self) -> Iterator[pa.Table]:
        """Rows of the schema :data:`ray_asd.tables.RECORDINGS`, in the order of listing.

        Raises:
            BadInput: no such folder, no audio in it, no name that fits, a malformed csv.
        """
        rows: list[_Row] = []
        some = False
        for row in self._rows():
            rows.append(row)
            some = True
            if len(rows) == _ROWS:
                yield _table(rows)
                rows = []
        if rows:
            yield _table(rows)
        if not some:
            raise BadInput(self._nothing())

    def notes(self) -> list[str]:
        """What a person should know of what was met so far, one line each."""
        return self._csvs.notes()

    def _rows(self) -> Iterator[_Row]:
        base = store.resolve(self._root)[1]
        for entry in store.list_files(self._root):
            if isinstance(self._naming, DcaseLayout) and self._csvs.recognizes(entry):
                self._csvs.add(entry)
            elif entry.relative.lower().endswith(AUDIO):
                named = self._naming.parse(entry.relative, base)
                if named is None:
                    self.skipped.append(entry.relative)
                else:
                    yield entry, named, self._csvs.attributes(entry, named)

    def _nothing(self) -> str:
        if not self.skipped:
            return (
                f"{self._root}: there is no .wav or .flac file in it; "
                "give the folder of the recordings"
            )
        return (
            f"{self._root}: none of its {len(self.skipped)} recordings is named as the layout "
            f"{self._layout} says (the first: {self.skipped[0]}); name the layout with --layout, "
            "such as '{machine_type}/{file}'"
        )


def _table(rows: list[_Row]) -> pa.Table:
    columns = {
        "uri": [entry.uri for entry, _, _ in rows],
        "bytes": [entry.bytes for entry, _, _ in rows],
        "modified_ns": [entry.modified_ns for entry, _, _ in rows],
        "fingerprint": [entry.fingerprint for entry, _, _ in rows],
        "machine_type": [named.machine_type for _, named, _ in rows],
        "section": [named.section for _, named, _ in rows],
        "domain": [named.domain for _, named, _ in rows],
        "split": [named.split for _, named, _ in rows],
        "label": [named.label for _, named, _ in rows],
        "attributes": [list(attributes.items()) for _, _, attributes in rows],
        "recorded_at": [named.recorded_at for _, named, _ in rows],
        "fields": [list(named.fields.items()) for _, named, _ in rows],
    }
    return pa.table(columns, schema=RECORDINGS)
