"""Ray Tune over a space: one Ray Tune trial is one detector setting, and leaves one file.

A trial takes its clips from the object store and costs seconds; the actor that ran it runs the
next (measured: 0.2 s a trial of Ray Tune's own on two busy cores).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.tune

from ray_asd import console
from ray_asd.archive import store
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import plan, reach, session, tune_trial
from ray_asd.pipelines.tune_select import Done
from ray_asd.pipelines.tune_space import Point, Space, Trial
from ray_asd.recipe import Recipe

SEARCHES = ("grid", "optuna")
_RETRIES = 2  # of a trial whose worker is lost


@dataclass(frozen=True)
class Sweep:
    """What every trial shares; it travels to the workers."""

    space: Space
    runs: dict[str, Recipe]
    objective: str
    folder: str
    data: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By run and backbone, the object store's reference to the sections' clips."""
    digests: dict[str, str] = field(default_factory=dict)
    """By run, of all that decides its embeddings."""

    def place(self, trial: Trial) -> str:
        """Where the trial's scores are recorded, under a digest of all that decides them."""
        base = self.runs[trial.run]
        down = base.downstream
        parts = [trial.digest(), self.digests[trial.run], base.seed, base.held_out]
        parts += [down.folds, down.fewest_held_out, down.pseudo_normal_space]
        parts += [self.space.pseudo_anomaly_share, self.space.fewest_normals]
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
        return store.join(self.folder, "trials", f"{name}.parquet")

    def recorded(self, trials: list[Trial]) -> list[Trial]:
        """Those of ``trials`` that are recorded."""
        there = {e.relative for e in store.list_files(store.join(self.folder, "trials"))}
        return [trial for trial in trials if store.name(self.place(trial)) in there]

    def run(self, trial: Trial) -> dict[str, Any]:
        """Carry out a trial unless it is recorded; returns its record without the scores."""
        place = self.place(trial)
        if store.exists(place):
            return _record(place)
        started = time.monotonic()
        sections = ray.get(self.data[trial.run, trial.backbone])
        record: dict[str, Any] = {"trial": trial.model_dump(mode="json"), "reason": None}
        try:
            table, figures = tune_trial.run(trial, self.runs[trial.run], sections)
        except (BadInput, ValueError) as error:
            # One setting serves all sections: where one cannot have it, the setting is out.
            table, figures = tune_trial.SCORES.empty_table(), {}
            record["reason"] = str(error)
        record |= {"figures": figures, "seconds": time.monotonic() - started}
        sink = pa.BufferOutputStream()
        kept = table.replace_schema_metadata({"record": json.dumps(record)})
        pq.write_table(kept, sink, compression="zstd")
        store.write_atomic(place, sink.getvalue().to_pybytes())
        return record


@dataclass(frozen=True)
class Found:
    """What became of the trials."""

    done: list[Done]
    failed: dict[str, str]
    """Reasons by trial, of settings that a section cannot have."""
    recorded: int
    """Trials that an earlier sweep had carried out."""
    seconds: float


def check(search: str, trials: int | None) -> None:
    """See that a search can be run.

    Raises:
        BadInput: an unknown search, one without its number of trials, or without its package.
    """
    if search not in SEARCHES:
        raise BadInput(f"--search {search}: there are {', '.join(SEARCHES)}")
    if search == "optuna" and not trials:
        raise BadInput("--search optuna: say how many trials with --trials")
    if search == "grid" and trials:
        raise BadInput("--trials: goes with --search optuna; a grid is tried whole")
    if search == "optuna" and find_spec("optuna") is None:
        raise BadInput("--search optuna: the package optuna is not installed; pip install optuna")


def carry_out(sweep: Sweep, grid: list[Trial], search: str, trials: int | None) -> Found:
    """Carry out the trials that are not recorded yet; needs a Ray that is held.

    Raises:
        BadInput: not all machines reach the sweep's folder.
        RunFailed: a trial broke off; those that were carried out are recorded.
    """
    started = time.monotonic()
    store.make_dir(store.join(sweep.folder, "trials"))
    reach.everywhere(sweep.folder)
    recorded = sweep.recorded(grid)
    if search == "grid":
        known = {trial.digest() for trial in recorded}
        todo = [trial for trial in grid if trial.digest() not in known]
        if todo:
            _tune(sweep, {"number": ray.tune.grid_search(list(range(len(todo))))}, todo)
    else:
        more = (trials or 0) - len(recorded)
        if more > 0:
            _optuna(sweep, more, {trial.digest() for trial in recorded})
    done, failed = [], {}
    for trial in sweep.recorded(grid):
        one = _read(sweep.place(trial), trial)
        if isinstance(one, Done):
            done.append(one)
        else:
            failed[f"{trial.backbone}/{trial.name}"] = one
    for name, reason in failed.items():
        console.warn(f"{name} is left out: {reason}")
    return Found(done, failed, len(recorded), time.monotonic() - started)


