"""Training's lines of metrics, from the workers to whoever watches. Light: it imports no torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ray_asd import console
from ray_asd.archive import store


class MetricsLog:
    """An actor that takes the lines that rank 0 reports to where the driver can fetch them."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Keep one epoch's line."""
        self._lines.append(line)

    def after(self, count: int) -> list[dict[str, Any]]:
        """The lines after the first ``count``."""
        return self._lines[count:]


@contextmanager
def followed(epochs: int, out: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Show epochs as they end, and leave each backbone's lines as ``<name>/metrics.jsonl``.

    Yields the actor that workers report to, and the lines that came so far.
    """
    log = ray.remote(num_cpus=0)(MetricsLog).remote()
    lines: list[dict[str, Any]] = []
    ended = threading.Event()
    with console.track("train", epochs, "epochs") as advance:

        def fetch() -> None:
            for line in ray.get(log.after.remote(len(lines))):
                lines.append(line)
                advance(1, _in_words(line))

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
            _write(lines, out)


def _write(lines: list[dict[str, Any]], out: str) -> None:
    for backbone in dict.fromkeys(line["backbone"] for line in lines):
        place = store.join(out, backbone, "metrics.jsonl")
        before = []
        if store.exists(place):
            before = [json.loads(line) for line in store.read_bytes(place).splitlines()]
        own = [line for line in lines if line["backbone"] == backbone]
        # A resumed training repeats the epochs since its last checkpoint.
        kept = [line for line in before if line["epoch"] < own[0]["epoch"]] + own
        text = "".join(json.dumps(line) + "\n" for line in kept)
        store.make_dir(store.join(out, backbone))
        store.write_atomic(place, text.encode())


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
    return f"({line['backbone']}: {', '.join(parts)}, {line['clips_per_s']:.0f} clips/s)"
