"""What a run says while it works: on standard error, so that standard output stays a result."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 60.0
_MOST_WARNINGS = 5

console = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print one plain line."""
    console.print(line, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print one line that asks for attention."""
    console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


def warn_some(what: str, lines: list[str]) -> None:
    """Warn of each of ``lines``, or of the first few and how many more there are."""
    for line in lines[:_MOST_WARNINGS]:
        warn(f"{what}: {line}")
    if len(lines) > _MOST_WARNINGS:
        warn(f"{what}: {len(lines) - _MOST_WARNINGS} more")


Advance = Callable[[int, str], None]


@contextmanager
def track(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Show how far a step has come; yields ``advance(count, note)``.

    On a terminal a bar with the time left; otherwise a line at the start, one a minute, and one
    at the end.
    """
    started = time.monotonic()
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        ) as progress:
            task = progress.add_task(what, total=total, note="")

            def advance(count: int, note: str = "") -> None:
                progress.update(task, advance=count, note=note)

            yield advance
        return

    done, last = 0, started
    say(f"{what}: {total} {unit}")

    def line(count: int, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / done * (total - done) if done else float("nan")
            say(f"{what}: {done} of {total} {unit}, {left:.0f} s left {note}".rstrip())

    yield line
    say(f"{what}: done in {time.monotonic() - started:.1f} s")
    sys.stderr.flush()
