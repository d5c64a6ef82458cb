"""Everything once, on a fleet made up for it: synthesize, index, train, fit, score, evaluate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray_asd import console
from ray_asd.archive import fleet
from ray_asd.errors import BadInput
from ray_asd.pipelines import evaluate, fit, index, report, score, session, train


def demo(out: str = "demo", *, address: str | None = None) -> dict[str, Any]:
    """Make a small fleet under ``out`` and run the whole system on it, trained and untrained.

    The untrained backbones differ in nothing but their weights, which stay random; they are an
    ensemble of their own in the same run. What training is worth is the difference of the two
    official scores.

    Args:
        out: a folder; ``recordings/``, ``manifest.parquet``, ``upstream/``, ``bundle/``,
            ``scores/`` and ``report.html`` come into it.
        address: a Ray cluster's address, for one on this machine; None starts a local Ray.

    Returns:
        The evaluation of the trained and of the untrained system, seconds of each step, and
        where everything lies.

    >>> demo()["trained"]["official_score"]  # doctest: +SKIP
    """
    if "://" in out:
        raise BadInput(f"--out {out}: the demo wants a folder of this machine")
    place = Path(out)
    recordings, manifest = str(place / "recordings"), str(place / "manifest.parquet")
    upstream, bundle, scores = (str(place / name) for name in ("upstream", "bundle", "scores"))
    seconds: dict[str, float] = {}
    began = last = time.monotonic()

    def ended(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        seconds[step], last = round(now - last, 1), now

    console.say(f"demo: a small fleet of machines in {recordings}")
    clips = fleet.synthesize(recordings, train_source=80, train_target=10, test_per_cell=16)
    ended("synthesize")
    index.index(recordings, manifest)
    with session.session(address):
        ended("index and start Ray")
        train.train(manifest, upstream, recipe="demo_compared")
        ended("train")
        fit.fit(manifest, upstream, bundle)
        ended("fit")
        scored = score.score(manifest, bundle, scores, split="test")
        ended("score")
    page = str(place / "report.html")
    report.report(scores, bundle, page, ensemble="all")
    ended("report")
    trained, untrained = (evaluate.evaluate(scores, ensemble=e) for e in ("all", "untrained"))
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
            "upstream": upstream,
            "bundle": bundle,
            "scores": scores,
            "report": page,
        },
    }
