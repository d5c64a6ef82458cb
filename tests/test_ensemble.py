import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ray_asd import recipe
from ray_asd.ensemble import (
    Calibration,
    Standard,
    calibrate,
    empirical_threshold,
    gamma_threshold,
    plan,
)

RECIPE = recipe.load("first_shot")
numbers = st.floats(-1e6, 1e6)


def with_ensembles(**changes):
    ensembles = {how: {"members": "all", "combine": how} for how in ("mean", "min", "max")}
    text = json.dumps(
        {name: {**e, "threshold": "empirical", **changes} for name, e in ensembles.items()}
    )
    return recipe.load("first_shot", [f"ensembles={text}"])


def raw_scores(n=40, seed=0, positive=True):
    random = np.random.default_rng(seed)
    scores = {
        member: random.gamma(2 + i, 1 + 10**i, size=n) - (0 if positive else 5)
        for i, member in enumerate(RECIPE.members())
    }
    return scores


def test_standardized_combined_ranked_and_decided_by_hand():
    tiny = recipe.load(
        "first_shot",
        [
            "upstream.backbones={transformer: {kind: transformer, frozen: false, width: 8,"
            " layers: 1, heads: 1, feed_forward: 8, dropout: 0}}",
            "ensembles={both: {members: [transformer/knn, transformer/lof], combine: mean,"
            " threshold: empirical}}",
            "false_alarm_rate=0.4",
        ],
    )
    knn, lof, gmm = (f"transformer/{kind}" for kind in ("knn", "lof", "gmm"))
    raw = {knn: np.array([1.0, 3, 1, 3]), lof: np.array([10.0, 10, 30, 30]), gmm: np.zeros(4)}
    calibration = calibrate(raw, tiny)
    assert calibration.members[knn] == Standard(2, 1)
    assert calibration.members[lof] == Standard(20, 10)
    np.testing.assert_array_equal(calibration.ensembles["both"].scores, [-1, 0, 0, 1])
    assert calibration.ensembles["both"].threshold == 0
    new = calibration.standardize({knn: np.array([2.0, 2, 5]), lof: np.array([20.0, 30, 50])})
    scores = calibration.combine("both", new)
    np.testing.assert_array_equal(scores, [0, 0.5, 3])
    np.testing.assert_array_equal(calibration.percentile("both", scores), [0.25, 0.75, 1])
    np.testing.assert_array_equal(calibration.decide("both", scores), [0, 1, 1])


def test_minimum_and_maximum_over_segments_too():
    several = with_ensembles()
    calibration = calibrate(raw_scores(), several)
    segments = {m: np.random.default_rng(1).normal(size=(5, 10)) for m in several.members()}
    standardized = calibration.standardize(segments)
    stacked = np.stack([standardized[m] for m in several.members()])
    for how in ("mean", "min", "max"):
        combined = calibration.combine(how, standardized)
        np.testing.assert_array_equal(combined, getattr(np, how)(stacked, axis=0))


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=30), st.lists(numbers, min_size=1, max_size=9))
def test_round_trip_to_the_same_digit(reference, new):
    calibration = calibrate({m: np.array(reference) for m in RECIPE.members()}, RECIPE)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.to_dict() == calibration.to_dict()
    for one in (calibration, again):
        raw = {m: np.array(new) for m in RECIPE.members()}
        scores = one.combine("all", one.standardize(raw))
        assert np.isfinite(scores).all()
        assert ((one.percentile("all", scores) >= 0) & (one.percentile("all", scores) <= 1)).all()
        np.testing.assert_array_equal(scores, calibration.combine("all", again.standardize(raw)))


@settings(deadline=None)
@given(arrays(np.float64, st.integers(2, 40), elements=numbers), st.integers(0, 1000))
def test_a_score_depends_on_itself_alone_unless_by_batch(reference, shuffle):
    member = RECIPE.members()[0]
    calibration = calibrate(dict.fromkeys(RECIPE.members(), reference), RECIPE)
    order = np.random.default_rng(shuffle).permutation(len(reference))
    whole = calibration.standardize({member: reference})[member]
    np.testing.assert_array_equal(
        calibration.standardize({member: reference[order]})[member], whole[order]
    )
    assert calibration.standardize({member: reference[:1]})[member][0] == whole[0]


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e7, 1e-300])
def test_a_member_whose_reference_does_not_vary_gives_finite_scores(constant):
    standard = Standard.of(np.full(7, constant))
    assert standard.std == 1
    np.testing.assert_allclose(standard.apply(np.array([constant + 2])), 2, atol=1e-8)


