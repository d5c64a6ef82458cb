"""The pure parts of a sweep: the grid, a trial, greedy selection, and the recipe that it makes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ray_asd import metrics, recipe
from ray_asd.downstream import Mixes, ReferenceSet
from ray_asd.errors import BadInput
from ray_asd.pipelines import tune_plot, tune_search, tune_select, tune_space, tune_trial
from ray_asd.pipelines.tune_select import Done
from ray_asd.pipelines.tune_trial import Clips

BASE = recipe.load("first_shot")
RUNS = {"/run": BASE}


def small(**changes):
    return tune_space.load("report").model_copy(update=changes)


def test_the_reports_space_is_its_backbones_detectors_sizes_and_aggregations():
    trials = tune_space.load("report").grid(RUNS)
    assert len(trials) == 2 * 3 * 5 * 2
    found = {(t.backbone, t.detector.kind, t.detector.size, t.detector.per) for t in trials}
    assert found == set(
        itertools.product(
            ("efficientnet", "transformer"),
            ("knn", "lof", "gmm"),
            (1, 2, 4, 16, 32),
            ("clip", "segment"),
        )
    )
    assert {(t.reference, t.pseudo_normals) for t in trials} == {("all", 50)}


def test_a_trial_has_no_place_for_a_machine_type():
    assert set(tune_space.Trial.model_fields) == {
        "run",
        "backbone",
        "reference",
        "pseudo_normals",
        "detector",
    }


def test_settings_of_one_detector_alone_make_no_trials_of_the_others():
    space = small(settings={"size": [1]}, only={"knn": {"density_neighbours": [0, 4]}})
    kinds = [t.detector.kind for t in space.grid(RUNS)]
    assert (kinds.count("knn"), kinds.count("lof"), kinds.count("gmm")) == (8, 4, 4)


def test_runs_with_other_backbones_have_trials_of_their_own():
    one = recipe.load("first_shot", ["name=other"])
    only = {"transformer": one.upstream.backbones["transformer"]}
    other = one.model_copy(update={"upstream": one.upstream.model_copy(update={"backbones": only})})
    trials = tune_space.load("report").grid({"/run": BASE, "/other": other})
    assert len(trials) == 60 + 30
    assert {t.backbone for t in trials if t.run == "/other"} == {"transformer"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"detectors": ["svm"]}, "names the detector svm; the recipe of /run has knn, lof, gmm"),
        ({"settings": {"size": [0]}}, "size"),
        ({"settings": {"sise": [1]}}, "sise"),
        ({"only": {"lof": {"density_neighbours": [4]}}}, "density_neighbours"),
    ],
)
def test_a_space_that_does_not_fit_the_recipe_is_told_in_one_line(changes, says):
    with pytest.raises(BadInput, match=says) as caught:
        small(**changes).grid(RUNS)
    assert "\n" not in str(caught.value)


def test_waveforms_are_mixed_for_one_choice_of_clips_and_in_one_number():
    waveform = recipe.load("first_shot", ["downstream.pseudo_normal_space=waveform"])
    runs = {"/run": BASE, "/waveform": waveform}
    space = small(references=["source", "held_out"], pseudo_normals=[0, 20])
    mixing = space.mixing(runs)
    assert mixing["/run"] == BASE
    down = mixing["/waveform"].downstream
    assert (down.reference, down.waveform_mixes) == ("held_out", 20)
    assert small().mixing(runs)["/waveform"] == waveform
    none = small(references=["source"]).mixing(runs)["/waveform"].downstream
    assert (none.reference, none.waveform_mixes) == ("source", 50)
    for changes in ({"references": ["all", "held_out"]}, {"pseudo_normals": [10, 50]}):
        assert small(**changes).mixing({"/run": BASE}) == {"/run": BASE}
        with pytest.raises(BadInput, match=r"/waveform mixes waveforms .*; name one of") as caught:
            small(**changes).mixing(runs)
        assert "\n" not in str(caught.value)


def test_a_trial_is_recorded_apart_for_each_space_of_the_mixes():
    waveform = recipe.load("first_shot", ["downstream.pseudo_normal_space=waveform"])
    trial = small().grid(RUNS)[0]
    places = {
        tune_search.Sweep(
            small(), {"/run": own}, "official_score", "/folder", digests={"/run": "same"}
        ).place(trial)
        for own in (BASE, waveform)
    }
    assert len(places) == 2


@pytest.mark.parametrize("name", ["report", "large"])
def test_a_shipped_space_fits_the_shipped_recipe(name):
    assert len(tune_space.load(name).grid(RUNS)) >= 60


@pytest.mark.parametrize(
    ("text", "says"),
    [("detectors: []\n", "detectors"), ("a: [\n", "space"), ("just text\n", "the space")],
)
def test_a_wrong_space_is_told_in_one_line(tmp_path, text, says):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(BadInput, match=says) as caught:
        tune_space.load(str(tmp_path / "space.yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="nowhere: no such file, nor one of the shipped"):
        tune_space.load("nowhere")


def test_greedy_takes_what_helps_and_stops_where_nothing_does():
    # The objective is the value of the sum: 5, then 5 + 3, and −1 or another 0 would not raise it.
    candidates = {"a": 3.0, "b": 5.0, "c": -1.0, "d": 0.0}
    arrays = {name: np.array([value]) for name, value in candidates.items()}
    assert tune_select.greedy(arrays, lambda taken: float(sum(taken)[0])) == ["b", "a"]


def test_greedy_adds_a_member_that_is_poor_alone_but_makes_up_for_anothers_error():
    truth = np.array([False, False, True, True])
    candidates = {
        "first": np.array([0.0, 2.0, 1.0, 3.0]),  # one of four pairs in the wrong order
        "alike": np.array([0.0, 2.1, 1.0, 3.0]),
        "other": np.array([1.0, 0.6, 3.0, 0.5]),  # two wrong, but not the first's
    }

    def judge(taken):
        mean = np.mean(taken, axis=0)
        return float(np.mean(mean[truth][:, None] > mean[~truth]))

    assert [judge([scores]) for scores in candidates.values()] == [0.75, 0.75, 0.5]
    assert tune_select.greedy(candidates, judge) == ["first", "other"]


def test_ties_go_to_the_first_and_nothing_is_taken_twice():
    arrays = {name: np.array([1.0]) for name in "abc"}
    assert tune_select.greedy(arrays, lambda taken: 1.0) == ["a"]
    assert tune_select.greedy(arrays, lambda taken: float(len(taken))) == ["a", "b", "c"]


def _references(seed: int, scatter: float = 1.0) -> dict[tuple[str, str], ReferenceSet]:
    random = np.random.default_rng(seed)
    return {
        (machine, "00"): ReferenceSet(
            (centre + scatter * random.normal(size=(30, 3, 8))).astype(np.float32),
            np.repeat(["source", "target"], [20, 10]),
            np.array([f"/{machine}/{n}.wav" for n in range(30)]),
            np.zeros(30),
            np.zeros(30, dtype=np.bool_),
        )
        for machine, centre in (("fan", -3.0), ("valve", 3.0))
    }


def _clips(seed: int, shift: float) -> dict[tuple[str, str], Clips]:
    references = _references(seed)
    random = np.random.default_rng(seed + 1)
    labels = np.tile(["normal", "anomaly"], 20)
    found = {}
    for key, reference in references.items():
        centre = reference.embeddings.mean()
        # Across the line from the origin, along which the cosine metric would not see it.
        away = shift * np.tile([1.0, -1.0], 4) * (labels == "anomaly")[:, None, None]
        tests = centre + random.normal(size=(40, 3, 8)) + away
        found[key] = Clips(
            reference,
            tune_trial.pseudo_anomalies(references, key, 0.3, 0, 20),
            tests.astype(np.float32),
            np.repeat(["source", "target"], 20),
            labels,
        )
    return found


def test_a_pseudo_anomaly_is_a_clip_and_a_share_of_another_machine_types():
    references = _references(0, scatter=0.0)
    made = tune_trial.pseudo_anomalies(references, ("fan", "00"), 0.25, 7, 2)
    np.testing.assert_allclose(made, 0.75 * -3.0 + 0.25 * 3.0)
    assert made.shape == references["fan", "00"].embeddings.shape
    assert len(tune_trial.pseudo_anomalies(references, ("fan", "00"), 0.25, 7, 31)) == 0
    alone = {("fan", "00"): references["fan", "00"]}
    assert len(tune_trial.pseudo_anomalies(alone, ("fan", "00"), 0.25, 7, 2)) == 0


def _trial(index: int = 0, **settings):
    space = small(settings={"size": [settings.pop("size", 1)]}, **settings)
    return space.grid(RUNS)[index]


def test_a_trials_figures_are_those_of_its_scores():
    table, figures = tune_trial.run(_trial(), BASE, _clips(0, shift=2.0))
    tests = tune_trial.rows(table, tune_trial.TEST)
    assert len(tests.score) == 80
    assert figures["official_score"] == metrics.evaluate(tests).official_score > 0.9
    unseen = tune_trial.rows(table, tune_trial.UNSEEN)
    normal = unseen.score[(unseen.label == "normal") & (unseen.machine_type == "fan")]
    assert (normal.mean(), normal.std()) == pytest.approx((0, 1))
    assert figures["label_free"] == metrics.evaluate(unseen).official_score


def test_a_trial_takes_the_waveform_mixes_or_none():
    waveform = recipe.load("first_shot", ["downstream.pseudo_normal_space=waveform"])
    plain, mixed = _clips(0, 1.0), _clips(0, 1.0)
    for key, clips in mixed.items():
        # As it were, mixes that sound just like the anomalies.
        made = Mixes(clips.tests[clips.labels == "anomaly"], np.tile([0, 20], (20, 1)))
        mixed[key] = replace(clips, reference=replace(clips.reference, mixes=made))
    trials = small(settings={"size": [1]}, pseudo_normals=[0, 50]).grid(RUNS)
    without, using = (next(t for t in trials if t.pseudo_normals == n) for n in (0, 50))
    figures = tune_trial.run(without, waveform, mixed)[1]
    assert figures == tune_trial.run(without, BASE, plain)[1]
    assert tune_trial.run(using, waveform, mixed)[1]["official_score"] < 1e-6
    assert tune_trial.run(using, BASE, plain)[1]["official_score"] > 0.3


def test_more_of_another_machine_type_is_told_apart_better():
    found = []
    for share in (0.02, 0.2, 0.5):
        references = _references(0)
        sections = {
            key: Clips(
                reference,
                tune_trial.pseudo_anomalies(references, key, share, 0, 20),
                reference.embeddings[:0],
                np.array([], np.str_),
                np.array([], np.str_),
            )
            for key, reference in references.items()
        }
        _, figures = tune_trial.run(_trial(), BASE, sections)
        assert figures["official_score"] is None
        found.append(figures["label_free"])
    assert 0.4 < found[0] < found[1] < found[2]


def test_without_domains_the_label_free_objective_is_2020s():
    table, _ = tune_trial.run(_trial(), BASE, _clips(0, 1.0))
    unseen = tune_trial.rows(table, tune_trial.UNSEEN)
    assert tune_trial.definition(unseen) == 2023
    assert tune_trial.definition(unseen.select(unseen.domain == "source")) == 2020


def _done(sections, trials):
    found = []
    for trial in trials:
        table, figures = tune_trial.run(trial, BASE, sections)
        found.append(Done(trial, tuple(figures.items()), table, 0.1))
    return found


def test_the_chosen_ensemble_is_at_least_as_good_as_every_trial_alone():
    trials = [
        t for t in small(settings={"size": [1, 4]}).grid(RUNS) if t.backbone == "efficientnet"
    ]
    done = _done(_clips(3, shift=0.4), trials)
    for objective in tune_select.OBJECTIVES:
        choice = tune_select.choose(done, objective, "mean")
        assert choice is not None
        assert choice.reached[0] == max(one.figure(objective) for one in done)
        assert list(choice.reached) == sorted(set(choice.reached))
        assert choice.figures[objective] == choice.reached[-1]


def test_members_of_one_ensemble_share_run_reference_and_pseudo_normals():
    space = small(settings={"size": [1]}, references=["all", "source"], pseudo_normals=[0, 50])
    trials = [t for t in space.grid(RUNS) if t.backbone == "efficientnet"]
    choice = tune_select.choose(_done(_clips(3, 0.4), trials), "official_score", "mean")
    assert choice is not None
    assert len({trial.group for trial in choice.trials}) == 1


def test_the_recipe_holds_the_members_and_nothing_else():
    trials = tune_space.load("report").grid(RUNS)
    knn = next(t for t in trials if t.backbone == "transformer" and t.detector.kind == "knn")
    gmm = next(t for t in trials if t.backbone == "efficientnet" and t.detector.kind == "gmm")
    rare = {**knn.detector.model_dump(), "density_neighbours": 4}
    twin = tune_space.Trial.model_validate({**knn.model_dump(), "detector": rare})
    choice = tune_select.Choice((knn, gmm, twin), (0.5, 0.6, 0.7), {})
    made = tune_select.recipe_of(choice, BASE)
    assert recipe.parse(made.to_yaml(), "copy") == made
    assert list(made.downstream.detectors) == ["knn-1-clip", "gmm-1-clip", "knn-1-clip-2"]
    assert made.downstream.detectors["knn-1-clip-2"] == twin.detector
    assert list(made.ensembles) == ["tuned"]
    assert made.ensemble_members("tuned") == [
        "transformer/knn-1-clip",
        "efficientnet/gmm-1-clip",
        "transformer/knn-1-clip-2",
    ]
    assert set(made.used_members()) == set(made.ensemble_members("tuned"))
    alone = tune_select.recipe_of(tune_select.Choice((knn,), (0.5,), {}), BASE)
    assert list(alone.upstream.backbones) == ["transformer"]


@pytest.mark.parametrize(
    ("search", "trials", "says"),
    [
        ("random", None, "there are grid, optuna"),
        ("optuna", None, "--trials"),
        ("grid", 5, "tried whole"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(search, trials, says):
    with pytest.raises(BadInput, match=says):
        tune_search.check(search, trials)


def test_without_optuna_the_search_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tune_search, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install optuna"):
        tune_search.check("optuna", 5)


def test_the_plot_shows_the_best_trial_of_each_size():
    trials = small(settings={"size": [1, 4]}, references=["all", "source"]).grid(RUNS)
    done = _done(_clips(3, 0.4), [t for t in trials if t.backbone == "efficientnet"])
    lines = tune_plot._lines(done, "official_score")
    assert {kind for kind, _ in lines} == {one.trial.detector.kind for one in done}
    for (kind, name), best in lines.items():
        for size, reached in best.items():
            alike = [
                one.figure("official_score")
                for one in done
                if (one.trial.detector.kind, one.trial.detector.size) == (kind, size)
                and name.startswith(f"efficientnet, {one.trial.detector.per}")
            ]
            assert reached in alike
            assert reached <= max(alike)
    picture = tune_plot.plot(done, "official_score").decode()
    assert all(f"<!-- {kind} -->" in picture for kind, _ in lines)
    assert "<!-- official score -->" in picture
