"""Commands that are run in order to be killed, and clusters that lose nodes."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.conftest import children_of

# Of patience: a busy machine takes minutes to start Ray and torch in every process.
START_S, END_S = 500, 600

# Ray gives each of its nodes 30 s to start, and no setting changes that.
_CLUSTER_STARTS = 3


def sabotage(place: Path, code: str) -> dict[str, str]:
    """The environment in which every Python, so every worker, runs ``code`` at its start."""
    (place / "sitecustomize.py").write_text(code)
    kept = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(place), *([kept] if kept else [])])}


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


class Command:
    """``ray-asd`` in a process group of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from ray_asd.cli import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def alive(self) -> bool:
        return self.process.poll() is None

    def workers(self, name: str) -> list[int]:
        """Its Ray workers whose title begins so."""
        return [
            pid
            for pid, title in children_of(self.process.pid).items()
            if title.startswith(f"ray::{name}")
        ]

    def kill(self) -> None:
        """SIGKILL, without a chance to tidy up; and then what it leaves behind, by their ids."""
        left = children_of(self.process.pid)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        _kill(left)

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait until it has come to ``what``."""
        until = time.monotonic() + START_S
        while not what():
            assert self.alive(), f"it ended too early: {self.process.communicate()[1]}"
            assert time.monotonic() < until, "it takes too long"
            time.sleep(0.1)

    def end(self, seconds: float = END_S) -> tuple[int, str]:
        """Wait until it is done; returns its exit code and what it said."""
        self.printed, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said

    def end_well(self) -> str:
        """Wait until it is done; returns what it said."""
        code, said = self.end()
        assert code == 0, said
        return said


class ThreeNodes:
    """A Ray cluster of three nodes of one core each, in processes of its own."""

    def __init__(self, **environment: str) -> None:
        self.credentials = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
        # Neither a name too long for its sockets nor an address that others would join.
        self._place = tempfile.TemporaryDirectory(prefix="ray-")
        environment = {
            **os.environ,
            "RAY_TMPDIR": self._place.name,
            **self.credentials,
            **environment,
        }
        for _ in range(_CLUSTER_STARTS):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.three_nodes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=environment,
            )
            assert self._process.stdout is not None
            self.address = self._process.stdout.readline().strip()
            if self.address:
                break
            self._process.communicate()
        assert self.address, "the cluster did not start"

    def nodes(self, worker: str) -> dict[int, list[int]]:
        """The nodes but the head, by their raylet, and their workers whose title begins so."""
        raylets = [
            pid
            for pid, title in children_of(self._process.pid).items()
            if title.split(" ")[0].endswith("/raylet") and "--head" not in title
        ]
        return {
            raylet: [
                pid
                for pid, title in children_of(raylet).items()
                if title.startswith(f"ray::{worker}")
            ]
            for raylet in raylets
        }

    def kill_node(self, raylet: int) -> None:
        """SIGKILL for all of its processes at once, as when its power fails."""
        _kill([raylet, *children_of(raylet)])

    def end(self) -> None:
        left = children_of(self._process.pid)
        try:
            self._process.communicate(timeout=60)
        finally:
            _kill([self._process.pid, *left])
            self._place.cleanup()
