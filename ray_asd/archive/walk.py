"""Every file under a folder: a folder's own files by name, then its folders' in theirs.

One folder is looked at a time, so that the first files come at once and memory holds a folder and
not the archive; of a folder in S3 without folders in it, a page of a thousand names. Hidden files
and folders (a leading dot) are left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from pyarrow import fs

from ray_asd.errors import BadInput

_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Found(NamedTuple):
    """One file as a walk meets it."""

    relative: str  # to where the walk began
    bytes: int
    modified_ns: int


def on_disk(folder: str, relative: str = "") -> Iterator[Found]:
    """Walk a local folder.

    Raises:
        BadInput: a folder may not be read, or a name is not UTF-8.
    """
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as there:
            for entry in there:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(_checked(entry.name, folder))
    except OSError as error:
        raise _unlisted(folder, error.strerror or error) from None
    for name in sorted(files):
        try:
            seen = os.stat(os.path.join(folder, name))
        except FileNotFoundError:
            continue  # a link to nothing, or it is gone meanwhile
        except OSError as error:
            raise _unlisted(folder, error.strerror or error) from None
        if stat.S_ISREG(seen.st_mode):
            yield Found(f"{relative}{name}", seen.st_size, seen.st_mtime_ns)
    del files
    for name in sorted(folders):
        below = os.path.join(folder, name)
        if not _loops(folder, below):
            yield from on_disk(below, f"{relative}{name}/")


def by_folder(filesystem: fs.FileSystem, path: str, relative: str = "") -> Iterator[Found]:
    """Walk the folder ``path`` of any file system; a folder's names are asked for at once.

    Raises:
        BadInput: a folder cannot be listed.
    """

    def deeper(path: str, relative: str) -> Iterator[Found]:
        return by_folder(filesystem, path, relative)

    return _whole(filesystem, path, relative, "", deeper)


def in_bucket(
    bucket: ObjectStore, key: str, filesystem: fs.FileSystem, path: str, relative: str = ""
) -> Iterator[Found]:
    """Walk a folder of a bucket whose store lists names in their order, as S3 does.

    Args:
        bucket: what lists page by page.
        key: the folder in the bucket; empty for all of it.
        filesystem: lists what pages do not serve: a folder with folders in it, whose own files
            come first, and names that ``bucket`` refuses.
        path: the folder there.
        relative: what stands before a file's name.

    Raises:
        BadInput: a folder cannot be listed.
    """
    last = ""
    try:
        for page in obstore.list(bucket, prefix=key or None, chunk_size=_PAGE):
            own = [(str(seen["path"])[len(key) :].lstrip("/"), seen) for seen in page]
            for name, seen in own:
                if not name or (name.startswith(".") and "/" not in name):
                    continue
                if "/" in name or (not seen["size"] and not _is_file(filesystem, f"{path}/{name}")):
                    raise _HoldsFolders
                last = name
                # Where a file is asked for alone, its time comes in seconds.
                changed = (seen["last_modified"] - _EPOCH).total_seconds() // 1
                yield Found(f"{relative}{name}", seen["size"], int(changed) * 10**9)
    except (BaseError, _HoldsFolders):

        def deeper(path: str, relative: str) -> Iterator[Found]:
            name = path.rpartition("/")[2]
            below = f"{key}/{name}" if key else name
            return in_bucket(bucket, below, filesystem, path, relative)

        yield from _whole(filesystem, path, relative, last, deeper)


class _HoldsFolders(Exception):
    pass


def _whole(
    filesystem: fs.FileSystem,
    path: str,
    relative: str,
    after: str,
    deeper: Callable[[str, str], Iterator[Found]],
) -> Iterator[Found]:
    """A folder's own files whose names come after ``after``, then its folders'."""
    try:
        listing = filesystem.get_file_info(fs.FileSelector(path))
    except OSError as error:
        raise _unlisted(path, error) from None
    seen = sorted((i for i in listing if not i.base_name.startswith(".")), key=_base_name)
    for info in seen:
        if info.type == fs.FileType.File and info.base_name > after:
            yield Found(f"{relative}{info.base_name}", info.size, info.mtime_ns or 0)
    for info in seen:
        if info.type == fs.FileType.Directory:
            yield from deeper(info.path, f"{relative}{info.base_name}/")


def _is_file(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether an empty object is a file; some clients leave one where they made a folder."""
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _base_name(info: Any) -> str:
    return str(info.base_name)


def _checked(name: str, folder: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise BadInput(f"{folder}: the name {shown} is not UTF-8; rename it") from None
    return name


def _loops(folder: str, below: str) -> bool:
    """Whether a link in ``folder`` leads back to it or to a folder above it."""
    if not os.path.islink(below):
        return False
    here, there = os.path.realpath(folder), os.path.realpath(below)
    return os.path.commonpath([here, there]) == there


def _unlisted(path: str, why: object) -> BadInput:
    return BadInput(f"{path}: cannot be listed: {why}; check its permissions")
