"""Charts are SVG that stands in a page: themed, self-contained, the same each time."""

import re

import numpy as np
import pytest

from ray_asd import metrics
from ray_asd.ensemble import Reference
from ray_asd.recipe import FrontEnd
from ray_asd.reporting import charts
from ray_asd.reporting.maps import Map
from ray_asd.reporting.summary import Alarms
from ray_asd.reporting.tally import EDGES
from tests.reporting.conftest import RECIPE

COUNTS = np.bincount([0, 100, 140, 150, 200, len(EDGES)], minlength=len(EDGES) + 1)
REFERENCE = Reference(("a",), "mean", np.sort(np.random.default_rng(0).normal(size=30)), 1.3)
PICTURE = np.random.default_rng(0).normal(size=(56, 100)).astype(np.float32)
ROWS = metrics.Rows(
    *(np.array(["x"] * 8) for _ in range(2)),
    domain=np.array(["source", "target"] * 4),
    label=np.array(["normal"] * 4 + ["anomaly"] * 4),
    score=np.arange(8.0),
    decision=None,
)

MAP = Map(
    np.random.default_rng(0).normal(size=(20, 2)),
    np.zeros((3, 2)),
    [("source", "normal"), ("target", "anomaly"), ("unknown", "normal")],
    (0.5, 0.2),
)


def spectrogram(name: str) -> str:
    strip = ([0.1, 3.0], [0.0, 1.0], 2.0)
    power = charts.limits([PICTURE, PICTURE - 80])
    return charts.spectrogram(
        name, PICTURE, 3.0, RECIPE.front_end, power, segments=strip, threshold=1.0
    )


def drawn(name: str) -> list[str]:
    nights = {"": Alarms(10, 1), "2026-01-01": Alarms(4, 2), "$x": Alarms(4, 0)}
    kinds = {("source", "normal"): COUNTS, ("unknown", "unknown"): COUNTS}
    return [
        charts.distribution(name, COUNTS, REFERENCE),
        charts.distribution(name, COUNTS, None),
        charts.trend(name, nights, 0.1),
        charts.kinds(name, kinds, 1.3),
        charts.kinds(name, {}, None),
        charts.curves(name, ROWS),
        spectrogram(name),
        charts.embeddings(name, MAP),
    ]


@pytest.mark.parametrize("number", range(8))
def test_a_chart_stands_in_any_page(number: int) -> None:
    chart = drawn("one")[number]
    assert chart.startswith("<svg viewBox=")
    assert chart.endswith("</svg>")
    assert "currentColor" in chart
    assert "#010203" not in chart
    assert "://" not in chart
    for style in ("<style", "font-family", "xmlns"):
        assert style not in chart


def test_charts_of_one_page_share_no_names() -> None:
    names = [re.findall(r' id="([^"]*)"', chart) for name in ("a", "b") for chart in drawn(name)]
    for one, other in zip(names[:8], names[8:], strict=True):
        assert not set(one) & set(other)


def test_a_chart_is_the_same_each_time() -> None:
    assert drawn("one") == drawn("one")


def test_a_curve_needs_both_classes() -> None:
    normals = ROWS.select(ROWS.label == "normal")
    assert charts.curves("one", normals).startswith("<svg")


def test_the_strip_goes_over_the_spectrograms_time() -> None:
    pictures = re.findall("<image", spectrogram("one"))
    assert len(pictures) == 1
    assert spectrogram("one").count(">score<") == 1


@pytest.mark.parametrize("mels", [64, "bins"])
def test_frequencies_stand_where_the_front_end_s_bands_are(mels: int | str) -> None:
    front_end = FrontEnd(**{**RECIPE.front_end.model_dump(), "mels": mels})
    chart = charts.spectrogram("f", PICTURE, 3.0, front_end, (-60, 0))
    found = re.findall(r'text-anchor: end[^>]*? y="([\d.]+)"[^>]*>([\d.]+)</text>', chart)
    heights = np.array([-float(y) for y, _ in found])
    hz = np.array([1000 * float(label) for _, label in found])
    assert hz.tolist() == [200, 500, 1000, 2000, 4000]
    places = hz if mels == "bins" else np.log10(1 + hz / 700)
    steps = np.diff(heights) / np.diff(places)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
