import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_asd import lease
from ray_asd.archive import store
from ray_asd.errors import RunFailed
from tests.conftest import Bucket


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_BEAT_S", 0.05)
    monkeypatch.setattr(lease, "_EXPIRES_S", 1.0)


@pytest.fixture(params=["disk", "bucket"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A scores table's URI, on a disk and in a bucket."""
    if request.param == "disk":
        yield str(tmp_path / "scores")
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        yield bucket.uri("scores")


def place_of(table: str) -> str:
    return store.join(table, "ledger", "lease.json")


def write(table: str, **holder: object) -> None:
    if store.resolve(table)[0].type_name == "local":
        store.make_dir(store.join(table, "ledger"))
    store.write_atomic(place_of(table), json.dumps(holder).encode())


def test_holders_exclude_each_other(table: str) -> None:
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        with lease.held(table) as still_ours:
            inside += 1
            most = max(most, inside)
            time.sleep(0.2)
            still_ours()
            inside -= 1
            done += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (done, most) == (3, 1)
    assert not store.exists(place_of(table))


def test_a_lease_whose_heart_stopped_is_taken_over(table: str) -> None:
    write(table, host="elsewhere", pid=1, holder="gone", beats=7)
    began = time.monotonic()
    with lease.held(table) as still_ours:
        assert time.monotonic() - began >= 1.0
        still_ours()


def test_a_lease_that_beats_is_not(table: str) -> None:
    write(table, host="elsewhere", pid=1, holder="alive", beats=0)
    ended, taken = threading.Event(), threading.Event()

    def wait() -> None:
        with lease.held(table):
            taken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    for beat in range(8):
        write(table, host="elsewhere", pid=1, holder="alive", beats=beat)
        assert not taken.wait(0.4)
    ended.set()
    assert taken.wait(60)
    thread.join()


def test_what_a_killed_process_of_this_machine_left_is_taken_at_once(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_EXPIRES_S", 1e9)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(table, host=lease._host(), pid=ended.pid, holder="killed", beats=3)
    with lease.held(table) as still_ours:
        still_ours()


def test_who_lost_the_lease_is_told(table: str) -> None:
    with lease.held(table) as still_ours:
        still_ours()
        write(table, host="elsewhere", pid=1, holder="another", beats=0)
        # Its next beat finds out.
        time.sleep(0.5)
        with pytest.raises(RunFailed, match="another run has taken over"):
            still_ours()
    assert store.exists(place_of(table))


def test_a_store_that_does_not_answer_is_an_error_in_a_line() -> None:
    nobody = Bucket("127.0.0.1:1", "bucket").uri("scores")
    with (
        pytest.raises(OSError, match=r"scores/ledger/lease\.json: \S") as refused,
        lease.held(nobody),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_write_whose_answer_is_lost_is_our_own(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store carries calls out and does not say so: the client calls again, and is refused."""
    place = lease._place(place_of(table))
    assert place is not None
    for name in ("create", "replace"):
        write_once = getattr(type(place), name)

        def unheard(self: object, *arguments: object, write: Any = write_once) -> bool:
            write(self, *arguments)
            return False

        monkeypatch.setattr(type(place), name, unheard)
    with lease.held(table) as still_ours:
        time.sleep(0.5)
        still_ours()
    assert not store.exists(place_of(table))


def test_a_disk_without_room_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    table = str(tmp_path / "scores")
    with pytest.raises(OSError, match=rf"No space.*{place_of(table)}"), lease.held(table):
        pass
    assert not list((tmp_path / "scores" / "ledger").iterdir())
