"""Counts, curves and spectrograms as SVG that reads on a light and on a dark page.

Matplotlib draws; its ink becomes ``currentColor``, so that a chart has the colour of the text
around it, on paper too. No text of a recording's name is ever drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ray_asd import metrics
from ray_asd.ensemble import Reference
from ray_asd.recipe import FrontEnd
from ray_asd.reporting.maps import Map
from ray_asd.reporting.sound import Picture
from ray_asd.reporting.summary import Alarms, Counts
from ray_asd.reporting.tally import EDGES

_INK = "#010203"
_BLUE, _ORANGE, _GREEN, _GREY = "#3f8fd6", "#e0762f", "#3aa57a", "#8a8f98"
_KINDS = {
    ("source", "normal"): (_BLUE, "-"),
    ("target", "normal"): (_GREEN, "--"),
    ("source", "anomaly"): (_ORANGE, "-"),
    ("target", "anomaly"): (_ORANGE, "--"),
}
_TICKS = np.array([-300, -100, -30, -10, -5, -2, 0, 2, 5, 10, 20, 50, 100, 300, 1000])
_TICKS_HZ = (200, 500, 1000, 2000, 4000, 8000, 16000)
# False-positive rates that the pAUC is over, as in ``ray_asd.metrics``.
_PAUC = 0.1
# Bins of the counts that make one bar.
_BAR = 4
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.columnspacing": 1.0,
    "legend.handlelength": 1.6,
    "legend.labelspacing": 0.2,
}


def distribution(name: str, counts: Counts, reference: Reference | None) -> str:
    """A section's scores (bins,) beside those of its reference normals, with the threshold.

    ``name`` tells one chart of a page from another; it is not drawn.
    """
    with _drawing(name):
        figure, axes = _figure()
        shown = [counts]
        if reference is not None:
            own = _counted(reference.scores)
            shown.append(own)
            _bars(axes, own, _GREY, f"reference normals ({len(reference.scores)})", filled=True)
        _bars(axes, counts, _BLUE, f"scored ({counts.sum():,})")
        _score_axis(axes, shown)
        if reference is not None:
            _threshold(axes, reference.threshold)
        axes.set_ylabel("share of clips")
        _legend(axes)
        return _svg(figure)


def trend(name: str, nights: Mapping[str, Alarms], false_alarm_rate: float) -> str:
    """Share of clips above the threshold, night by night."""
    with _drawing(name):
        figure, axes = _figure()
        places = np.arange(len(nights))
        shares = [alarms.share for alarms in nights.values()]
        axes.bar(places, shares, width=0.7, color=_BLUE)
        axes.axhline(false_alarm_rate, color=_INK, linewidth=1, linestyle="--")
        axes.set_ylim(0, max(1.15 * max(shares), 2 * false_alarm_rate))
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        ends = sorted({0, len(nights) - 1})
        axes.set_xticks(ends, [list(nights)[place] or "before" for place in ends])
        # So that they end where the axis does.
        first, *rest = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        for label in rest:
            label.set_horizontalalignment("right")
        axes.set_ylabel("above threshold")
        return _svg(figure)


def kinds(name: str, by_kind: Mapping[tuple[str, str], Counts], threshold: float | None) -> str:
    """A section's scores (bins,) by domain and label."""
    with _drawing(name):
        figure, axes = _figure(legend_rows=3)
        known = {kind: by_kind[kind] for kind in _KINDS if kind in by_kind}
        for (domain, label), counts in known.items():
            colour, line = _KINDS[domain, label]
            _bars(axes, counts, colour, f"{domain} {label} ({counts.sum():,})", line=line)
        _score_axis(axes, list(known.values()))
        if threshold is not None:
            _threshold(axes, threshold)
        axes.set_ylabel("share of clips")
        _legend(axes)
        return _svg(figure)


