"""From trials to an ensemble: greedy forward selection, and the recipe that it makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_asd import ensemble as ensembles
from ray_asd import metrics
from ray_asd import recipe as recipes
from ray_asd.pipelines import tune_trial
from ray_asd.pipelines.tune_space import Trial
from ray_asd.pipelines.tune_trial import TEST, UNSEEN
from ray_asd.recipe import Recipe

OBJECTIVES = {"official_score": TEST, "label_free": UNSEEN}
"""What can be selected by, and the rows of a trial's scores that it is measured on."""

ENSEMBLE = "tuned"

Judge = Callable[[list[npt.NDArray[np.float64]]], float]


@dataclass(frozen=True)
class Done:
    """A trial that was carried out."""

    trial: Trial
    figures: tuple[tuple[str, float | None], ...]
    scores: pa.Table
    """:data:`ray_asd.pipelines.tune_trial.SCORES`."""
    seconds: float

    def figure(self, name: str) -> float | None:
        """One of :func:`ray_asd.pipelines.tune_trial.run`'s."""
        return dict(self.figures)[name]


@dataclass(frozen=True)
class Choice:
    """An ensemble: its members in the order of their selection, and what each step reached."""

    trials: tuple[Trial, ...]
    reached: tuple[float, ...]
    figures: dict[str, float | None]
    """Of the whole ensemble, by every objective that can be measured."""

    @property
    def drawn(self) -> str:
        """The objective that trials are ordered and drawn by: with labels where there are any."""
        return next(name for name in OBJECTIVES if self.figures[name] is not None)


def greedy(candidates: Mapping[Any, npt.NDArray[np.float64]], judge: Judge) -> list[Any]:
    """Members by greedy forward selection without replacement.

    The best candidate first, then whichever raises the objective most; it ends where none does
    (R. Caruana et al., Ensemble selection from libraries of models, ICML 2004). Ties go to the
    candidate that comes first.
    """
    chosen: list[Any] = []
    best = -np.inf
    while len(chosen) < len(candidates):
        taken = [candidates[name] for name in chosen]
        values = {n: judge([*taken, s]) for n, s in candidates.items() if n not in chosen}
        name = max(values, key=values.__getitem__)
        if values[name] <= best:
            break
        chosen.append(name)
        best = values[name]
    return chosen


def choose(done: list[Done], objective: str, combine: ensembles.Combine) -> Choice | None:
    """The best ensemble by an objective; None where the objective cannot be measured.

    Members of one bundle share the upstream run, the reference set and the pseudo-normals, so
    each such group of trials makes an ensemble of its own, and the best of these is taken.
    """
    groups: dict[tuple[str, str, int], list[Done]] = {}
    for one in done:
        if one.figure(objective) is not None:
            groups.setdefault(one.trial.group, []).append(one)
    choices = [_choose(group, objective, combine) for group in groups.values()]
    return max(choices, key=lambda choice: choice.reached[-1], default=None)


def _choose(group: list[Done], objective: str, combine: ensembles.Combine) -> Choice:
    judge = _judge(group[0].scores, OBJECTIVES[objective], combine)
    by_trial = {n: _scores(one, OBJECTIVES[objective]) for n, one in enumerate(group)}
    names = greedy(by_trial, judge)
    steps = [[by_trial[n] for n in names[: i + 1]] for i in range(len(names))]
    figures: dict[str, float | None] = {}
    for name, of in OBJECTIVES.items():
        measured = all(group[n].figure(name) is not None for n in names)
        members = [_scores(group[n], of) for n in names]
        figures[name] = _judge(group[0].scores, of, combine)(members) if measured else None
    return Choice(
        tuple(group[n].trial for n in names), tuple(judge(step) for step in steps), figures
    )


def _scores(one: Done, of: str) -> npt.NDArray[np.float64]:
    return tune_trial.rows(one.scores, of).score


def _judge(table: pa.Table, of: str, combine: ensembles.Combine) -> Judge:
    """The objective of members' scores, in the order of the rows of ``table``."""
    whole = tune_trial.rows(table, of)
    year = tune_trial.definition(whole) if of == UNSEEN else 2023
    evaluation = metrics.evaluate(whole, year)
    # Sections that lack a class or a domain count nowhere; each round is quicker without them.
    complete = {
        (machine, name)
        for machine, sections in evaluation.machines.items()
        for name, section in sections.items()
        if section.reason is None
    }
    keys = zip(whole.machine_type, whole.section, strict=True)
    mask = np.array([(str(m), str(s)) in complete for m, s in keys], dtype=np.bool_)
    kept = whole.select(mask)

    def judge(scores: list[npt.NDArray[np.float64]]) -> float:
        combined = ensembles.combine(scores, combine)[mask]
        rows = metrics.Rows(
            kept.machine_type, kept.section, kept.domain, kept.label, combined, None
        )
        value = metrics.evaluate(rows, year).official_score
        return -np.inf if value is None else value

    return judge


def recipe_of(choice: Choice, base: Recipe) -> Recipe:
    """The recipe of an ensemble: ``base`` with its members alone, backbones and detectors."""
    names: dict[str, recipes.Detector] = {}
    members = []
    for trial in choice.trials:
        name = _name(trial, names)
        names[name] = trial.detector
        members.append(f"{trial.backbone}/{name}")
    used = {trial.backbone for trial in choice.trials}
    tree = choice.trials[0].recipe(base).model_dump(mode="json")
    tree["name"] = f"{base.name}-{ENSEMBLE}"
    backbones = tree["upstream"]["backbones"]
    tree["upstream"]["backbones"] = {n: b for n, b in backbones.items() if n in used}
    tree["downstream"]["detectors"] = {n: d.model_dump(mode="json") for n, d in names.items()}
    first = next(iter(tree["ensembles"].values()))
    tree["ensembles"] = {ENSEMBLE: {**first, "members": members}}
    return recipes.validate(tree, "of the chosen members")


def _name(trial: Trial, taken: dict[str, recipes.Detector]) -> str:
    """The name under which the detector stands already, or a free one."""
    names = (trial.name if n == 1 else f"{trial.name}-{n}" for n in itertools.count(1))
    return next(name for name in names if taken.get(name, trial.detector) == trial.detector)
