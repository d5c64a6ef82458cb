"""A map of embeddings: where a section's labelled clips lie among its normal training clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.decomposition import PCA

from ray_asd.bundle import Key
from ray_asd.downstream.neighbours import unit

# Each clip is heard and embedded anew, a tenth of a second or two a clip.
_MOST_MAPS = 8
_MOST_CLIPS = 320
_MOST_OF_A_MAP = 100
# With fewer normals two axes would say nothing.
_FEWEST_NORMALS = 3
# More dots would hide one another.
_MOST_NORMALS = 300

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Map:
    """Clips of one section on the two axes along which its normal clips differ most."""

    normals: Points
    """(n, 2) training clips; every so-manieth where there are many."""
    clips: Points
    """(m, 2)."""
    kinds: list[tuple[str, str]]
    """Domain and label of each clip."""
    shares: tuple[float, float]
    """Share of the normal clips' variance that each axis holds."""


def chosen(labelled: pa.Table, keys: Sequence[Key]) -> dict[Key, list[tuple[int, int]]]:
    """Part and row of the clips that are mapped, of the first of ``keys`` that have labels.

    Of many clips so many, evenly over the ranks of their scores: the highest is among them.

    Args:
        labelled: as of :attr:`ray_asd.reporting.tally.Tally.labelled`.
        keys: sections, the most urgent first.
    """
    order = [("score", "descending"), ("part", "ascending"), ("row", "ascending")]
    by_key: dict[Key, list[tuple[int, int]]] = {}
    columns = ("machine_type", "section", "part", "row")
    for row in labelled.sort_by(order).select(columns).to_pylist():
        place = row["part"], row["row"]
        by_key.setdefault((row["machine_type"], row["section"]), []).append(place)
    mapped = [key for key in keys if key in by_key][:_MOST_MAPS]
    most = min(_MOST_OF_A_MAP, _MOST_CLIPS // max(len(mapped), 1))
    return {key: _evenly(by_key[key], most) for key in mapped}


def project(normals: Points, clips: Points, kinds: list[tuple[str, str]]) -> Map | None:
    """The map by principal components of the normal clips; None of too few normals or no clip.

    Args:
        normals: (n, d) unit vectors.
        clips: (m, d) embeddings of any length; their directions count, as for the nearest clip.
        kinds: domain and label of each.
    """
    if len(normals) < _FEWEST_NORMALS or not len(clips):
        return None
    with np.errstate(invalid="ignore"):  # the shares of normals that do not differ at all
        pca = PCA(n_components=2, svd_solver="full").fit(normals)
    first, second = np.nan_to_num(pca.explained_variance_ratio_)
    shown = pca.transform(normals)[_evenly(range(len(normals)), _MOST_NORMALS)]
    return Map(shown, pca.transform(unit(clips)), kinds, (float(first), float(second)))


def _evenly(rows: Sequence[Any], most: int) -> list[Any]:
    """The first, the last, and others between at equal steps."""
    count = min(most, len(rows))
    return [rows[place] for place in np.linspace(0, len(rows) - 1, count).round().astype(int)]
