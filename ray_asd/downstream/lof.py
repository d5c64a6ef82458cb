"""The local outlier factor of new points, as scikit-learn's ``novelty=True`` has it."""

import logging
from typing import Any, ClassVar, Self

import numpy as np

from ray_asd import recipe
from ray_asd.downstream.detector import Arrays, Points, register
from ray_asd.downstream.neighbours import Metric, Neighbours

log = logging.getLogger(__name__)

_GUARD = 1e-10  # scikit-learn's: identical points would have no distance to divide by


class Lof:
    """Local outlier factor: how much sparser a point lies than its neighbours do.

    M. Breunig et al., LOF: identifying density-based local outliers, SIGMOD 2000. Scores equal
    the negative of scikit-learn's ``LocalOutlierFactor(novelty=True).score_samples``.
    """

    kind: ClassVar[str] = "lof"

    def __init__(
        self, points: Points, reach: Points, density: Points, k: int, metric: Metric
    ) -> None:
        self._points = points
        self._reach = reach
        self._density = density
        self._k = k
        self._neighbours = Neighbours(points, metric)

    @classmethod
    def fit(cls, points: Points, settings: recipe.Lof, seed: int) -> Self:
        """Take densities among points (n, d); ``size`` above n − 1 uses all, and logs a warning."""
        others = len(points) - 1
        k = max(1, min(settings.size, others))
        if k < settings.size:
            log.warning("lof: size %d, but %d neighbours: all are used", settings.size, others)
        if others:
            distances, indices = Neighbours(points, settings.metric).each_others(k)
            reach = distances[:, -1]
            density = _density(distances, reach[indices])
        else:
            reach = np.zeros(1)
            density = np.full(1, 1 / _GUARD)
        return cls(points, reach, density, k, settings.metric)

    def score(self, points: Points) -> Points:
        """Local outlier factors (m,) of points (m, d); about 1 within the reference's density."""
        distances, indices = self._neighbours.search(points, self._k)
        own = _density(distances, self._reach[indices])
        factor: Points = (self._density[indices] / own[:, None]).mean(axis=1)
        return factor

    def arrays(self) -> Arrays:
        """Reference points (n, d), distances to the k-th neighbour and reachability densities."""
        return {"points": self._points, "reach": self._reach, "density": self._density}

    def meta(self) -> dict[str, Any]:
        """Kind, k and metric."""
        return {"kind": self.kind, "k": self._k, "metric": self._neighbours.metric}

    @classmethod
    def restore(cls, arrays: Arrays, meta: dict[str, Any]) -> Self:
        """From :meth:`arrays` and :meth:`meta`."""
        return cls(arrays["points"], arrays["reach"], arrays["density"], meta["k"], meta["metric"])


register(Lof)


def _density(distances: Points, reach: Points) -> Points:
    """Local reachability density (m,) from distances to neighbours and their reach, both (m, k)."""
    density: Points = 1 / (np.maximum(distances, reach).mean(axis=1) + _GUARD)
    return density
