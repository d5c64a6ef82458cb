"""A few centroids in place of the many source points, so that the few target points count."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ray_asd.downstream.neighbours import Metric, Points, unit

log = logging.getLogger(__name__)


def with_source_centroids(
    points: Points, domains: npt.NDArray[Any], count: int, metric: Metric, seed: int
) -> tuple[Points, npt.NDArray[Any]]:
    """The points (n, d) and domains (n,), the source's replaced by ``count`` k-means centroids.

    All other points stay (K. Wilkinghoff, Self-supervised learning for anomalous sound
    detection, ICASSP 2024: 16 source means beside all target samples). Under the cosine metric
    the clusters are those of the unit vectors.
    """
    source = domains == "source"
    distinct = len(np.unique(points[source], axis=0))
    if distinct <= count:
        log.warning(
            "%d distinct source points, %d centroids asked for: all are kept", distinct, count
        )
        return points, domains
    if metric == "cosine":
        points = unit(points)
    from sklearn.cluster import KMeans  # noqa: PLC0415, slow to import; scoring needs none of it

    # Threads would sum in another order each time.
    with threadpool_limits(limits=1):
        kmeans = KMeans(n_clusters=count, n_init=1, random_state=seed).fit(points[source])
    centroids: Points = kmeans.cluster_centers_
    return (
        np.concatenate([centroids, points[~source]]),
        np.concatenate([np.full(count, "source"), domains[~source]]),
    )
