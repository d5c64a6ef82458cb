"""``ray start --head``, and commands beside it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.conftest import children_of
from tests.definitions import ROOT
from tests.faults.commands import END_S, START_S

# Ray's switch for clusters of one machine: all ports on the loopback interface, and no others.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def bare(**ray_settings: str) -> dict[str, str]:
    """This process's environment with these settings of Ray, and no others.

    As on a cluster's machines, ``python`` is the one that has this project.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {**kept, **LOOPBACK, "PATH": path, "COLUMNS": "200", **ray_settings}


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code, and standard output and error together."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=END_S,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout


def run_verb(environment: dict[str, str], *arguments: str, before: str = "") -> tuple[int, str]:
    """``ray-asd`` in a process of its own, after the statement ``before``."""
    code = f"{before}\nfrom ray_asd.cli import main; main()"
    return run([sys.executable, "-c", code, *arguments], environment)


def started_since(pid: int) -> dict[int, str]:
    """When each process that descends from ``pid`` was started, by its id."""
    return {child: _started(child) for child in children_of(pid)}


def kill(processes: dict[int, str]) -> None:
    """SIGKILL to those that still run; an id may have become another's meanwhile."""
    for pid, started in processes.items():
        if started and _started(pid) == started:
            os.kill(pid, signal.SIGKILL)


def _started(pid: int) -> str:
    try:
        # the name stands in parentheses and may hold anything
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class Head:
    """A head with two cores whose token lies in a file that only its user reads."""

    def __init__(self) -> None:
        # Sockets lie in it, and their paths are at most 107 bytes long.
        self._folder = tempfile.TemporaryDirectory(prefix="asd", dir="/tmp")
        place = Path(self._folder.name)
        self._token = secrets.token_hex(32)
        token = place / "token"
        token.touch(mode=0o600)
        token.write_text(self._token)
        port, dashboard, agent, client = free_ports(4)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{dashboard}"
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._log = place / "log"
        options = {
            "port": port,
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client,
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "num-cpus": 2,
            "object-store-memory": 200_000_000,
            "temp-dir": place / "ray",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [_RAY, "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=bare(**self.token),
            )

    def wait(self) -> bool:
        """Until it takes jobs; false where it ended instead."""
        until = time.monotonic() + START_S
        while "Ray runtime started" not in self.said():
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < until, "it takes too long"
            time.sleep(0.1)
        return True

    def said(self) -> str:
        return self._log.read_text()

    def submit(self, *command: str, **ray_settings: str) -> tuple[int, str]:
        """``ray job submit`` of this checkout, until the job has ended."""
        line = [_RAY, "job", "submit", "--address", self.url, "--working-dir", ".", "--", *command]
        return run(line, bare(**ray_settings))

    def jobs(self) -> list[dict[str, Any]]:
        """What the head knows of the jobs that were submitted."""
        request = urllib.request.Request(  # noqa: S310, of our own address
            f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {self._token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)
        return [job for job in found if job["submission_id"]]

    def end(self) -> None:
        """First politely; then whatever of it is left, by its id."""
        left = started_since(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kill(left)
        self._folder.cleanup()


_RAY = str(Path(sys.executable).with_name("ray"))