def _optuna(sweep: Sweep, more: int, recorded: set[str]) -> None:
    """``more`` trials where Optuna's sampler expects most; what is recorded it starts from."""
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415, needs optuna installed

    points, rewards = [], []
    for point in sweep.space.points(sweep.runs) if recorded else ():
        trial = sweep.space.trial(point, sweep.runs)
        if trial.digest() in recorded:
            recorded = recorded - {trial.digest()}
            points.append(point)
            rewards.append(_reward(_record(sweep.place(trial)), sweep.objective))
    search = OptunaSearch(
        points_to_evaluate=points or None,
        evaluated_rewards=rewards or None,
        seed=next(iter(sweep.runs.values())).seed,
    )
    axes = sweep.space.axes(sweep.runs)
    space = {name: ray.tune.choice(values) for name, values in axes.items()}
    _tune(sweep, space, None, search=search, samples=more)


def _tune(
    sweep: Sweep,
    space: dict[str, Any],
    todo: list[Trial] | None,
    search: Any = None,
    samples: int = 1,
) -> None:
    count = len(todo) if todo else samples
    at_once = min(session.cores(), count)
    share = plan.trial_cpus(at_once)
    session.wait_for({"CPU": share})
    trainable = ray.tune.with_parameters(_one, sweep=sweep, todo=todo)
    with _storage(sweep.folder) as (filesystem, path), console.track("tune", count, "trials") as go:
        results = ray.tune.Tuner(
            ray.tune.with_resources(trainable, {"CPU": share}),
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                metric="objective",
                mode="max",
                search_alg=search,
                num_samples=samples,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(
                name="sweep",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.tune.FailureConfig(max_failures=_RETRIES),
                callbacks=[_Progress(go)],
                verbose=0,
            ),
        ).fit()
    if results.errors:
        lines = [line for line in str(results.errors[0]).splitlines() if line.strip()]
        raise RunFailed(
            f"{len(results.errors)} of {count} trials broke off, the first: {lines[-1].strip()}; "
            "the same command carries on with those that are not recorded"
        )
    if len(results) < count:
        raise RunFailed(f"{len(results)} of {count} trials ended; the same command carries on")


def _one(config: Point, sweep: Sweep, todo: list[Trial] | None) -> None:
    """Ray Tune's trainable."""
    trial = todo[config["number"]] if todo else sweep.space.trial(config, sweep.runs)
    ray.tune.report({"objective": _reward(sweep.run(trial), sweep.objective)})


def _reward(record: dict[str, Any], objective: str) -> float:
    """What a search maximizes; 0, the least that there is, where a setting cannot be had."""
    return record["figures"].get(objective) or 0.0


class _Progress(ray.tune.Callback):  # type: ignore[misc]
    def __init__(self, advance: console.Advance) -> None:
        self._advance = advance

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._advance(1, "")


@contextlib.contextmanager
def _storage(folder: str) -> Iterator[tuple[Any, str]]:
    """A place for Ray Tune's own state, which is pickled: nothing of it outlives the search."""
    # Else Ray Tune writes a JSON, a CSV and a TensorBoard log of every trial.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Its tables go to standard output even at verbosity 0; the older reporter keeps quiet.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C ends the command, as in every other verb; what is recorded stays.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    filesystem, above = store.resolve(store.join(folder, "ray"))
    path = f"{above}/{uuid.uuid4().hex[:8]}"
    filesystem.create_dir(path, recursive=True)
    try:
        yield filesystem, path
    finally:
        with contextlib.suppress(OSError):
            filesystem.delete_dir(above)


def _record(place: str) -> dict[str, Any]:
    filesystem, path = store.resolve(place)
    record: dict[str, Any] = json.loads(
        pq.read_schema(path, filesystem=filesystem).metadata[b"record"]
    )
    return record


def _read(place: str, trial: Trial) -> Done | str:
    """A trial as it is recorded, or why its setting cannot be had."""
    filesystem, path = store.resolve(place)
    table = pq.read_table(path, filesystem=filesystem, partitioning=None)
    record = json.loads(table.schema.metadata[b"record"])
    if record["reason"] is not None:
        return str(record["reason"])
    return Done(trial, tuple(record["figures"].items()), table, record["seconds"])
