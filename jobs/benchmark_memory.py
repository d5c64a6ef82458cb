"""Memory of a training worker, by the number of clips: it should be the same.

Trains a small Transformer for an epoch or two on made-up fleets of several sizes, and looks at
what its workers hold of their own meanwhile (the object store's shared pages left out).

Example: python jobs/benchmark_memory.py --clips 500 --clips 5000
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import benchmark_train
import typer

import ray_asd
from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.pipelines import session

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

_SMALL = (
    "upstream.backbones.transformer.layers=1",
    "upstream.backbones.transformer.feed_forward=224",
    "upstream.batch=32",
)
_WORKER = b"ray::RayTrainWorker"
_EVERY_S = 0.2


@app.command()
def memory(
    clips: Annotated[list[int] | None, typer.Option(help="Default: 500 and 5,000.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """The largest private memory of a training worker for each number of clips, as JSON."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in clips or [500, 5000]:
            place = Path(folder) / str(count)
            place.mkdir()
            recordings = benchmark_train.made_fleet(place, count)
            small = recipes.load("first_shot", [*_SMALL, f"upstream.epochs={epochs}"])
            recipe = benchmark_train.only(small, "transformer")
            file = place / "recipe.yaml"
            file.write_text(recipe.to_yaml())
            console.say(f"benchmark: {count} clips")
            with session.session(), _watching() as seen:
                ray_asd.train(recordings, str(place / "run"), recipe=str(file))
            peaks[count] = round(max(seen) / 1000, 1)
    sys.stdout.write(json.dumps({"epochs": epochs, "worker_peak_mb": peaks}, indent=2) + "\n")


@contextmanager
def _watching() -> Iterator[list[int]]:
    """Private memory in kB of every Ray Train worker, again and again, until the block ends."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_EVERY_S):
            seen.extend(_private_kb())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _private_kb() -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(_WORKER) and _ours(process.name):
                yield int(_status(process.name)["RssAnon"].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the two looks


def _ours(pid: str) -> bool:
    """Whether this process started it, or one that started it, and so on."""
    while pid not in ("0", str(os.getpid())):
        pid = _status(pid)["PPid"]
    return pid != "0"


def _status(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


if __name__ == "__main__":
    app()
