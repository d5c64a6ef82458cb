import json
import logging
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ray_asd import recipe
from ray_asd.downstream import Knn, detector, fit, kinds, register, restore, score_clips
from ray_asd.errors import BadInput

SHIPPED = recipe.load("first_shot").downstream.detectors
KINDS = ["knn", "lof", "gmm"]
VARIANTS = {
    "plain": {},
    "cosine": {"metric": "cosine"},
    "domain_wise": {"domain_wise": True},
    "centroids": {"source_centroids": 4},
}
points_strategy = arrays(
    np.float64,
    st.tuples(st.integers(1, 25), st.just(3)),
    elements=st.integers(-3, 3) | st.floats(-100, 100),
)


def settings_of(kind, **changes):
    return SHIPPED[kind].model_copy(update={"metric": "euclidean", **changes})


def normal_points(n=60, width=5, seed=0):
    random = np.random.default_rng(seed)
    domains = np.where(np.arange(n) % 6 == 0, "target", "source")
    return random.normal(size=(n, width)) + (domains == "target")[:, None], domains


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_restored_scores_to_the_same_digit(kind, variant):
    points, domains = normal_points()
    queries = normal_points(seed=1)[0]
    fitted = fit(points, domains, settings_of(kind, **VARIANTS[variant]))
    meta = json.loads(json.dumps(fitted.meta()))
    again = restore({name: array.copy() for name, array in fitted.arrays().items()}, meta)
    np.testing.assert_array_equal(again.score(queries), fitted.score(queries))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_reference_does_not_matter(kind, variant):
    points, domains = normal_points()
    queries = normal_points(seed=1)[0]
    chosen = settings_of(kind, **VARIANTS[variant])
    order = np.random.default_rng(2).permutation(len(points))
    np.testing.assert_array_equal(
        fit(points, domains, chosen).score(queries),
        fit(points[order], domains[order], chosen).score(queries),
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(points=points_strategy, queries=points_strategy, size=st.integers(1, 5), data=st.data())
def test_scores_are_finite_and_depend_on_the_query_alone(kind, points, queries, size, data):
    domains = np.array(["source", "target"])[np.arange(len(points)) % 2]
    order = np.array(data.draw(st.permutations(range(len(points)))))
    chosen = settings_of(kind, size=size)
    scores = fit(points, domains, chosen).score(queries)
    assert np.isfinite(scores).all()
    shuffled = fit(points[order], domains[order], chosen)
    alone = [shuffled.score(queries[i : i + 1])[0] for i in reversed(range(len(queries)))]
    np.testing.assert_array_equal(alone[::-1], scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_alone_in_a_batch_and_in_another_order_at_full_width(kind, spread):
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(3, 128)), 500, axis=0)
    points = centres + spread * random.normal(size=(1500, 128))
    queries = points[::25] + 0.5 * spread * random.normal(size=(60, 128))
    fitted = fit(points, np.full(1500, "source"), settings_of(kind, metric="cosine"))
    scores = fitted.score(queries)
    np.testing.assert_array_equal(fitted.score(queries[::-1])[::-1], scores)
    np.testing.assert_array_equal([fitted.score(q[None])[0] for q in queries], scores)
    np.testing.assert_array_equal(fitted.score(queries[:7]), scores[:7])


