"""A sweep as a picture: what each detector reaches by its size."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_asd.pipelines.tune_select import Done

_LABELS = {"official_score": "official score", "label_free": "label-free objective"}


def plot(done: list[Done], objective: str) -> bytes:
    """The best trial of each size, as SVG: a panel a kind of detector, a line a backbone.

    Args:
        done: the sweep's trials; those without the objective are left out.
        objective: what is drawn, one of :data:`ray_asd.pipelines.tune_select.OBJECTIVES`.
    """
    lines = _lines(done, objective)
    kinds = sorted({kind for kind, _ in lines})
    figure = Figure(figsize=(4.0 * max(1, len(kinds)), 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    for kind, panel in zip(kinds, axes, strict=True):
        _panel(panel, kind, {name: best for (of, name), best in lines.items() if of == kind})
    axes[0].set_ylabel(_LABELS[objective])
    text = io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _lines(done: list[Done], objective: str) -> dict[tuple[str, str], dict[int, float]]:
    """By kind of detector and line: the best figure of each size."""
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for one in done:
        reached = one.figure(objective)
        if reached is None:
            continue
        trial = one.trial
        per = trial.detector.per
        pooled = f"{per}, {trial.detector.pool}" if per == "segment" else per
        best = lines.setdefault((trial.detector.kind, f"{trial.backbone}, {pooled}"), {})
        best[trial.detector.size] = max(reached, best.get(trial.detector.size, reached))
    return lines


def _panel(panel: Axes, kind: str, lines: dict[str, dict[int, float]]) -> None:
    sizes = sorted({size for best in lines.values() for size in best})
    for name, best in sorted(lines.items()):
        points: list[Any] = sorted(best.items())
        panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
    panel.set_xlabel("size")
    panel.set_title(kind)
    panel.grid(alpha=0.2)
    panel.legend(fontsize=7)