def curves(name: str, rows: metrics.Rows) -> str:
    """A section's ROC: each domain's normal clips against the anomalies of both domains.

    As the AUC of a domain is defined; the shaded part is that of the pAUC, of all clips.
    """
    with _drawing(name):
        figure, axes = _figure()
        anomalies = rows.score[rows.label == "anomaly"]
        for domain, colour, line in (("source", _BLUE, "-"), ("target", _GREEN, "--")):
            normals = rows.score[(rows.label == "normal") & (rows.domain == domain)]
            if not len(normals) or not len(anomalies):
                continue
            truth = np.repeat([0, 1], [len(normals), len(anomalies)])
            false, true, _ = roc_curve(truth, np.concatenate([normals, anomalies]))
            axes.plot(false, true, color=colour, linestyle=line, label=domain, linewidth=1.6)
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
        axes.axvspan(0, _PAUC, color=_GREY, alpha=0.2, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="false alarms", ylabel="anomalies found")
        _legend(axes)
        return _svg(figure)


def embeddings(name: str, drawn: Map) -> str:
    """A section's map: its normal training clips, and test clips by domain and label."""
    with _drawing(name):
        figure, axes = _figure(legend_rows=3)
        style: dict[str, Any] = {"linewidths": 0, "s": 20}
        told = f"normal training ({len(drawn.normals)})"
        axes.scatter(*drawn.normals.T, color=_GREY, alpha=0.5, label=told, **style)
        for kind, (colour, line) in _KINDS.items():
            own = drawn.clips[[other == kind for other in drawn.kinds]]
            if len(own):
                marker = "o" if line == "-" else "^"
                told = f"{' '.join(kind)} ({len(own)})"
                axes.scatter(*own.T, color=colour, marker=marker, label=told, **style)
        axes.locator_params(nbins=5)
        first, second = drawn.shares
        axes.set(xlabel=f"first axis ({first:.0%})", ylabel=f"second axis ({second:.0%})")
        _legend(axes)
        return _svg(figure)


def limits(pictures: Sequence[Picture]) -> tuple[float, float]:
    """The weakest and the strongest power in dB that pictures side by side show, for all alike."""
    values = np.concatenate([picture.ravel() for picture in pictures])
    low, high = np.percentile(values, [5, 99.9])
    return float(max(low, high - 60)), float(high)


def spectrogram(
    name: str,
    picture: Picture,
    duration_s: float,
    front_end: FrontEnd,
    power_db: tuple[float, float],
    *,
    segments: tuple[Sequence[float], Sequence[float], float] | None = None,
    threshold: float | None = None,
) -> str:
    """A clip's spectrogram, and below it the score of each segment over the same time.

    Args:
        name: as in :func:`distribution`.
        picture: (bands, columns), dB.
        duration_s: the clip's.
        front_end: says which frequencies the bands are of.
        power_db: weakest and strongest power, dB.
        segments: each one's score, its start in seconds, and how long all are.
        threshold: the section's.
    """
    height = float if front_end.mels == "bins" else _mel
    with _drawing(name, {"axes.grid": False}):
        figure = Figure(figsize=(4.8, 3.0 if segments else 2.25))
        figure.subplots_adjust(0.12, 0.15 if segments else 0.2, 0.97, 0.97, hspace=0.12)
        heights = [3, 1] if segments else [1]
        rows = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
        axes = rows[0, 0]
        axes.imshow(
            picture,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=power_db[0],
            vmax=power_db[1],
            extent=(0, duration_s, height(front_end.low_hz), height(front_end.high_hz)),
            interpolation="none",
        )
        told = [hz for hz in _TICKS_HZ if front_end.low_hz <= hz <= front_end.high_hz]
        axes.set_yticks([height(hz) for hz in told], [f"{hz / 1000:g}" for hz in told])
        axes.set_ylabel("kHz")
        if segments:
            _strip(rows[1, 0], *segments, threshold)
        rows[-1, 0].set_xlabel("s")
        return _svg(figure)


