"""Processes that a benchmark sets beside the pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing.process import BaseProcess

import typer


def run(processes: Iterable[BaseProcess]) -> None:
    """Start them all, and wait for them all.

    Raises:
        Exit: one of them failed; it has said why.
    """
    started = list(processes)
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise typer.Exit(1)
