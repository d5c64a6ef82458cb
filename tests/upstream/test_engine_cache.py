import multiprocessing
import time
from pathlib import Path

import pytest

from ray_asd.upstream import engine_cache
from ray_asd.upstream.engine_cache import kept


def never() -> bytes:
    raise AssertionError("it is there")


def test_an_entry_is_built_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "engines"
    assert kept("a", lambda: b"one", folder) == b"one"
    assert kept("a", never, folder) == b"one"
    assert kept("b", lambda: b"two", folder) == b"two"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "a", "b"]


def test_it_lies_in_the_users_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    kept("a", lambda: b"one")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    kept("a", lambda: b"one")
    assert (tmp_path / "xdg/ray-asd/engines/a").is_file()
    assert (tmp_path / "home/.cache/ray-asd/engines/a").is_file()


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_built_anew(tmp_path: Path, damage: bytes | None) -> None:
    folder = tmp_path / "engines"
    kept("a", lambda: b"one", folder)
    data = (folder / "a").read_bytes()
    (folder / "a").write_bytes(data[:-1] + b"E" if damage is None else damage)
    assert kept("a", lambda: b"anew", folder) == b"anew"
    assert kept("a", never, folder) == b"anew"


def test_processes_that_ask_at_once_build_it_once(tmp_path: Path) -> None:
    def build() -> bytes:
        with (tmp_path / "built").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return b"one"

    def ask() -> None:
        barrier.wait()
        assert kept("a", build, tmp_path / "engines") == b"one"

    forked = multiprocessing.get_context("fork")
    barrier = forked.Barrier(3)
    asking = [forked.Process(target=ask) for _ in range(3)]
    for process in asking:
        process.start()
    for process in asking:
        process.join()
    assert [process.exitcode for process in asking] == [0, 0, 0]
    assert (tmp_path / "built").read_text() == "x"


@pytest.mark.parametrize("how", ["others may enter it", "a link", "no folder"])
def test_a_folder_that_is_not_ones_own_is_neither_read_nor_written(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    own, folder = tmp_path / "own", tmp_path / "engines"
    kept("a", lambda: b"planted", own)
    if how == "a link":
        folder.symlink_to(own)
    elif how == "no folder":
        folder.write_text("")
    else:
        own.rename(folder)
        folder.chmod(0o770)
    assert kept("a", lambda: b"built", folder) == b"built"
    assert kept("b", lambda: b"built", folder) == b"built"
    assert "engines are built in every process" in caplog.text
    assert not list(tmp_path.glob("*/b"))


def test_who_has_no_home_builds_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kept("a", lambda: b"one") == b"one"


def test_what_cannot_be_written_is_built_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(entry: Path, body: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_cache, "_write", full)
    assert kept("a", lambda: b"one", tmp_path / "engines") == b"one"


def test_those_that_were_not_asked_for_longest_are_forgotten(tmp_path: Path) -> None:
    for number in range(24):
        kept(f"{number:02d}", lambda: b"x", tmp_path / "engines")
    kept("00", never, tmp_path / "engines")
    kept("24", lambda: b"x", tmp_path / "engines")
    names = {path.name for path in (tmp_path / "engines").iterdir()}
    assert "00" in names
    assert "01" not in names
    assert len(names) == 24 + 1
