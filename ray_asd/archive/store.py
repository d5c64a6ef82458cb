"""The archive's files, on a disk or in object storage, all through :mod:`pyarrow.fs`.

A location is a local path, relative or absolute, or a URI that pyarrow.fs reads
(``file:///data/rec``, ``s3://plant/rec?endpoint_override=http://minio:9000``). Names within a
URI are percent-encoded; those of a local path stand as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError
from pyarrow import fs

from ray_asd.archive import buckets, walk
from ray_asd.errors import BadInput

# Of a call that a bucket refuses: half a minute in all.
_ATTEMPTS = 7
_PATIENCE_S = 30.0

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


class Entry(NamedTuple):
    """One file as a listing shows it."""

    uri: str
    relative: str  # to the folder listed, with "/" between names, never percent-encoded
    bytes: int
    modified_ns: int

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of size and modification time."""
        text = f"{self.bytes} {self.modified_ns}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system that holds ``uri``, and the path there; a local path is made absolute.

    Raises:
        BadInput: pyarrow.fs has no such scheme here, or cannot reach the store; or the URI
            holds credentials.
    """
    if not _SCHEME.match(uri):
        return _local(), os.path.abspath(uri)
    base, path, query = _split(uri)
    if "@" in base:
        raise BadInput(
            f"{uri.partition('://')[0]}://…@{base.rpartition('@')[2]}: credentials in a URI would "
            "be written into every table; put them into the environment"
        )
    try:
        filesystem, root = _open(base, query)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"{uri}: {reason}; give a local path or a URI that pyarrow.fs reads, such as s3://…"
        ) from None
    place = (root.rstrip("/") + unquote(path)).rstrip("/")
    return filesystem, (place or root) if root.startswith("/") else place.lstrip("/")


def join(uri: str, *names: str) -> str:
    """``uri`` followed by ``names``; a URI's query stays at its end.

    >>> join("s3://plant/rec?region=eu-west-1", "fan 1", "a.wav")
    's3://plant/rec/fan%201/a.wav?region=eu-west-1'
    """
    if not _SCHEME.match(uri):
        return os.path.join(uri, *names)
    base, path, query = _split(uri)
    return base + "/".join([path.rstrip("/"), *map(quote, names)]) + query


def name(uri: str) -> str:
    """The last name in ``uri``, as it stands on the disk or in the bucket."""
    if not _SCHEME.match(uri):
        return os.path.basename(uri)
    _, path, _ = _split(uri)
    return unquote(path.rstrip("/").rpartition("/")[2])


def stat(uri: str) -> Entry | None:
    """Size and modification time of one file; None where there is no file."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type != fs.FileType.File:
        return None
    return Entry(uri, info.base_name, info.size, info.mtime_ns or 0)


def exists(uri: str) -> bool:
    """Whether a file or a folder stands at ``uri``."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def read_bytes(uri: str) -> bytes:
    """The whole file, as it is.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    filesystem, path = resolve(uri)
    # The default would unpack whatever is named .gz.
    with filesystem.open_input_stream(path, compression=None) as stream:
        data: bytes = stream.read()
    return data


def list_files(uri: str) -> Iterator[Entry]:
    """Every file under the folder ``uri``: a folder's own files by name, then its folders'.

    Hidden files and folders (a leading dot) are left out. Memory holds one folder's names at
    most: see :mod:`ray_asd.archive.walk`.

    Raises:
        BadInput: there is no such folder, or it may not be read.
    """
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise BadInput(f"{uri}: there is no such folder; check the path")
    if kind == fs.FileType.File:
        raise BadInput(f"{uri}: is a file, not a folder; give the folder that holds it")
    root = uri if _SCHEME.match(uri) else path
    found = _walk(filesystem, path, uri)
    return (Entry(join(root, *f.relative.split("/")), *f) for f in found)


def names(uri: str) -> list[str]:
    """What lies in the folder ``uri`` itself, files and folders; nothing where it is not there."""
    filesystem, path = resolve(uri)
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in listing)


def write_atomic(uri: str, data: bytes) -> None:
    """Write ``data`` so that a reader finds the old file or the whole new one.

    Raises:
        OSError: it cannot be written; what stood there before still does.
    """
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        with written_whole(uri) as temporary:
            Path(temporary).write_bytes(data)
        return
    # A put becomes visible when it is complete.
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


