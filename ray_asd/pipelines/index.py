"""An archive → its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ray_asd import console
from ray_asd.archive import manifest
from ray_asd.archive.listing import Listing


def index(root: str, out: str, *, layout: str = "dcase") -> dict[str, Any]:
    """List a folder or bucket, read its recordings' names, and write the manifest.

    Args:
        root: the folder.
        out: the manifest, a Parquet file.
        layout: ``dcase``, or a template such as ``{site}/{machine_type}/{section}/{file}``.

    Returns:
        Number of recordings, by machine type and split; files that are left out.

    Raises:
        BadInput: no such folder, no recordings in it, or no name that fits the layout.

    >>> from pathlib import Path
    >>> Path("plant/fan/train").mkdir(parents=True)
    >>> Path("plant/fan/train/section_00_source_train_normal_0000_load_3.wav").touch()
    >>> index("plant", "manifest.parquet")["machines"]
    {'fan': {'train': 1}}
    """
    listing = Listing(root, layout)
    machines: dict[str, Counter[str]] = {}
    manifest.write(_counted(listing, machines), out)
    tell(listing, root, layout)
    return {
        "manifest": out,
        "recordings": sum(by.total() for by in machines.values()),
        "machines": {name: dict(sorted(by.items())) for name, by in sorted(machines.items())},
        "left_out": listing.skipped,
    }


def tell(listing: Listing, root: str, layout: str) -> None:
    """Say what a person should know of an archive that was walked."""
    for line in listing.notes():
        console.warn(line)
    console.warn_some(f"{root}: the name does not fit the layout {layout}", listing.skipped)


def _counted(listing: Listing, machines: dict[str, Counter[str]]) -> Iterator[pa.Table]:
    """The listing's rows as they come, counted by machine type and split."""
    for table in listing.tables():
        columns = (table[name].to_pylist() for name in ("machine_type", "split"))
        for machine_type, split in zip(*columns, strict=True):
            machines.setdefault(machine_type, Counter())[split] += 1
        yield table
