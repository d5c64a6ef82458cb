import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from ray_asd import recipe
from ray_asd.downstream import fit

SHIPPED = recipe.load("first_shot").downstream.detectors["knn"]


def knn(points, **changes):
    domains = np.full(len(points), "source")
    return fit(np.asarray(points, float), domains, SHIPPED.model_copy(update=changes))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("size", [1, 2, 4, 16, 32])
def test_equals_scikit_learn(metric, size):
    random = np.random.default_rng(size)
    points, queries = random.normal(size=(500, 128)), random.normal(size=(70, 128))
    theirs = NearestNeighbors(n_neighbors=size, metric=metric, algorithm="brute").fit(points)
    np.testing.assert_allclose(
        knn(points, size=size, metric=metric).score(queries),
        theirs.kneighbors(queries)[0].mean(axis=1),
        rtol=1e-12,
    )


def test_distance_over_the_neighbours_own_density():
    # 0, 1, 2 lie 1 apart, 10 and 14 lie 4 apart; each one's nearest neighbour counts.
    detector = knn([[0], [1], [2], [10], [14]], metric="euclidean", size=1, density_neighbours=1)
    np.testing.assert_allclose(detector.score(np.array([[-2.0], [8.0], [20.0], [4.0]])), [
        2 / 1, 2 / 4, 6 / 4, 6 / 4,
    ])  # fmt: skip
    both = knn([[0], [1], [2], [10], [14]], metric="euclidean", size=1, density_neighbours=2)
    np.testing.assert_allclose(both.score(np.array([[-3.0]])), [3 / 1.5])


def test_more_neighbours_for_density_than_there_are():
    few = knn([[0], [1], [4]], metric="euclidean", density_neighbours=4)
    np.testing.assert_allclose(few.score(np.array([[-5.0], [9.0]])), [5 / 2.5, 5 / 3.5])


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 4))
def test_monotone_in_distance(near, far, size):
    detector = knn([[0, 0], [0, 1], [0, -1], [0, 2]], metric="euclidean", size=size)
    scores = detector.score(np.array([[min(near, far), 0], [max(near, far), 0]]))
    assert scores[0] <= scores[1]