def test_scores_that_are_not_finite_or_none_are_refused():
    raw = raw_scores()
    raw[RECIPE.members()[1]][3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        calibrate(raw, RECIPE)
    with pytest.raises(ValueError, match="no reference scores"):
        calibrate({m: np.zeros(0) for m in RECIPE.members()}, RECIPE)


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(20, 0.1, 19), (69, 0.1, 63), (9, 0.1, 9), (5, 0.1, 5), (99, 0.25, 75)]
)
def test_empirical_threshold_is_a_rank(n, rate, rank):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert empirical_threshold(scores, rate) == rank


def test_empirical_threshold_keeps_the_rate_on_new_scores():
    random = np.random.default_rng(0)
    exceeded = [
        random.normal() > empirical_threshold(random.normal(size=29), 0.1) for _ in range(8000)
    ]
    assert np.mean(exceeded) == pytest.approx(0.1, abs=0.012)


def test_gamma_threshold_is_a_gammas_quantile():
    scores = stats.gamma.rvs(3, 0.5, 2, size=20000, random_state=0)
    assert gamma_threshold(scores, 0.1) == pytest.approx(stats.gamma.ppf(0.9, 3, 0.5, 2), rel=0.02)
    assert gamma_threshold(np.ones(9), 0.1) is None
    assert gamma_threshold(scores - 100, 0.1) is None


def test_gamma_of_an_ensemble_of_positive_members(caplog):
    gamma = with_ensembles(threshold="gamma")
    raw = raw_scores(n=4000)
    calibration = calibrate(raw, gamma)
    assert caplog.text == ""
    for name in ("mean", "max"):
        reference = calibration.ensembles[name]
        assert np.mean(reference.scores > reference.threshold) == pytest.approx(0.1, abs=0.02)
        assert reference.threshold != empirical_threshold(reference.scores, 0.1)


def test_gamma_gives_way_to_the_empirical_threshold_where_a_score_is_negative(caplog):
    calibration = calibrate(raw_scores(positive=False), with_ensembles(threshold="gamma"))
    reference = calibration.ensembles["mean"]
    assert reference.threshold == empirical_threshold(reference.scores, 0.1)
    assert "ensemble mean: no gamma fits" in caplog.text


def clips(n, targets=0, held_out=0, per_recording=1):
    uris = np.array([f"fan/{i // per_recording:04d}.wav" for i in range(n)])
    domains = np.where(np.arange(n) < targets, "target", "source")
    return uris, domains, np.arange(n) >= n - held_out


def planned(uris, domains, held_out, reference="all", folds=5, fewest=20):
    return plan(uris, domains, held_out, reference=reference, folds=folds, fewest_held_out=fewest)


def test_enough_held_out_clips_are_scored_by_a_detector_on_the_others():
    made = planned(*clips(100, held_out=20))
    assert made.warning is None
    (split,) = made.splits
    np.testing.assert_array_equal(split.score, np.arange(100) >= 80)
    np.testing.assert_array_equal(split.fit, ~split.score)


def test_too_few_held_out_clips_make_folds_of_all_and_a_warning():
    uris, domains, held_out = clips(100, targets=10, held_out=10)
    made = planned(uris, domains, held_out)
    assert "only 10 of 100 normal clips are held out, fewer than 20" in made.warning
    assert len(made.splits) == 5
    np.testing.assert_array_equal(sum(s.score.astype(int) for s in made.splits), 1)
    for split in made.splits:
        np.testing.assert_array_equal(split.fit, ~split.score)
        assert np.count_nonzero(split.score & (domains == "target")) == 2
        assert np.count_nonzero(split.score) == 20


def test_a_reference_of_held_out_clips_is_folded_in_itself():
    uris, domains, held_out = clips(100, held_out=40)
    made = planned(uris, domains, held_out, reference="held_out")
    assert made.warning is None
    np.testing.assert_array_equal(sum(s.score.astype(int) for s in made.splits), held_out)
    assert all((s.fit | s.score).sum() == 40 and not (s.fit & s.score).any() for s in made.splits)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(0, 10), st.integers(1, 4), st.integers(0, 99))
def test_folds_keep_recordings_whole_and_do_not_depend_on_order(n, targets, per_recording, seed):
    uris, domains, held_out = clips(n, targets=0, per_recording=per_recording)
    assume(len(set(uris)) > 1)
    domains = np.where(np.char.find(uris, f"{targets}.wav") >= 0, "target", "source")
    made = planned(uris, domains, held_out)
    order = np.random.default_rng(seed).permutation(n)
    again = planned(uris[order], domains[order], held_out[order])
    for split, other in zip(made.splits, again.splits, strict=True):
        assert split.fit.any()
        assert split.score.any()
        assert not set(uris[split.fit]) & set(uris[split.score])
        np.testing.assert_array_equal(split.score[order], other.score)


def test_one_recording_scores_itself_with_a_warning():
    made = planned(*clips(1))
    assert "all normal clips are of one recording" in made.warning
    assert made.splits[0].fit.all()
    assert made.splits[0].score.all()
