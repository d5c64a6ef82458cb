"""Training's lines of metrics, from the workers to whoever watches. Light: it imports no torch."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import ray
from tensorboardX import SummaryWriter

from ray_asd import console
from ray_asd.archive import store
from ray_asd.pipelines import placement

EVENTS = "events.out.tfevents.epochs"
"""TensorBoard's log; it looks for files whose name holds ``tfevents``."""


class MetricsLog:
    """An actor that takes the lines that rank 0 reports to where the driver can fetch them."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._failure: tuple[str, str] | None = None

    def fail(self, kind: str, line: str) -> None:
        """Keep why no worker need try again: an exception's kind and its one line."""
        self._failure = self._failure or (kind, line)

    def failure(self) -> tuple[str, str] | None:
        """The first such error."""
        return self._failure

    def add(self, line: dict[str, Any]) -> None:
        """Keep one epoch's line."""
        self._lines.append(line)

    def after(self, count: int) -> list[dict[str, Any]]:
        """The lines after the first ``count``."""
        return self._lines[count:]


@contextmanager
def followed(epochs: dict[str, int], out: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Show epochs as they end, and leave each backbone's lines as ``<name>/metrics.jsonl``.

    They, and TensorBoard's log of them, are written as they come, so that a driver that is killed
    leaves them too. ``epochs`` are those of each backbone, in the order in which they are trained.
    Yields the actor that workers report to, and the lines that came so far.
    """
    log = ray.remote(**placement.beside_the_driver())(MetricsLog).remote()
    lines: list[dict[str, Any]] = []
    ended = threading.Event()
    place = 0
    before = dict(zip(epochs, accumulate(epochs.values(), initial=0), strict=False))
    with console.track("train", sum(epochs.values()), "epochs") as advance:

        def fetch() -> None:
            nonlocal place
            try:
                fresh = ray.get(log.after.remote(len(lines)))
            except ray.exceptions.RayActorError:
                # Its node is gone; how the training ended is the trainer's to tell.
                return
            for line in fresh:
                lines.append(line)
                # A resumed training starts further on, or repeats epochs.
                at = before[line["backbone"]] + line["epoch"]
                advance(max(0, at - place), _in_words(line))
                place = max(place, at)
            if fresh:
                going_on = {line["backbone"] for line in fresh}
                _write([line for line in lines if line["backbone"] in going_on], out)

        def follow() -> None:
            while not ended.wait(1.0):
                fetch()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield log, lines
        finally:
            ended.set()
            thread.join()
            fetch()


def last_lines(out: str, backbones: list[str]) -> list[dict[str, Any]]:
    """The last line of each backbone that has any in the upstream run ``out``."""
    found = (_read(store.join(out, backbone, "metrics.jsonl")) for backbone in backbones)
    return [lines[-1] for lines in found if lines]


def _read(place: str) -> list[dict[str, Any]]:
    if not store.exists(place):
        return []
    return [json.loads(line) for line in store.read_bytes(place).splitlines()]


def _write(lines: list[dict[str, Any]], out: str) -> None:
    for backbone in dict.fromkeys(line["backbone"] for line in lines):
        place = store.join(out, backbone, "metrics.jsonl")
        # A resumed training repeats the epochs since its last checkpoint.
        own = [line for line in lines if line["backbone"] == backbone]
        before = [line for line in _read(place) if line["epoch"] < own[0]["epoch"]]
        by_epoch = {line["epoch"]: line for line in [*before, *own]}
        text = "".join(json.dumps(by_epoch[epoch]) + "\n" for epoch in sorted(by_epoch))
        store.make_dir(store.join(out, backbone))
        store.write_atomic(place, text.encode())
        events = _events([by_epoch[epoch] for epoch in sorted(by_epoch)])
        store.write_atomic(store.join(out, backbone, EVENTS), events)


def _events(lines: list[dict[str, Any]]) -> bytes:
    """A TensorBoard log of the lines: a scalar for each number, by epoch.

    Written anew each time, as ``metrics.jsonl`` is: what a log already holds keeps its place in
    it, so that a TensorBoard that reads on finds only what is new.
    """
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for line in lines:
                for name, value in line.items():
                    if isinstance(value, int | float) and name not in ("epoch", "epochs", "at"):
                        writer.add_scalar(name, value, line["epoch"], walltime=line.get("at"))
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _in_words(line: dict[str, Any]) -> str:
    parts = [
        f"{name} {line[key]:.3f}"
        for name, key in (
            ("loss", "loss"),
            ("held-out loss", "held_out_loss"),
            ("machine types", "held_out_accuracy_machine_type"),
            ("attributes", "held_out_accuracy_attributes"),
        )
        if line.get(key) is not None
    ]
    if "clips_per_s" in line:
        parts.append(f"{line['clips_per_s']:.0f} clips/s")
    return f"({line['backbone']}: {', '.join(parts) or 'left as it is'})"
