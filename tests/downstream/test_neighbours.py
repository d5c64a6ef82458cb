import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors

from ray_asd.downstream.neighbours import Neighbours


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (300, 1), (300, 4), (3000, 32)])
def test_equals_scikit_learn(metric, n, k):
    random = np.random.default_rng(n + k)
    points, queries = random.normal(size=(n, 24)), random.normal(size=(50, 24))
    distances, indices = Neighbours(points, metric).search(queries, k)
    theirs = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(points)
    expected, order = theirs.kneighbors(queries)
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(indices, order)


def test_exact_where_float32_is_blind():
    # Two far clusters: about their common centre, float32 cannot tell a cluster's points apart.
    random = np.random.default_rng(0)
    points = 1e-6 * random.normal(size=(400, 16)) + np.repeat([[1e3], [-1e3]], 200, axis=0)
    queries = points[::7] + 1e-7 * random.normal(size=(58, 16))
    distances, indices = Neighbours(points, "euclidean").search(queries, 3)
    whole = np.sqrt(((queries[:, None] - points) ** 2).sum(-1))
    np.testing.assert_array_equal(indices, np.argsort(whole, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(whole, axis=1)[:, :3], rtol=1e-12)


def test_finds_the_nearest_by_rescaled_distance():
    random = np.random.default_rng(1)
    points, queries = random.normal(size=(500, 8)), random.normal(size=(40, 8))
    scale = np.exp(2 * random.normal(size=500))
    distances, _ = Neighbours(points, "euclidean").search(queries, 4, scale)
    whole = np.sqrt(((queries[:, None] - points) ** 2).sum(-1)) / scale
    np.testing.assert_allclose(distances, np.sort(whole, axis=1)[:, :4], rtol=1e-12)


def test_ties_go_to_the_first():
    points = np.zeros((100, 3))
    distances, indices = Neighbours(points, "euclidean").search(np.ones((2, 3)), 4)
    np.testing.assert_array_equal(indices, [[0, 1, 2, 3]] * 2)
    np.testing.assert_allclose(distances, np.sqrt(3))


def test_each_others_leaves_the_point_itself_out():
    points = np.array([[0.0], [1.0], [3.0], [3.0], [3.0], [3.0]])
    distances, indices = Neighbours(points, "euclidean").each_others(2)
    np.testing.assert_array_equal(distances[:3], [[1, 3], [1, 2], [0, 0]])
    assert all(i not in row for i, row in enumerate(indices.tolist()))


coordinates = st.integers(-4, 4) | st.floats(-1e3, 1e3)


@settings(deadline=None)
@given(
    points=arrays(np.float64, st.tuples(st.integers(20, 60), st.just(3)), elements=coordinates),
    queries=arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=coordinates),
    metric=st.sampled_from(["euclidean", "cosine"]),
)
def test_a_query_is_answered_alike_in_any_batch(points, queries, metric):
    neighbours = Neighbours(points, metric)
    distances, indices = neighbours.search(queries, 3)
    for i in range(len(queries)):
        alone, at = neighbours.search(queries[i : i + 1], 3)
        np.testing.assert_array_equal(alone[0], distances[i])
        np.testing.assert_array_equal(at[0], indices[i])
