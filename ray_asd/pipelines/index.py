"""An archive → its manifest."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray_asd import console
from ray_asd.archive import manifest


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
    found = listing(root, layout)
    manifest.write(found.table, out)
    machines: dict[str, Counter[str]] = {}
    columns = (found.table[name].to_pylist() for name in ("machine_type", "split"))
    for machine_type, split in zip(*columns, strict=True):
        machines.setdefault(machine_type, Counter())[split] += 1
    return {
        "manifest": out,
        "recordings": found.table.num_rows,
        "machines": {name: dict(sorted(by.items())) for name, by in sorted(machines.items())},
        "left_out": found.skipped,
    }


def listing(root: str, layout: str) -> manifest.Index:
    """What the archive holds; what a person should know of it is said.

    Raises:
        BadInput: as :func:`index`.
    """
    found = manifest.build(root, layout)
    for line in found.notes:
        console.warn(line)
    console.warn_some(f"{root}: the name does not fit the layout {layout}", found.skipped)
    return found