@contextmanager
def written_whole(uri: str) -> Iterator[str]:
    """Yields the path of a local file to write; when the block is done, it is the file ``uri``.

    A reader finds the old file or the whole new one, and the old one where the block raises. What
    is written is never held in memory.

    Raises:
        OSError: it cannot be written; what stood there before still does.
    """
    filesystem, path = resolve(uri)
    local = isinstance(filesystem, fs.LocalFileSystem)
    folder = os.path.dirname(path) if local else tempfile.gettempdir()
    temporary = _beside(folder, path)
    try:
        # Made here, so that a folder that is not there is told by name.
        with open(temporary, "xb"):
            pass
        yield temporary
        if local:
            _put_in_place(temporary, path)
        else:
            _upload(temporary, uri, filesystem, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = path
        raise
    finally:
        # What keeps a file from being made keeps it from being removed.
        with suppress(OSError):
            os.remove(temporary)


def size(uri: str) -> int:
    """Bytes of the file ``uri``; 0 where there is none."""
    entry = stat(uri)
    return 0 if entry is None else entry.bytes


def is_folder(uri: str) -> bool:
    """Whether a folder lies at ``uri``."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def absolute(uri: str) -> str:
    """``uri`` so that a process with another working directory reads the same place."""
    return uri if _SCHEME.match(uri) else resolve(uri)[1]


def remove(uri: str) -> None:
    """Remove the file ``uri``, if it is there."""
    filesystem, path = resolve(uri)
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)


def remove_folder(uri: str) -> None:
    """Remove the folder ``uri`` and all that is in it, if it is there."""
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def make_dir(uri: str) -> None:
    """Make the folder ``uri`` and those above it; one that stands already is left alone."""
    filesystem, path = resolve(uri)
    filesystem.create_dir(path, recursive=True)


def _walk(filesystem: fs.FileSystem, path: str, uri: str) -> Iterator[walk.Found]:
    if isinstance(filesystem, fs.LocalFileSystem):
        return walk.on_disk(path)
    # Of other stores the two clients tell different times; S3's "directory buckets" do not list
    # names in their order.
    bucket, _, key = path.partition("/")
    if isinstance(filesystem, fs.S3FileSystem) and not bucket.endswith("--x-s3"):
        opened = buckets.opened(uri, filesystem, _PATIENCE_S)
        if opened is not None:
            return walk.in_bucket(opened[0], key, filesystem, path)
    return walk.by_folder(filesystem, path)


def _split(uri: str) -> tuple[str, str, str]:
    """``scheme://store``, ``/path`` and ``?query`` of a URI; either of the last may be empty."""
    address, mark, query = uri.partition("?")
    scheme, _, rest = address.partition("://")
    store, slash, path = rest.partition("/")
    return f"{scheme}://{store}", slash + path, mark + query


@lru_cache(maxsize=64)
def _open(base: str, query: str) -> tuple[fs.FileSystem, str]:
    # Opening a bucket may look up its region and its credentials: once a store, not once a file.
    filesystem, root = fs.FileSystem.from_uri(f"{base}/{query}")
    if isinstance(filesystem, fs.S3FileSystem):
        filesystem = _patient(filesystem)
    return filesystem, root


def _patient(filesystem: fs.S3FileSystem) -> fs.S3FileSystem:
    """The same store, asked again after longer and longer waits, and written with one call a file.

    A file system that was opened by its URI asks every 0.2 s instead, gives up after 6 s, and
    writes with three calls; its settings come to light only where it is pickled.
    """
    _, (settings,) = filesystem.__reduce__()
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
    return fs.S3FileSystem(**{**settings, "retry_strategy": retries, "allow_delayed_open": True})


@lru_cache(maxsize=1)
def _local() -> fs.LocalFileSystem:
    return fs.LocalFileSystem()


def _beside(folder: str, path: str) -> str:
    # Names have a limit of 255 bytes; the temporary one must not be what breaks it.
    return os.path.join(folder, f".{os.path.basename(path)[:32]}.{uuid.uuid4().hex}")


def _put_in_place(temporary: str, path: str) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    _sync(os.path.dirname(path))


def _upload(file: str, uri: str, filesystem: fs.FileSystem, path: str) -> None:
    """Put a local file into a bucket: in parts where it is large, completed by the last call."""
    opened = buckets.opened(uri, filesystem, _PATIENCE_S)
    if opened is None:
        fs.copy_files(file, path, fs.LocalFileSystem(), filesystem)
        return
    bucket, _ = opened
    try:
        obstore.put(bucket, path.partition("/")[2], Path(file))
    except BaseError as error:
        raise OSError(str(error).strip().splitlines()[0]) from error


def _sync(folder: str) -> None:
    """Make a rename in ``folder`` outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
