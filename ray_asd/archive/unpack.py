"""Zips of recordings → a machine type's folder, whole or not at all."""

from __future__ import annotations

import calendar
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ray_asd import console
from ray_asd.errors import BadInput, RunFailed

RECEIPT = ".unpacked"


def unpack(zips: Sequence[Path], machine_type: str, folder: Path, receipt: str) -> None:
    """Unpack a machine type's zips into one folder, and leave ``receipt`` in it.

    Only what lies below a folder named ``machine_type`` is taken. A file's time is the one that
    the zip has, so that an archive unpacked anew has the same fingerprints.

    Args:
        zips: the files; where two bring the same name, the first one's stays.
        machine_type: the folder's name in the zips.
        folder: must not exist; it appears when all is there.
        receipt: what :func:`receipt_in` then reads.

    Raises:
        BadInput: the disk has no room for it.
        RunFailed: a zip is broken, holds no such folder, or a name that leads out of it.
    """
    # Hidden, so that no listing takes what a crash leaves behind for recordings.
    unfinished = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in zips:
        try:
            with zipfile.ZipFile(path) as archive:
                _extract(archive, machine_type, unfinished, path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise RunFailed(f"{path}: not a whole zip ({error}); remove it and run again") from None
    (unfinished / RECEIPT).write_text(receipt, "utf-8")
    # The rename must not outlast a power failure that its files do not.
    os.sync()
    unfinished.rename(folder)


def receipt_in(folder: Path) -> str | None:
    """The receipt that :func:`unpack` left in a folder, if it made the folder."""
    try:
        return (folder / RECEIPT).read_text("utf-8")
    except OSError:
        return None


def check_room(folder: Path, size: int, what: str) -> None:
    """Check that the disk has room.

    Raises:
        BadInput: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise BadInput(
            f"{folder}: {what} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make "
            "room, or name fewer machine types with --machine"
        )


def _extract(archive: zipfile.ZipFile, machine_type: str, into: Path, path: Path) -> None:
    members = list(_members(archive, machine_type, path))
    if not members:
        raise RunFailed(f"{path}: holds no folder {machine_type}; it is not the zip expected")
    check_room(into, sum(info.file_size for info, _ in members), f"unpacking {path.name}")
    for info, below in members:
        target = into.joinpath(below)
        if target.exists():
            console.warn(f"{path}: brings {machine_type}/{below} again; the first one is kept")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        os.utime(target, (_time(info), _time(info)))


def _time(info: zipfile.ZipInfo) -> int:
    """A member's time, seconds; zips know no zone, and some no date."""
    year, month, day, *clock = info.date_time
    return calendar.timegm((year, max(1, month), max(1, day), *clock))


def _members(
    archive: zipfile.ZipFile, machine_type: str, path: Path
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files below the machine type's folder, and their paths there."""
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        kind = stat.S_IFMT(info.external_attr >> 16)
        if (
            ".." in parts
            or info.filename.startswith("/")
            or "\\" in info.filename
            or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        ):
            raise RunFailed(
                f"{path}: {info.filename!r} in it is no plain file below its folder; it is not "
                "unpacked, remove it"
            )
        # What a Mac adds to the zips that it makes is hidden, or below __MACOSX.
        if info.is_dir() or machine_type not in parts[:-1] or parts[0] == "__MACOSX":
            continue
        below = parts[parts.index(machine_type) + 1 :]
        if not any(part.startswith(".") for part in below):
            yield info, PurePosixPath(*below)
