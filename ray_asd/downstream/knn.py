"""The mean distance to the k nearest reference points."""

import logging
from typing import Any, ClassVar, Self

import numpy as np

from ray_asd import recipe
from ray_asd.downstream.detector import Arrays, Points, register
from ray_asd.downstream.neighbours import Metric, Neighbours

log = logging.getLogger(__name__)

_DENSEST = 1e-10  # identical points have no distance to divide by; scikit-learn's guard in LOF


class Knn:
    """k nearest neighbours, exact; plain, or each distance over the neighbour's local density.

    Density: a reference point's own mean distance to its nearest few (K. Wilkinghoff et al.,
    Local density-based anomaly score normalization for domain generalization, 2025). The k
    nearest are then those nearest by the rescaled distance.
    """

    kind: ClassVar[str] = "knn"

    def __init__(self, points: Points, density: Points, k: int, metric: Metric) -> None:
        self._points = points
        self._density = density
        self._k = k
        self._neighbours = Neighbours(points, metric)

    @classmethod
    def fit(cls, points: Points, settings: recipe.Knn, seed: int) -> Self:
        """Keep points (n, d); a ``size`` above n uses all there are, and logs a warning."""
        k = min(settings.size, len(points))
        if k < settings.size:
            log.warning("knn: size %d, but %d reference points: all are used", settings.size, k)
        density = np.ones(0)
        # One point alone has no density; its plain distance then stands.
        if few := min(settings.density_neighbours, len(points) - 1):
            distances, _ = Neighbours(points, settings.metric).each_others(few)
            density = np.maximum(distances.mean(axis=1), _DENSEST)
        return cls(points, density, k, settings.metric)

    def score(self, points: Points) -> Points:
        """Mean distances (m,) of points (m, d)."""
        scale = self._density if len(self._density) else None
        distances, _ = self._neighbours.search(points, self._k, scale)
        mean: Points = distances.mean(axis=1)
        return mean

    def arrays(self) -> Arrays:
        """The reference points (n, d), and their densities (n,), or (0,) for plain distances."""
        return {"points": self._points, "density": self._density}

    def meta(self) -> dict[str, Any]:
        """Kind, k and metric."""
        return {"kind": self.kind, "k": self._k, "metric": self._neighbours.metric}

    @classmethod
    def restore(cls, arrays: Arrays, meta: dict[str, Any]) -> Self:
        """From :meth:`arrays` and :meth:`meta`."""
        return cls(arrays["points"], arrays["density"], meta["k"], meta["metric"])


register(Knn)
