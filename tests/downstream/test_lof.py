import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from ray_asd import recipe
from ray_asd.downstream import fit

SHIPPED = recipe.load("first_shot").downstream.detectors["lof"]


def lof(points, **changes):
    domains = np.full(len(points), "source")
    return fit(np.asarray(points, float), domains, SHIPPED.model_copy(update=changes))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "size"), [(2, 1), (10, 32), (400, 1), (400, 4), (400, 32)])
def test_equals_scikit_learn(metric, n, size):
    random = np.random.default_rng(n + size)
    points, queries = random.normal(size=(n, 128)), 2 * random.normal(size=(70, 128))
    theirs = LocalOutlierFactor(n_neighbors=min(size, n - 1), metric=metric, novelty=True)
    np.testing.assert_allclose(
        lof(points, size=size, metric=metric).score(queries),
        -theirs.fit(points).score_samples(queries),
        rtol=1e-9,
    )


def test_equals_scikit_learn_among_duplicates():
    random = np.random.default_rng(0)
    points = np.repeat(random.normal(size=(60, 6)), 3, axis=0)
    queries = np.concatenate([points[:5], random.normal(size=(20, 6))])
    theirs = LocalOutlierFactor(n_neighbors=4, novelty=True).fit(points)
    np.testing.assert_allclose(
        lof(points, metric="euclidean").score(queries), -theirs.score_samples(queries), rtol=1e-6
    )


def test_a_regular_grid_is_of_one_density():
    grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), axis=-1).reshape(-1, 2)
    inside = lof(grid, metric="euclidean").score(np.array([[4.0, 4.0]]))
    np.testing.assert_allclose(inside, 1)
