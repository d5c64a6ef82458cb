"""What a node has built and keeps for its next processes: one file an entry, checked when read.

The folder, ``ray-asd/engines`` in ``XDG_CACHE_HOME`` or ``~/.cache``, must be this user's alone;
where it is not, or cannot be written, every process builds for itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

# Of some tens of megabytes each: two backbones of a dozen trained systems.
_KEPT = 24
_DIGEST = hashlib.sha256().digest_size


def kept(key: str, build: Callable[[], bytes], folder: Path | None = None) -> bytes:
    """What ``build`` made under ``key``, by this process or by another one of the node.

    Processes that ask at the same time build it once; the others wait. An entry that is not what
    was written is built anew.

    Args:
        key: names all that decides the entry; fit for a file's name.
        build: makes it.
        folder: where it is kept; this user's cache if None.
    """
    try:
        place = folder or _user_cache()
        _make_own(place)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        log.warning("%s; engines are built in every process", error)
        return build()
    entry = place / key
    found = _read(entry)
    if found is not None:
        return found
    with _locked(place / ".lock"):
        found = _read(entry)  # by whoever held the lock before
        if found is not None:
            return found
        built = build()
        try:
            _write(entry, built)
            _forget_oldest(place)
        except OSError as error:
            log.warning("%s: cannot keep an engine: %s", place, error)
    return built


def _user_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ray-asd" / "engines"


def _make_own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{folder}: not a folder of this user's")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{folder}: others may enter it; remove it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks: it is built twice then
            log.warning("%s: cannot be locked: %s", path, error)
        yield


def _read(entry: Path) -> bytes | None:
    try:
        data = entry.read_bytes()
    except OSError:
        return None
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        log.warning("%s: damaged; it is built anew", entry)
        return None
    with suppress(OSError):
        os.utime(entry)
    return body


def _write(entry: Path, body: bytes) -> None:
    # Under another name first, so that a reader without the lock never finds half of it.
    descriptor, name = tempfile.mkstemp(dir=entry.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        Path(name).replace(entry)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _forget_oldest(folder: Path) -> None:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries[_KEPT:]:
        path.unlink(missing_ok=True)
