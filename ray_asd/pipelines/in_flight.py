"""Which recordings are at work where, so that one that kills its worker costs itself only.

A shard whose worker died is taken up again by Ray, and then goes recording by recording, each
written down before it is touched. One that was written down when a worker died is rejected as
``crashed``, provided a made-up good clip passes in the process that says so.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ray_asd.errors import RunFailed
from ray_asd.pipelines import placement

# More crashed recordings than this, and more than the share: then it is the machine.
_MOST_CRASHED = 10
_MOST_CRASHED_SHARE = 0.01

# Deaths of a shard's worker that no recording answers for.
_MOST_UNEXPLAINED = 5

PATIENCE_S = 300.0
"""Seconds that a clip may take where nothing else is asked for."""

_STANDARD_ERROR = 2

RETRIES = {"max_restarts": 1000, "max_task_retries": 1000}
"""Of actors that are guarded: what ends them is counted here, by shard, and not by Ray."""


class InFlight:
    """The actor that remembers; every call is answered before a recording is touched."""

    def __init__(self, recordings: int) -> None:
        self._limit = max(_MOST_CRASHED, int(recordings * _MOST_CRASHED_SHARE))
        self._entered: dict[str, int] = {}
        self._alone: dict[str, str] = {}
        self._crashed: dict[str, set[str]] = {}

    def enter(self, shard: str) -> tuple[bool, list[str]]:
        """A worker takes up a shard: must it go one by one, and which recordings crashed it?

        Raises:
            RunFailed: so many recordings crash, or workers die beside any recording, that it
                must be the machine.
        """
        entered = self._entered[shard] = self._entered.get(shard, 0) + 1
        crashed = self._crashed.setdefault(shard, set())
        if shard in self._alone:
            crashed.add(self._alone.pop(shard))
        count = sum(map(len, self._crashed.values()))
        if count > self._limit:
            raise RunFailed(
                f"{count} recordings ended the process that read them: that is the machine rather "
                "than the files; look at its memory and its libraries"
            )
        if entered - 1 - len(crashed) > _MOST_UNEXPLAINED:
            raise RunFailed(
                f"workers died {entered - 1} times over the shard {shard}, and not over any one "
                "recording; look at the machine's memory"
            )
        return entered > 1, sorted(crashed)

    def alone(self, shard: str, uri: str) -> None:
        """The worker is about to touch this recording, and no other."""
        self._alone[shard] = uri

    def leave(self, shard: str) -> None:
        """The shard is done."""
        for kept in (self._entered, self._alone):
            kept.pop(shard, None)
        if not self._crashed.get(shard):
            self._crashed.pop(shard, None)


def start(recordings: int) -> Any:
    """The actor, on this process's node: as long as the driver's node stands, so does it."""
    remote = ray.remote(max_restarts=-1, max_task_retries=-1, **placement.beside_the_driver())
    return remote(InFlight).remote(recordings)


class Guard:
    """A worker's side of :class:`InFlight`.

    Args:
        in_flight: the actor.
        patience_s: seconds that a clip may take; then the process ends itself, as a crash.
    """

    def __init__(self, in_flight: Any, patience_s: float) -> None:
        self._in_flight = in_flight
        self._patience_s = patience_s

    @contextmanager
    def shard(
        self, name: str, good_clip_passes: Callable[[], None]
    ) -> Iterator[Callable[[str], bool]]:
        """Take up a shard; yields ``may_touch(uri)``, false for a recording that crashed.

        ``good_clip_passes`` is called before a recording is blamed.
        """
        one_by_one, crashed = ray.get(self._in_flight.enter.remote(name))
        if crashed:
            with self.patience() as go_on:
                go_on()
                good_clip_passes()

        def may_touch(uri: str) -> bool:
            if uri in crashed:
                return False
            if one_by_one:
                ray.get(self._in_flight.alone.remote(name, uri))
            return True

        yield may_touch
        ray.get(self._in_flight.leave.remote(name))

    @contextmanager
    def patience(self) -> Iterator[Callable[[], None]]:
        """End the process where ``go_on`` is not called in time; it is yielded.

        Python's own watchdog thread does not need the interpreter, so that a decoder that holds
        it for ever is ended too. It leaves every thread's traceback in the worker's log.
        """

        def go_on() -> None:
            faulthandler.dump_traceback_later(self._patience_s, exit=True, file=_STANDARD_ERROR)

        try:
            yield go_on
        finally:
            faulthandler.cancel_dump_traceback_later()
