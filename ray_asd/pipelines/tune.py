"""Upstream runs → a recipe: which detectors, and which of them together, by Ray Tune.

Beside ``RECIPE`` come ``RECIPE.trials.csv``, a line a trial, ``RECIPE.trials.svg``, what each
detector reaches by its size, and ``RECIPE.tune/`` with the embeddings and every trial's scores,
from which the same command carries on after a kill. Ray Tune's own state is pickled, and so is
never read back.
"""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from pyarrow import csv
from scipy import stats

from ray_asd.archive import store
from ray_asd.errors import BadInput
from ray_asd.pipelines import (
    fit,
    session,
    tune_data,
    tune_plot,
    tune_search,
    tune_select,
    tune_space,
)
from ray_asd.pipelines.tune_search import Sweep
from ray_asd.pipelines.tune_select import OBJECTIVES, Choice, Done
from ray_asd.pipelines.upstream_run import heard_by, weights_of
from ray_asd.recipe import Recipe


def tune(
    manifest_uri: str,
    upstream: list[str],
    out: str,
    *,
    recipe: str | None = None,
    settings: list[str] | None = None,
    space: str = "report",
    search: str = "grid",
    trials: int | None = None,
    label_free: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Sweep detectors over upstream runs, and select an ensemble's members greedily.

    A setting is one for all machine types, and so is an ensemble (first-shot rule). Members of
    one ensemble come from one upstream run, since a bundle holds one; of several runs (seeds,
    losses, mixup on or off) each makes its own, and the best is taken.

    Args:
        manifest_uri: a manifest that :func:`ray_asd.index` wrote.
        upstream: runs that :func:`ray_asd.train` left.
        out: the recipe to write, a YAML file that :func:`ray_asd.fit` takes.
        recipe: what the sweep leaves as it is; each run's own if None.
        settings: ``key=value`` overrides of it.
        space: what is tried: the name of a shipped space, or a YAML file.
        search: ``grid``, every trial of the space; or ``optuna``, as many as ``trials`` says.
        trials: number of trials of ``optuna``.
        label_free: select by normal clips alone (:mod:`ray_asd.pipelines.tune_trial`), not by the
            official score of the labelled test clips.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        The chosen members with what each step reached, the same for the other objective, the
        rank correlation of both objectives over the trials, counts and seconds.

    Raises:
        BadInput: a manifest, run, recipe or space that cannot be used together, or no labelled
            test clips without ``label_free``.
        RunFailed: a trial broke off; the same call carries on.

    >>> tune("manifest.parquet", ["upstream"], "tuned.yaml")  # doctest: +SKIP
    """
    objective = "label_free" if label_free else "official_score"
    tune_search.check(search, trials)
    chosen_space = tune_space.load(space)
    runs = _runs(upstream, recipe, settings or [])
    weights = {run: weights_of(run, own.trained_backbones()) for run, own in runs.items()}
    grid, mixing = chosen_space.grid(runs), chosen_space.mixing(runs)
    recordings = tune_data.Recordings.read(manifest_uri)
    if not label_free and not recordings.tests.num_rows:
        raise BadInput(f"{manifest_uri}: no labelled test recordings to select by; --label-free?")
    folder, started = f"{store.absolute(out)}.tune", time.monotonic()
    with session.session(address):
        sweep = Sweep(chosen_space, runs, objective, folder)
        for run, own in runs.items():
            kept = store.join(folder, "embeddings")
            rows, digest = tune_data.embedded(recordings, own, weights[run], kept)
            normals, tests = recordings.parted(rows)
            references = tune_data.with_mixes(
                fit.references_of(normals, heard_by(run), own),
                normals,
                mixing[run],
                weights[run],
                kept,
                digest,
            )
            by_backbone = tune_data.clips(tests, references, own, chosen_space)
            data = {(run, name): ray.put(sections) for name, sections in by_backbone.items()}
            sweep = replace(
                sweep,
                data={**sweep.data, **data},
                digests={**sweep.digests, run: digest},
            )
        embedded_s = time.monotonic() - started
        found = tune_search.carry_out(sweep, grid, search, trials)
    choices = {name: tune_select.choose(found.done, name, _combine(runs)) for name in OBJECTIVES}
    choice = choices[objective]
    if choice is None:
        reason = next(iter(found.failed.values()), "no section has what it needs")
        raise BadInput(f"no trial has the objective {objective}: {reason}")
    written = tune_select.recipe_of(choice, runs[choice.trials[0].run])
    _write(out, _header(choice, objective) + written.to_yaml())
    table = f"{store.absolute(out)}.trials.csv"
    _write(table, _table(found.done, choice))
    picture = f"{store.absolute(out)}.trials.svg"
    store.write_atomic(picture, tune_plot.plot(found.done, choice.drawn))
    return {
        "recipe": out,
        "trials_table": table,
        "trials_plot": picture,
        "upstream": choice.trials[0].run,
        "objective": objective,
        "trials": len(found.done),
        "recorded": found.recorded,
        "failed": found.failed,
        "rank_correlation": _rank_correlation(found.done),
        "best_single": {name: _best(found.done, name) for name in OBJECTIVES},
        "choices": {n: None if c is None else _summary(c, runs) for n, c in choices.items()},
        "members": list(written.used_members()),
        "seconds": {
            "embed": round(embedded_s, 1),
            "trials": round(found.seconds, 1),
            "total": round(time.monotonic() - started, 1),
        },
    }


def _runs(upstream: list[str], recipe: str | None, settings: list[str]) -> dict[str, Recipe]:
    """Every upstream run's recipe by the run's absolute URI."""
    runs: dict[str, Recipe] = {}
    for run in upstream:
        place = store.absolute(run)
        if place in runs:
            raise BadInput(f"--upstream {run}: is there twice; name each run once")
        runs[place] = fit.recipe_of(place, recipe, settings)
    if not runs:
        raise BadInput("--upstream: name at least one run that `ray-asd train` wrote")
    return runs


def _combine(runs: dict[str, Recipe]) -> Any:
    """How the first run's first ensemble combines its members."""
    return next(iter(next(iter(runs.values())).ensembles.values())).combine


def _summary(choice: Choice, runs: dict[str, Recipe]) -> dict[str, Any]:
    recipe = tune_select.recipe_of(choice, runs[choice.trials[0].run])
    members = recipe.ensemble_members(tune_select.ENSEMBLE)
    return {
        "upstream": choice.trials[0].run,
        "members": dict(zip(members, choice.reached, strict=True)),
        **choice.figures,
    }


def _best(done: list[Done], name: str) -> dict[str, Any] | None:
    measured = [(one.figure(name), one) for one in done if one.figure(name) is not None]
    if not measured:
        return None
    best = max(measured, key=lambda pair: pair[0] or 0.0)[1]
    return {"member": f"{best.trial.backbone}/{best.trial.name}", **dict(best.figures)}


def _rank_correlation(done: list[Done]) -> float | None:
    """Spearman's, of the objectives over the trials that have both; None below three."""
    pairs = [[one.figure(name) for name in OBJECTIVES] for one in done]
    pairs = [pair for pair in pairs if None not in pair]
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _header(choice: Choice, objective: str) -> str:
    return (
        f"# Members chosen by `ray-asd tune`: {objective} {choice.reached[-1]:.4f}.\n"
        f"# Fit with --upstream {choice.trials[0].run}\n"
    )


def _table(done: list[Done], choice: Choice) -> str:
    """The trials as CSV, best first; ``member`` is a trial's place in the ensemble, from 1."""
    places = {trial.digest(): number for number, trial in enumerate(choice.trials, start=1)}
    lines: list[dict[str, Any]] = []
    for one in done:
        trial = one.trial
        about = trial.model_dump(mode="json")
        detector = about.pop("detector")
        figures = dict(one.figures)
        member = places.get(trial.digest())
        lines.append(
            {"member": member, **about, **detector, **figures, "seconds": round(one.seconds, 3)}
        )
    lines.sort(key=lambda line: -(line[choice.drawn] or 0.0))
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = pa.table({name: [line.get(name) for line in lines] for name in names})
    text = io.BytesIO()
    csv.write_csv(table, text)
    return text.getvalue().decode()


def _write(uri: str, text: str) -> None:
    store.write_atomic(uri, text.encode())
