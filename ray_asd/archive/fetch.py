"""A file of the web → a file of this disk: carried on where it broke off, checked, then named."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TypeVar

import requests

from ray_asd import console
from ray_asd.errors import RunFailed

TRIES = 6
FIRST_WAIT_S = 1.0  # doubled with each try
_LONGEST_WAIT_S = 300.0
_TIMEOUTS_S = (10, 30)  # to connect; between two bytes
_CHUNK = 1 << 18
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# Zenodo asks clients for a name of their own: those without are the first to be slowed down.
_AGENT = f"ray-asd/{version('ray-asd')}"

Advance = Callable[[int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file as its publisher describes it."""

    name: str
    url: str
    bytes: int
    checksum: str
    """algorithm:hexadecimal digits"""


class Stopped(Exception):
    """The run was told to stop; what is there stays."""


class _Dropped(Exception):
    """What another try may cure."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def fetch(remote: Remote, place: Path, advance: Advance, stop: Event) -> None:
    """Fetch a file to ``place``; a ``.part`` beside it is carried on.

    Args:
        remote: the file.
        place: where it comes to stand, once its checksum is right; nothing stands there yet.
        advance: told of bytes as they come, and of those that were in vain as negative.
        stop: when set, the fetch ends at the next chunk.

    Raises:
        RunFailed: the server refuses it, the connection drops time and again without a byte
            gained, or the checksum is wrong twice.
        Stopped: ``stop`` was set.
    """
    transfer = _Transfer(remote, part_of(place), advance, stop)
    for _ in range(2):
        insist(remote.name, transfer.carry_on, stop, transfer.size)
        if matches(transfer.part, remote):
            os.replace(transfer.part, place)
            return
        # A resumed file may have been begun from other bytes: once more, from the start.
        transfer.drop()
    raise RunFailed(
        f"{place}: what came from {remote.url} is not what its publisher lists "
        f"({remote.checksum}), twice; run the same command later"
    )


def part_of(place: Path) -> Path:
    """Where the unfinished file is kept."""
    return place.with_name(f"{place.name}.part")


def matches(file: Path, remote: Remote) -> bool:
    """Whether a file has the size and the checksum of ``remote``."""
    if file.stat().st_size != remote.bytes:
        return False
    algorithm, _, digits = remote.checksum.partition(":")
    with file.open("rb") as stream:
        # It guards against accidents; against forgery there is https.
        found = hashlib.file_digest(stream, partial(hashlib.new, algorithm, usedforsecurity=False))
    return found.hexdigest() == digits


def fetch_json(url: str, stop: Event) -> object:
    """A small JSON document.

    Raises:
        RunFailed: it cannot be had, or is no JSON.
        Stopped: ``stop`` was set.
    """

    def attempt() -> object:
        with _get(url, {"Accept": "application/json"}) as response:
            content = response.content
        try:
            answer: object = json.loads(content)
        except ValueError:
            raise RunFailed(f"{url}: not a JSON document; run the same command later") from None
        return answer

    return insist(url, attempt, stop)


def insist(
    what: str, attempt: Callable[[], T], stop: Event, reached: Callable[[], int] = lambda: 0
) -> T:
    """Try until it succeeds; give up after :data:`TRIES` in a row that came no further."""
    tries, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except _Dropped as dropped:
            if reached() > furthest:
                tries, furthest = 0, reached()
            tries += 1
            if tries == TRIES:
                raise RunFailed(
                    f"{what}: {dropped}, {TRIES} times in a row; run the same command later, it "
                    "carries on from there"
                ) from None
            wait_s = min(dropped.wait_s or FIRST_WAIT_S * 2 ** (tries - 1), _LONGEST_WAIT_S)
            console.say(f"{what}: {dropped}; trying again in {wait_s:.0f} s")
        if stop.wait(wait_s):
            raise Stopped


class _Transfer:
    """One file on its way into its ``.part``."""

    def __init__(self, remote: Remote, part: Path, advance: Advance, stop: Event) -> None:
        self._remote, self.part = remote, part
        self._advance, self._stop = advance, stop
        self._tag: str | None = None

    def size(self) -> int:
        """Bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def drop(self) -> None:
        """Forget what is there."""
        self._advance(-self.size())
        self.part.unlink(missing_ok=True)

    def carry_on(self) -> None:
        """Ask for the bytes that are missing, and write them as they come.

        Raises:
            _Dropped: some are still missing.
        """
        if self.size() > self._remote.bytes:
            self.drop()
        have = self.size()
        if have == self._remote.bytes:
            return
        with _get(self._remote.url, self._range(have)) as response:
            if have and not self._continues(response, have):
                self.drop()
                if response.status_code != requests.codes.ok:
                    raise _Dropped("the server does not carry on from where it broke off")
            tag = response.headers.get("ETag", "")
            self._tag = tag if tag.startswith('"') else None
            with self.part.open("ab") as file:
                for chunk in response.iter_content(_CHUNK):
                    if self._stop.is_set():
                        raise Stopped
                    # No more than was announced, whatever comes: the checksum tells.
                    self._advance(file.write(chunk[: self._remote.bytes - file.tell()]))
                    if file.tell() == self._remote.bytes:
                        break
                file.flush()
                os.fsync(file.fileno())
        if self.size() < self._remote.bytes:
            raise _Dropped(f"the connection broke off after {self.size()} bytes")

    def _range(self, have: int) -> dict[str, str]:
        if not have:
            return {}
        same = {"If-Range": self._tag} if self._tag else {}
        return {"Range": f"bytes={have}-", **same}

    def _continues(self, response: requests.Response, have: int) -> bool:
        if response.status_code != requests.codes.partial_content:
            return False
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        return (
            told is not None and int(told[1]) == have and told[2] in ("*", str(self._remote.bytes))
        )


@contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    # Compressed on the way, a range would be one of other bytes.
    own = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    try:
        with requests.get(url, headers=own | headers, stream=True, timeout=_TIMEOUTS_S) as response:
            _check(url, response)
            yield response
    except requests.RequestException as error:
        raise _Dropped(_why(error)) from None


def _check(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status in _PASSING:
        after = response.headers.get("Retry-After", "")
        raise _Dropped(f"the server answers {status}", float(after) if after.isdigit() else None)
    refused_range = status == requests.codes.requested_range_not_satisfiable
    if not response.ok and not (refused_range and "Range" in response.request.headers):
        raise RunFailed(
            f"{url}: the server answers {status} {response.reason}; open the address in a browser "
            "to see what became of it"
        )


def _why(error: requests.RequestException) -> str:
    """What a person would say of it; the library tells its own inner life."""
    if isinstance(error, requests.Timeout):
        return f"no answer for {_TIMEOUTS_S[1]} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return f"no connection ({str(cause).rpartition(': ')[2]})"