@pytest.mark.parametrize("kind", KINDS)
def test_the_further_away_the_more_anomalous(kind):
    points, domains = normal_points()
    centre, direction = points.mean(axis=0), np.ones(5)
    # Doubled each time: LOF dips a little where a query's nearest neighbours change.
    far = centre + direction * 2.0 ** np.arange(2, 12)[:, None]
    assert (np.diff(fit(points, domains, settings_of(kind)).score(far)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_identical_or_single_reference_points_give_finite_scores(kind, count):
    points, queries = np.ones((count, 4)), np.array([[1.0, 1, 1, 1], [2, 1, 1, 1], [-9, 0, 1, 5]])
    domains = np.full(count, "source")
    for changes in VARIANTS.values():
        scores = fit(points, domains, settings_of(kind, **changes)).score(queries)
        assert np.isfinite(scores).all()
        assert scores[0] < scores[2]


@pytest.mark.parametrize("kind", KINDS)
def test_more_asked_for_than_there_are_is_logged(kind, caplog):
    points, domains = normal_points(3)
    with caplog.at_level(logging.WARNING):
        fitted = fit(points, domains, settings_of(kind, size=32))
    assert f"{kind}: size 32, but " in caplog.text
    assert np.isfinite(fitted.score(points)).all()


def test_domain_wise_takes_the_least():
    points, domains = normal_points()
    queries = normal_points(seed=1)[0]
    apart = [
        fit(points[domains == d], domains[domains == d], settings_of("lof")).score(queries)
        for d in ("source", "target")
    ]
    together = fit(points, domains, settings_of("lof", domain_wise=True)).score(queries)
    np.testing.assert_array_equal(together, np.minimum(*apart))


def test_centroids_stand_for_the_source_and_all_else_stays():
    points = np.concatenate([np.repeat([[0.0, 0], [9, 9]], 20, axis=0), [[5, 0], [0, 5]]])
    points[:40] += np.tile([[0.5, 0], [-0.5, 0]], (20, 1))
    domains = np.repeat(["source", "target"], [40, 2])
    fitted = fit(points, domains, settings_of("knn", source_centroids=2))
    kept = sorted(map(tuple, fitted.arrays()["points"].round(9).tolist()))
    assert kept == [(0, 0), (0, 5), (5, 0), (9, 9)]


def test_nan_and_nothing_are_refused():
    points, domains = normal_points()
    fitted = fit(points, domains, settings_of("knn"))
    points[7, 2] = np.nan
    with pytest.raises(ValueError, match="not finite: row 7 of 60"):
        fit(points, domains, settings_of("knn"))
    with pytest.raises(ValueError, match="no points"):
        fit(points[:0], domains[:0], settings_of("knn"))
    clips = np.zeros((2, 3, 5), np.float32)
    clips[1, 0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite: row 3 of 6"):
        score_clips(fitted, settings_of("knn"), clips)


def test_a_clips_score_is_of_its_mean_or_pooled_over_its_segments():
    points, domains = normal_points()
    clips = np.random.default_rng(3).normal(size=(7, 4, 5)).astype(np.float32)
    fitted = fit(points, domains, settings_of("knn"))
    of_clips, of_segments = score_clips(fitted, settings_of("knn", per="clip"), clips)
    exact = clips.astype(np.float64)
    np.testing.assert_array_equal(of_clips, fitted.score(exact.mean(axis=1)))
    np.testing.assert_array_equal(of_segments, [fitted.score(clip) for clip in exact])
    for pool in ("mean", "max"):
        pooled, _ = score_clips(fitted, settings_of("knn", per="segment", pool=pool), clips)
        np.testing.assert_array_equal(pooled, getattr(of_segments, pool)(axis=1))


class FromCentreSettings(recipe.Detector):
    kind: Literal["from_centre"]
    power: float


class FromCentre:
    """A detector as another package would add it."""

    kind = "from_centre"

    def __init__(self, centre, power):
        self.centre, self.power = centre, power

    @classmethod
    def fit(cls, points, settings, seed):
        return cls(points.mean(axis=0), settings.power)

    def score(self, points):
        return ((points - self.centre) ** 2).sum(axis=1) ** self.power

    def arrays(self):
        return {"centre": self.centre}

    def meta(self):
        return {"kind": self.kind, "power": self.power}

    @classmethod
    def restore(cls, arrays, meta):
        return cls(arrays["centre"], meta["power"])


@pytest.fixture
def _as_before(monkeypatch):
    monkeypatch.setattr(detector, "_KINDS", dict(detector._KINDS))
    monkeypatch.setattr(recipe, "DETECTORS", dict(recipe.DETECTORS))


@pytest.mark.usefixtures("_as_before")
def test_another_package_adds_a_kind():
    register(FromCentre, FromCentreSettings)
    assert "from_centre" in kinds()
    own = "{kind: from_centre, size: 1, metric: euclidean, per: clip, pool: mean, power: 0.5, "
    own += "source_centroids: 0, domain_wise: false}"
    loaded = recipe.load("first_shot", [f"downstream.detectors.knn={own}"])
    chosen = loaded.downstream.detectors["knn"]
    assert chosen.power == 0.5
    assert recipe.Recipe.model_validate(loaded.model_dump(mode="json")) == loaded
    points, domains = normal_points()
    fitted = fit(points, domains, chosen)
    again = restore(fitted.arrays(), fitted.meta())
    np.testing.assert_allclose(again.score(points), np.linalg.norm(points - points.mean(0), axis=1))


@pytest.mark.usefixtures("_as_before")
def test_a_kind_is_registered_once():
    register(Knn)
    with pytest.raises(ValueError, match="another detector of the kind knn"):
        register(type("Other", (FromCentre,), {"kind": "knn"}))


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(BadInput, match="no detector of the kind svm; there are gmm, knn, lof"):
        recipe.load("first_shot", ["downstream.detectors.knn.kind=svm"])
