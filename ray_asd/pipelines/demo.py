"""Everything once, on a fleet made up for it: synthesize, index, train, fit, score, evaluate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray_asd import console
from ray_asd.archive import fleet
from ray_asd.errors import BadInput
from ray_asd.pipelines import evaluate, fit, index, score, session, train


def demo(out: str = "demo", *, address: str | None = None) -> dict[str, Any]:
    """Make a small fleet under ``out`` and run the whole system on it, trained and untrained.

    The untrained system is the same in everything but its backbones, which keep their random
    initial weights: what training is worth is the difference of the two official scores.

    Args:
        out: a folder; ``recordings/``, ``manifest.parquet``, ``upstream/``, ``bundle/``,
            ``scores/`` and ``untrained/`` come into it.
        address: a Ray cluster's address, for one on this machine; None starts a local Ray.

    Returns:
        The evaluation of the trained and of the untrained system, seconds of each step, and
        where everything lies.
    """
    if "://" in out:
        raise BadInput(f"--out {out}: the demo wants a folder of this machine")
    place = Path(out)
    recordings, manifest = str(place / "recordings"), str(place / "manifest.parquet")
    seconds: dict[str, float] = {}
    began = last = time.monotonic()

    def ended(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        seconds[step], last = round(now - last, 1), now

    console.say(f"demo: a small fleet of machines in {recordings}")
    clips = fleet.synthesize(recordings, train_source=80, train_target=10, test_per_cell=20)
    ended("synthesize")
    index.index(recordings, manifest)
    with session.session(address):
        ended("index and start Ray")
        paths = _System(place, manifest)
        paths.train([])
        ended("train")
        paths.fit()
        ended("fit")
        scored = paths.score()
        ended("score")
        trained = paths.evaluate()
        console.say("demo: the same with untrained backbones, to compare")
        bare = _System(place / "untrained", manifest)
        bare.train(["upstream.epochs=0"], features=str(place / "upstream" / "features"))
        bare.fit()
        bare.score()
        untrained = bare.evaluate()
        ended("untrained system")
    return {
        "clips": clips,
        "trained": trained,
        "untrained": untrained,
        "scored": scored["scored"],
        "rejected": scored["rejected"],
        "seconds": {**seconds, "total": round(time.monotonic() - began, 1)},
        "paths": {
            "recordings": recordings,
            "manifest": manifest,
            "upstream": paths.upstream,
            "bundle": paths.bundle,
            "scores": paths.scores,
        },
    }


class _System:
    """One system's folders, and the steps between them."""

    def __init__(self, place: Path, manifest: str) -> None:
        self._manifest = manifest
        self.upstream = str(place / "upstream")
        self.bundle = str(place / "bundle")
        self.scores = str(place / "scores")

    def train(self, settings: list[str], features: str | None = None) -> None:
        train.train(
            self._manifest,
            self.upstream,
            recipe="demo",
            settings=settings,
            features_uri=features,
        )

    def fit(self) -> None:
        fit.fit(self._manifest, self.upstream, self.bundle)

    def score(self) -> dict[str, Any]:
        return score.score(self._manifest, self.bundle, self.scores, split="test")

    def evaluate(self) -> dict[str, Any]:
        return evaluate.evaluate(self.scores)
