"""The negative log-likelihood under a mixture of Gaussians."""

import logging
import warnings
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from ray_asd import recipe
from ray_asd.downstream.detector import Arrays, Points, register
from ray_asd.downstream.neighbours import unit

log = logging.getLogger(__name__)

_POINTS_A_DIMENSION = 2
_BLOCK = 1 << 22  # float64 numbers held at once, 32 MiB


class Gmm:
    """A Gaussian mixture of scikit-learn's, full covariance, in Cholesky factors of precisions.

    Under the cosine metric it is a mixture over unit vectors. ``factors`` is (c, d, d), or
    (c, d) where the covariances are diagonal.
    """

    kind: ClassVar[str] = "gmm"

    def __init__(self, weights: Points, means: Points, factors: Points, metric: str) -> None:
        self._weights = weights
        self._means = means
        self._factors = factors
        self._metric = metric
        diagonals = factors if factors.ndim == 2 else np.diagonal(factors, axis1=1, axis2=2)
        width = means.shape[1]
        self._constants = (
            np.log(weights) + np.log(diagonals).sum(axis=1) - 0.5 * width * np.log(2 * np.pi)
        )

    @classmethod
    def fit(cls, points: Points, settings: recipe.Gmm, seed: int) -> Self:
        """Fit ``size`` components to points (n, d).

        Of as many fits as the settings have starts, each from another clustering, the likeliest
        is kept: EM ends in the nearest optimum, and which one is near to a single start can
        change with the last bits of the points.

        Too few points make for fewer components, two points each at least, and fewer than two
        points a dimension for each component for diagonal covariances; both are logged. A full
        covariance of barely more points than dimensions is singular but for the
        regularization: what it has not seen is then a thousand deviations away.
        """
        if settings.metric == "cosine":
            points = unit(points)
        components = max(1, min(settings.size, len(points) // 2))
        if components < settings.size:
            log.warning(
                "gmm: size %d, but %d points: %d used", settings.size, len(points), components
            )
        shape = "full"
        if len(points) < _POINTS_A_DIMENSION * points.shape[1] * components:
            shape = "diag"
            log.warning("gmm: %d points in %d dimensions: diagonal covariances", *points.shape)
        mixture = _fit(points, components, shape, settings, seed)
        return cls(mixture.weights_, mixture.means_, mixture.precisions_cholesky_, settings.metric)

    def score(self, points: Points) -> Points:
        """Negative log-likelihoods (m,) of points (m, d), in nats."""
        if self._metric == "cosine":
            points = unit(points)
        scores = np.empty(len(points))
        rows = max(1, _BLOCK // self._means.size)
        for start in range(0, len(points), rows):
            block = slice(start, start + rows)
            scores[block] = -logsumexp(self._log_densities(points[block]), axis=1)
        return scores

    def arrays(self) -> Arrays:
        """Weights (c,), means (c, d) and factors of the precisions."""
        return {"weights": self._weights, "means": self._means, "factors": self._factors}

    def meta(self) -> dict[str, Any]:
        """Kind and metric."""
        return {"kind": self.kind, "metric": self._metric}

    @classmethod
    def restore(cls, arrays: Arrays, meta: dict[str, Any]) -> Self:
        """From :meth:`arrays` and :meth:`meta`."""
        return cls(arrays["weights"], arrays["means"], arrays["factors"], meta["metric"])

    def _log_densities(self, points: Points) -> Points:
        """Log of weight times density (m, c), of each component."""
        centred = points[:, None, :] - self._means
        if self._factors.ndim == 2:
            whitened = centred * self._factors
        else:
            # A product per row: one product of the whole batch would round by the batch's size.
            whitened = np.matmul(centred[:, :, None, :], self._factors)[:, :, 0, :]
        densities: Points = self._constants - 0.5 * (whitened * whitened).sum(axis=-1)
        return densities


register(Gmm)


def _fit(points: Points, components: int, shape: str, settings: recipe.Gmm, seed: int) -> Any:
    # Slow to import, and scoring needs none of it.
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    # scikit-learn wants two points; the same one twice has the same mean and no spread.
    samples = np.repeat(points, 2, axis=0) if len(points) == 1 else points
    attempts = [(components >> halvings, shape) for halvings in range(components.bit_length())]
    for count, covariance in [*attempts, (1, "diag")]:
        mixture = GaussianMixture(
            n_components=count,
            covariance_type=covariance,
            reg_covar=settings.regularization,
            # From every start the same one is reached where there is but one component.
            n_init=settings.starts if count > 1 else 1,
            random_state=seed,
        )
        # Threads would sum in another order each time.
        with warnings.catch_warnings(record=True) as caught, threadpool_limits(limits=1):
            warnings.simplefilter("always", ConvergenceWarning)
            try:
                mixture.fit(samples)
            except ValueError as error:
                log.warning("gmm: %d %s components cannot be fitted: %s", count, covariance, error)
                continue
        for warning in caught:
            log.warning("gmm: %s", warning.message)
        return mixture
    raise ValueError(f"no Gaussian can be fitted to the {len(points)} points; raise regularization")
