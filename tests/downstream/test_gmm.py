import logging

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from ray_asd import recipe
from ray_asd.downstream import fit, restore

SHIPPED = recipe.load("first_shot").downstream.detectors["gmm"]


def gmm(points, **changes):
    domains = np.full(len(points), "source")
    return fit(np.asarray(points, float), domains, SHIPPED.model_copy(update=changes))


def test_a_hand_computed_log_likelihood():
    # Mean (0, 0); covariance diag(2, 1/2), whose determinant is 1, and the regularization.
    points = np.array([[2, 0], [-2, 0], [0, 1], [0, -1]])
    scores = gmm(points, size=1, regularization=1e-12).score(np.array([[0.0, 0], [2, 1], [4, 0]]))
    np.testing.assert_allclose(scores, np.log(2 * np.pi) + np.array([0, 2, 4]), rtol=1e-9)


def test_a_hand_computed_mixture():
    arrays = {
        "weights": np.array([0.25, 0.75]),
        "means": np.array([[0.0], [3.0]]),
        "factors": np.array([[[1.0]], [[0.5]]]),  # standard deviations 1 and 2
    }
    detector = restore(arrays, {"kind": "gmm", "metric": "euclidean"})
    x = 1.0
    density = (
        0.25 * np.exp(-(x**2) / 2) + 0.75 * np.exp(-((x - 3) ** 2) / 8) / 2
    ) / np.sqrt(2 * np.pi)  # fmt: skip
    np.testing.assert_allclose(detector.score(np.array([[x]])), -np.log(density), rtol=1e-14)


@pytest.mark.parametrize(("n", "kind"), [(300, "full"), (20, "diag")])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_equals_scikit_learns_of_the_same_parameters(n, kind, size):
    random = np.random.default_rng(n + size)
    points, queries = random.normal(size=(n, 24)), 3 * random.normal(size=(40, 24))
    detector = gmm(points, size=size)
    arrays = detector.arrays()
    theirs = GaussianMixture(size, covariance_type=kind)
    theirs.weights_, theirs.means_ = arrays["weights"], arrays["means"]
    theirs.precisions_cholesky_ = arrays["factors"]
    np.testing.assert_allclose(detector.score(queries), -theirs.score_samples(queries), rtol=1e-10)


def test_separate_clusters_are_each_normal():
    random = np.random.default_rng(0)
    clusters = np.repeat([[-10.0, 0], [10, 0]], 100, axis=0)
    points = clusters + random.normal(size=(200, 2))
    one, two, between = gmm(points, size=2).score(np.array([[-10.0, 0], [10, 0], [0, 0]]))
    assert max(one, two) + 10 < between


def test_the_likeliest_of_several_starts_hardly_depends_on_chance():
    # Two components for three clusters: a start decides which two share one.
    random = np.random.default_rng(0)
    points = np.repeat([[-10.0, 0], [0, 0], [9, 0]], 40, axis=0) + random.normal(size=(120, 2))
    domains = np.full(len(points), "source")

    def scores(starts):
        settings = SHIPPED.model_copy(update={"starts": starts})
        fits = [fit(points, domains, settings, seed=seed) for seed in range(8)]
        return np.array([detector.score(points) for detector in fits])

    np.testing.assert_allclose(np.ptp(scores(20), axis=0), 0, atol=0.05)
    assert np.ptp(scores(1), axis=0).max() > 1


def test_fewer_components_then_a_diagonal(caplog):
    points = np.random.default_rng(0).normal(size=(9, 16))
    with caplog.at_level(logging.WARNING):
        detector = gmm(points, size=32)
    assert "gmm: size 32, but 9 points: 4 used" in caplog.text
    assert "gmm: 9 points in 16 dimensions: diagonal covariances" in caplog.text
    assert detector.arrays()["factors"].shape == (4, 16)


def test_components_that_cannot_be_fitted_give_way_to_fewer(caplog):
    # At this size rounding outweighs the regularization, and a covariance is not positive.
    points = np.repeat(np.random.default_rng(0).normal(size=(1, 3)) * 1e9, 40, axis=0)
    points[20:] += [1e9, 0, 0]
    with caplog.at_level(logging.WARNING):
        detector = gmm(points, size=4, regularization=1e-30)
    assert "components cannot be fitted" in caplog.text
    assert np.isfinite(detector.score(points)).all()


def test_unseen_normals_are_near_whatever_the_number_of_points():
    """A fit to barely more points than dimensions must not put every unseen point far away."""
    random = np.random.default_rng(3)
    known, unseen = random.normal(size=(140, 128)), random.normal(size=(60, 128))
    fewer, all_of_them = (gmm(points).score(unseen) for points in (known[:112], known))
    assert abs(all_of_them.mean() - fewer.mean()) < 5 * fewer.std()