def _strip(
    axes: Axes,
    scores: Sequence[float],
    starts_s: Sequence[float],
    length_s: float,
    threshold: float | None,
) -> None:
    alarm = np.inf if threshold is None else threshold
    colours = [_ORANGE if score > alarm else _BLUE for score in scores]
    ends = [start + length_s for start in starts_s]
    axes.hlines(scores, starts_s, ends, colors=colours, linewidth=2.5)
    if threshold is not None:
        _threshold(axes, threshold, across=True)
    axes.set_ylabel("score")


def _drawing(name: str, more: Mapping[Any, Any] = MappingProxyType({})) -> Any:
    """Settings for one chart; from ``name`` come the names of its parts."""
    return mpl.rc_context({**_SETTINGS, **more, "svg.hashsalt": name})


def _figure(legend_rows: int = 2) -> tuple[Figure, Axes]:
    """All of one size, so that two side by side have one size of text."""
    width, top = 3.8, 0.08 + 0.17 * legend_rows
    height = 2.2 + top
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.72 / width, 0.5 / height, 1 - 0.15 / width, 1 - top / height)
    return figure, figure.subplots()


def _counted(scores: npt.NDArray[np.float64]) -> Counts:
    return np.bincount(np.searchsorted(EDGES, scores, side="right"), minlength=len(EDGES) + 1)


def _bars(
    axes: Axes, counts: Counts, colour: str, label: str, *, filled: bool = False, line: str = "-"
) -> None:
    """Shares of ``counts``, four bins a bar; what lies beyond the edges counts to the last bars."""
    inner = counts[1:-1].copy()
    inner[0] += counts[0]
    inner[-1] += counts[-1]
    shares = np.add.reduceat(inner, np.arange(0, len(inner), _BAR)) / max(counts.sum(), 1)
    style: dict[str, Any] = {"color": colour, "label": label}
    if filled:
        axes.stairs(shares, EDGES[::_BAR], fill=True, alpha=0.45, **style)
    else:
        axes.stairs(shares, EDGES[::_BAR], linewidth=1.6, linestyle=line, **style)


def _score_axis(axes: Axes, shown: Sequence[Counts]) -> None:
    """From the lowest to the highest score that is there; linear about 0, then logarithmic."""
    filled = np.flatnonzero(np.sum(shown, axis=0))
    last = len(EDGES) - 1
    low = EDGES[max(filled[0] - 1 - _BAR, 0)] if len(filled) else -1.0
    high = EDGES[min(filled[-1] + _BAR, last)] if len(filled) else 1.0
    axes.set_xscale("asinh", linear_width=3)
    axes.set_xlim(low, high)
    told = _TICKS[(low <= _TICKS) & (high >= _TICKS)]
    axes.set_xticks(told, [f"{tick:g}" for tick in told])
    axes.minorticks_off()
    axes.set_xlabel("score")


def _threshold(axes: Axes, threshold: float, *, across: bool = False) -> None:
    draw = axes.axhline if across else axes.axvline
    draw(threshold, color=_INK, linewidth=1, linestyle="--", label=None if across else "threshold")


def _legend(axes: Axes) -> None:
    """Above the axes, where no curve runs."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2, borderaxespad=0)


def _mel(hz: float) -> float:
    """The HTK mel scale, as the front end's."""
    return float(2595 * np.log10(1 + hz / 700))


# Names that charts on one page share, fonts that are the page's to choose, and a style sheet
# that would hold for the whole page.
_NOISE = re.compile(
    r' id="(?:figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|legend|\w*Collection)_\d+"'
    r"|(?<=; )font-family: [^;\"]*; |<style.*?</style>",
    re.DOTALL,
)


def _svg(figure: Figure) -> str:
    held = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(held, format="svg", transparent=True, metadata=nothing)
    text = held.getvalue()
    head, _, body = text[text.index("<svg") :].partition(">")
    head = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    body = _NOISE.sub("", body).replace(_INK, "currentColor")
    return f"{head}>{body.strip()}"
