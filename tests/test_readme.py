"""What README.md promises a new user: its commands run as printed, in an empty directory.

A command that stands in none of :data:`RUN` and :data:`NOT_RUN` fails a test here.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ray_asd import recipe
from ray_asd.archive import fleet
from tests.definitions import ROOT, check

TEXT = (ROOT / "README.md").read_text("utf-8")

MAKE = shutil.which("make") or "make"

ADDED = {
    ".venv/bin/ray-asd train manifest.parquet --out upstream": "--set upstream.epochs=1",
}
"""All that is changed of any command: options at its end. Fifty epochs would take an hour here."""

NOT_RUN = {
    "make test": "is this very suite",
    "make lint": "is a step of .ci/run of its own",
    "make help": "is run by another test here",
    ".venv/bin/ray-asd download dcase2023 --out dcase --machine fan": "no test reaches the network",
    ".venv/bin/ray-asd --install-completion": "writes into the shell's settings at home",
    "ray job submit --working-dir . -- python jobs/nightly.py s3://plant/recordings "
    "--bundle s3://plant/bundle --out s3://plant/scores": "there is no cluster",
    "jobs/benchmark.py score": "measures for minutes",
    "jobs/benchmark.py train --set upstream.batch=32": "measures for minutes",
    "jobs/benchmark.py memory": "measures for minutes",
}
"""Commands that cannot run in a test, and why; that they could is checked by their options."""

ALARMS = 4
"""The exit code of a night that raised any."""


def normal(line: str) -> str:
    """The command with single spaces, which stand in columns in the text."""
    return " ".join(line.split())


def fenced(kind: str) -> list[str]:
    # All blocks in turn: one's end is not another's beginning.
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for found, text in blocks if found == kind]


def commands() -> list[str]:
    """Every command in a block of shell, in the order of the text."""
    return [normal(line) for block in fenced("sh") for line in block.splitlines()]


def inline() -> list[str]:
    """Every command with arguments in a line of text."""
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    start = r"(?:make|ray|\.venv/bin/\S+|ray-asd \w+|(?:python )?jobs/\S+\.py) "
    return [normal(found) for found in re.findall(rf"`({start}[^`]*)`", prose)]


RUN = [line for line in commands() if line not in NOT_RUN]


def test_every_command_is_run_or_has_a_reason_not_to_be() -> None:
    assert len(RUN) == len(set(RUN)) >= 11
    assert [line for line in inline() if line not in {*RUN, *NOT_RUN}] == []
    assert set(NOT_RUN) <= {*commands(), *inline()}
    assert set(ADDED) <= set(RUN)
    # A block without a language would be passed over, unless it is a picture or an output.
    for block in fenced(""):
        assert not re.search(r"^(?:\$|make|\.venv|ray|pip|git|python)\b", block, re.MULTILINE)


@pytest.mark.parametrize("line", NOT_RUN)
def test_what_is_not_run_would_be_understood(
    line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    if words[0] == "make":
        subprocess.run([MAKE, "-n", words[1]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "jobs/benchmark.py":
        monkeypatch.syspath_prepend(str(ROOT / "jobs"))
        app = runpy.run_path(str(ROOT / words[0]), run_name="read")["app"]
        verb = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        verb.make_context(words[1], words[2:]).close()
    elif "--install-completion" in words:
        tool = Path(sys.executable).with_name("ray-asd")
        done = subprocess.run([tool, "--help"], check=True, capture_output=True, text=True)
        assert "--install-completion" in done.stdout
    else:
        check(line)


def test_make_help_names_at_most_eight_verbs() -> None:
    done = subprocess.run(
        [MAKE, "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    told = re.findall(r"^make ?([a-z]*) +\S", done, re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert told == ["", *targets]
    assert len(told) <= 8


def test_recipes_are_recipes() -> None:
    texts = fenced("yaml")
    assert len(texts) >= 2
    for text in texts:
        assert f"name: {recipe.parse(text, 'README.md').name}" in text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with what the text takes for granted: the environment, and recordings.

    For ``make`` also its file; the environment counts as set up, so that no test touches it.
    """
    place = tmp_path_factory.mktemp("readme")
    (place / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "Makefile", place)
    small = {"train_target": 3, "duration_s": 3.0, "seed": 1}
    known = ("fan", "valve")
    fleet.synthesize(
        str(place / "recordings"), machine_types=known, train_source=12, test_per_cell=3, **small
    )
    fleet.synthesize(
        str(place / "new"), machine_types=("gearbox",), train_source=9, test_per_cell=1, **small
    )
    yield place
    shutil.rmtree(place)


def run(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    # What make itself prints is no part of it: what it runs, and below another make, where.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    line = re.sub(r"^make\b", "make -s -o .venv/.ready", line)
    return subprocess.run(
        ["/bin/bash", "-c", line],
        cwd=place,
        env={**kept, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("line", RUN)
def test_the_commands_run_as_printed_one_after_the_other(line: str, place: Path) -> None:
    done = run(f"{line} {ADDED.get(line, '')}", place)
    allowed = {0, ALARMS} if " nightly " in line else {0}
    assert done.returncode in allowed, done.stderr
    assert "Traceback" not in done.stderr
    named = re.findall(r"--(?:out|report) (\S+)", line)
    for name in named:
        assert (place / name).exists()
    if line == "make demo":
        (printed,) = (block for block in fenced("") if "official score:" in block)
        shape = [re.sub(r"[\d.]+", "#", normal(row)) for row in printed.splitlines()]
        got = [re.sub(r"[\d.]+", "#", normal(row)) for row in done.stdout.splitlines()]
        assert got[: len(shape)] == shape
        assert (place / "demo" / "report.html").exists()
    elif not named:
        assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.integration
def test_python_and_sql_read_the_scores(place: Path) -> None:
    (python,), (sql,) = fenced("python"), fenced("sql")
    (place / "read.py").write_text(python)
    done = run(".venv/bin/python read.py", place)
    assert done.returncode == 0, done.stderr
    scores = [float(row.split()[-1]) for row in done.stdout.splitlines()[1:]]
    assert len(scores) == 10
    query = f"import duckdb, json; print(json.dumps(duckdb.sql({sql!r}).fetchall()))\n"
    (place / "query.py").write_text(query)
    done = run(".venv/bin/python query.py", place)
    assert done.returncode == 0, done.stderr
    found = [score for _, score in json.loads(done.stdout)]
    assert found == sorted(found, reverse=True)
    assert found == pytest.approx(scores, abs=1e-4)
