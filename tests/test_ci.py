"""What .ci/run does before it tests: a browser is installed where that can be done, and it goes on
where it cannot."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.definitions import ROOT

INSTALLS = 'case "$*" in *install*) cp "$0" "${0%/*}/chromium";; esac'
OFFLINE = """case "$*" in
*install*) echo W: no >&2; echo "E: Unable to locate package chromium" >&2; exit 100;; esac"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: what the script needs, and a root to run it."""
    for name in ("bash", "cp", "grep", "mktemp", "rm", "tail", "timeout"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    fake(tmp_path, "id", "echo 0")
    return tmp_path


def fake(programs: Path, name: str, does: str) -> None:
    path = programs / name
    path.write_text(f'#!/bin/bash\necho "$@" >> {programs}/{name}.calls\n{does}\n')
    path.chmod(0o755)


def browser(programs: Path) -> str:
    """What the script says; it must succeed."""
    done = subprocess.run(
        [programs / "bash", ROOT / ".ci" / "browser"],
        env={"PATH": str(programs), "HOME": "/nowhere", "TMPDIR": str(programs)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 1
    return done.stderr


def test_a_browser_is_installed(programs: Path) -> None:
    fake(programs, "apt-get", INSTALLS)
    assert browser(programs) == ""
    calls = (programs / "apt-get.calls").read_text().splitlines()
    assert [line.split()[-1] for line in calls] == ["update", "chromium"]
    # The second time it is there.
    assert browser(programs) == ""
    assert (programs / "apt-get.calls").read_text().splitlines() == calls


@pytest.mark.parametrize(
    ("apt_get", "root", "says"),
    [
        (None, True, "there is no apt-get"),
        (INSTALLS, False, "only root can install it"),
        (OFFLINE, True, "E: Unable to locate package chromium"),
        ("exit 1", True, "apt-get cannot install it"),
        ("exit 0", True, "apt-get installed none"),
    ],
)
def test_without_one_it_says_so_and_goes_on(
    apt_get: str | None, root: bool, says: str, programs: Path
) -> None:
    if apt_get is not None:
        fake(programs, "apt-get", apt_get)
    if not root:
        fake(programs, "id", "echo 1000")
    said = browser(programs)
    assert says in said
    assert "the report's tests in a browser will be skipped" in said


def test_it_is_the_first_step() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-5:] == [".ci/browser", "make", "make lint", "make test", "make slow"]
    for name in ("run", "browser"):
        assert (ROOT / ".ci" / name).stat().st_mode & 0o111
