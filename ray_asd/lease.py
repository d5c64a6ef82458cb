"""One run at a time over one scores table: a lease that is held while its heart beats.

``SCORES/ledger/lease.json`` is made only where none is (a put with «if none match» in object
storage, a hard link on a disk), and changed only by whoever saw its latest state. A holder
writes it anew every few seconds; one that was not written anew for a while is taken over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore

from ray_asd import console
from ray_asd.archive import buckets, store
from ray_asd.errors import RunFailed

_BEAT_S = 5.0
_EXPIRES_S = 60.0


class _Seen(NamedTuple):
    """The lease as it was read: its text, and what changes whenever it is written."""

    text: bytes
    tag: str


class _Place(Protocol):
    """Where a lease lies."""

    def create(self, text: bytes) -> bool:
        """Write it where there is none; false where there is one."""

    def read(self) -> _Seen | None:
        """The lease, if there is one."""

    def replace(self, text: bytes, tag: str) -> bool:
        """Write it anew if it is as it was seen; false if not."""

    def remove(self, tag: str) -> None:
        """Remove it if it is as it was seen."""


class _OnDisk:
    """A lease in a folder. Whoever changes it holds a lock on a file beside it meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def create(self, text: bytes) -> bool:
        """Link a whole file to the name: two cannot."""
        with self._aside(text) as temporary:
            try:
                os.link(temporary, self._path)
            except FileExistsError:
                return False
        return True

    def read(self) -> _Seen | None:
        """The lease, if there is one."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return _Seen(text, hashlib.sha256(text).hexdigest())

    def replace(self, text: bytes, tag: str) -> bool:
        """Rename a whole file over it, if it is as it was seen."""
        with self._locked():
            seen = self.read()
            if seen is None or seen.tag != tag:
                return False
            with self._aside(text) as temporary:
                temporary.replace(self._path)
        return True

    def remove(self, tag: str) -> None:
        """Unlink it, if it is as it was seen."""
        with self._locked():
            seen = self.read()
            if seen is not None and seen.tag == tag:
                self._path.unlink()

    @contextmanager
    def _aside(self, text: bytes) -> Iterator[Path]:
        """A whole file beside the lease; nothing is left of it, nor of one that found no room."""
        temporary = self._path.with_name(f".lease.{uuid.uuid4().hex}")
        try:
            try:
                temporary.write_bytes(text)
            except OSError as error:
                # One of a write names no file.
                error.filename = str(self._path)
                raise
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(".lease.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _InBucket:
    """A lease in object storage, by the store's own conditional writes."""

    def __init__(self, bucket: ObjectStore, key: str) -> None:
        self._bucket, self._key = bucket, key

    def create(self, text: bytes) -> bool:
        """Put it on the condition that there is none."""
        with self._answering():
            try:
                obstore.put(self._bucket, self._key, text, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def read(self) -> _Seen | None:
        """The lease, if there is one."""
        with self._answering():
            try:
                found = obstore.get(self._bucket, self._key)
            except FileNotFoundError:
                return None
            return _Seen(bytes(found.bytes()), str(found.meta["e_tag"]))

    def replace(self, text: bytes, tag: str) -> bool:
        """Put it on the condition that it is as it was seen."""
        with self._answering():
            try:
                obstore.put(self._bucket, self._key, text, mode={"e_tag": tag})
            except (PreconditionError, FileNotFoundError):
                return False
        return True

    def remove(self, tag: str) -> None:
        """Delete it, if it is as it was seen; stores have no condition for that."""
        seen = self.read()
        if seen is not None and seen.tag == tag:
            with self._answering():
                obstore.delete(self._bucket, self._key)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What the store goes on refusing is an OSError, as of a disk."""
        try:
            yield
        except BaseError as error:
            raise OSError(f"{self._key}: {str(error).strip().splitlines()[0]}") from error


@contextmanager
def held(uri: str) -> Iterator[Callable[[], None]]:
    """Hold the lease of the scores table ``uri``, waiting for it where another run has it.

    Yields a function that raises where the lease was lost.

    Raises:
        RunFailed: from that function; another run took over, since this one stood still.
        OSError: the store refuses, or the disk is full.
    """
    place = _place(store.join(uri, "ledger", "lease.json"))
    if place is None:
        console.warn(f"{uri}: this store knows no conditional writes; start one run at a time")
        yield lambda: None
        return
    me = {"host": _host(), "pid": os.getpid(), "holder": uuid.uuid4().hex}
    seen = _acquire(place, me, uri)
    lost = threading.Event()
    ended = threading.Event()

    def beat() -> None:
        nonlocal seen
        beats = 0
        last = time.monotonic()
        while not ended.wait(_BEAT_S):
            beats += 1
            try:
                # What is read decides: the answer of a store that wrote may be lost.
                place.replace(_text(me, beats), seen.tag)
                now = place.read()
                if now is not None and _holder(now) == me["holder"]:
                    last, seen = time.monotonic(), now
                else:
                    lost.set()
            except Exception:  # noqa: BLE001, a store that does not answer may answer next time
                if time.monotonic() - last > _EXPIRES_S:
                    lost.set()

    def check() -> None:
        if lost.is_set():
            raise RunFailed(
                f"{uri}: another run has taken over, or may, since this one did not renew its "
                f"lease for {_EXPIRES_S:.0f} s; what is published stays"
            )

    heart = threading.Thread(target=beat, daemon=True, name="lease")
    heart.start()
    try:
        yield check
    finally:
        ended.set()
        heart.join()
        if not lost.is_set():
            with suppress(OSError):
                place.remove(seen.tag)


def _acquire(place: _Place, me: dict[str, Any], uri: str) -> _Seen:
    watched: _Seen | None = None
    since = told = float("-inf")
    while True:
        place.create(_text(me, 0))
        found = place.read()
        now = time.monotonic()
        if found is None:
            continue
        if _holder(found) == me["holder"]:
            return found
        if watched is None or found.tag != watched.tag:
            watched, since = found, now
        if now - since > _EXPIRES_S or _is_dead(found):
            place.replace(_text(me, 0), found.tag)
            continue
        if now - told > _EXPIRES_S:
            told = now
            console.say(f"score: another run holds {uri}; waiting until it ends")
        time.sleep(1.0)


def _text(me: dict[str, Any], beats: int) -> bytes:
    return json.dumps({**me, "beats": beats}).encode()


def _written(seen: _Seen) -> dict[str, Any]:
    """What a lease says; nothing where it is damaged."""
    try:
        said = json.loads(seen.text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _holder(seen: _Seen) -> object:
    return _written(seen).get("holder")


def _is_dead(seen: _Seen) -> bool:
    """Whether the holder was a process of this very machine, and is no more."""
    said = _written(seen)
    if said.get("host") != _host() or not isinstance(said.get("pid"), int):
        return False
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _host() -> str:
    """This boot of this machine, and this namespace of process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    names = Path("/proc/self/ns/pid")
    known = boot.read_text().strip() if boot.exists() else ""
    return f"{socket.gethostname()} {known} {os.readlink(names) if names.exists() else ''}".strip()


def _place(uri: str) -> _Place | None:
    filesystem, path = store.resolve(uri)
    if filesystem.type_name == "local":
        return _OnDisk(path)
    # A beat that the store refuses must be given up before the lease expires.
    opened = buckets.opened(uri, filesystem, patience_s=_EXPIRES_S / 2)
    return None if opened is None else _InBucket(*opened)
