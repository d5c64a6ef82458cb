"""Commands that are run in order to be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.conftest import children_of

# Of patience: a busy machine takes minutes to start Ray and torch in every process.
START_S, END_S = 500, 600


def wait_for(what: Callable[[], bool], seconds: float, alive: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert alive(), "it ended too early"
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.1)


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
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def end(self, seconds: float) -> tuple[int, str]:
        self.printed, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said
