"""A local Ray keeps to itself: loopback only, and no token in the home directory."""

import os
import sys
from pathlib import Path

import pytest
import ray

from ray_asd.pipelines import session

pytestmark = pytest.mark.integration

_LISTENING = "0A"


def _children(pid: int) -> set[int]:
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= _children(int(child))
    return found


def _inodes(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _is_loopback(address: str) -> bool:
    host = address.partition(":")[0]
    if len(host) == 8:
        return host.endswith("7F")
    mapped = host.startswith("0" * 16 + "FFFF0000") and host.endswith("7F")
    return mapped or host == "0" * 24 + "01000000"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_every_port_is_bound_to_loopback(held_ray: None) -> None:
    own = set().union(*(_inodes(pid) for pid in _children(os.getpid()) if _alive(pid)))
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in own:
                listening.append(fields[1])
    assert len(listening) >= 3
    assert all(_is_loopback(address) for address in listening), listening


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/fd").is_dir() and bool(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, PermissionError):
        return False


def test_the_token_is_on_and_not_in_the_home_directory(held_ray: None) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    assert not (Path.home() / ".ray").exists()


def test_a_ray_that_is_held_is_joined_and_left_running(held_ray: None) -> None:
    with session.session("auto"):
        assert session.cores() == 2
    assert ray.is_initialized()


def test_what_ray_prints_is_no_part_of_a_result(
    held_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with session.session():
        print("(raylet) WARNING")
    said = capfd.readouterr()
    assert said.out == ""
    assert "(raylet) WARNING" in said.err


def test_nor_is_what_ray_prints_while_it_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: print("(raylet) WARNING"))
    for start in ("_own_token", "_start"):
        monkeypatch.setattr(session, start, lambda *_: None)
    with session.session():
        pass
    said = capfd.readouterr()
    assert said.out == ""
    assert "(raylet) WARNING" in said.err
