"""Features → trained backbones: one Ray Train run, one backbone after the other.

``RUN/`` then holds ``run.json``, ``recipe.yaml``, ``classes.json``, ``heard.json`` (which
recordings were trained on, by :func:`manifest.identities`), ``checkpoints/`` (Ray Train's
storage), and for each backbone ``<name>/weights.safetensors`` (the encoder, without heads) and
``<name>/metrics.jsonl`` (a line an epoch; beside it the same as a TensorBoard log).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.archive import manifest, store
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import features, metrics_log, plan, reach, session, train_data
from ray_asd.pipelines.train_clips import dataset_name
from ray_asd.pipelines.train_data import Data
from ray_asd.pipelines.train_worker import work
from ray_asd.pipelines.upstream_run import HEARD, WEIGHTS
from ray_asd.recipe import Recipe
from ray_asd.upstream import (
    Classes,
    steps_per_epoch,
    training_settings,
)

# Of source clips, that a worker keeps between epochs.
_MOST_HELD_BYTES = 256_000_000

# glibc hands large tensors back to the kernel after each step, and in threads beside the main one,
# where Ray Train trains, smaller ones too: measured, a tenth to a third of the speed. So one arena
# that keeps what it has, in pages of 2 MB where the kernel offers them.
_WORKER_ENVIRONMENT = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
}

# In a worker's batch, unless workers are asked for: BatchNorm needs some company.
_FEWEST_CLIPS = 16


def train(
    manifest_uri: str,
    out: str,
    *,
    recipe: str = "first_shot",
    settings: list[str] | None = None,
    workers: int | None = None,
    features_uri: str | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Train every backbone of a recipe on a manifest's normal training recordings.

    Args:
        manifest_uri: a manifest that :func:`ray_asd.index` wrote.
        out: the folder of the upstream run, made anew or carried on with.
        recipe: name or file.
        settings: ``key=value`` overrides of the recipe.
        workers: Ray Train workers; one a GPU, or one a core where there is none.
        features_uri: folder of features tables, to share between runs; ``out``/features if None.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        What ``run.json`` holds: clips, seconds, and each backbone's last metrics.

    Raises:
        BadInput: a manifest or recipe that cannot be used, or ``out`` holds another training.
        RunFailed: training broke off; a later call carries on from the last checkpoint.

    >>> train("manifest.parquet", "upstream", settings=["upstream.epochs=20"])  # doctest: +SKIP
    """
    chosen = recipes.load(recipe, settings or [])
    out = store.absolute(out)
    recordings = manifest.read(manifest_uri)
    classes = Classes.of(manifest.training(recordings))
    training = manifest.training(recordings)
    heard = sorted(
        identity
        for identity, kept in zip(
            manifest.identities(training),
            manifest.held_out(training, chosen.held_out),
            strict=True,
        )
        if not kept and any(map(chosen.epochs_of, chosen.trained_backbones()))
    )
    _same_run(out, chosen, classes, heard)
    if len(classes.joint) == 1:
        console.warn(
            f"all training recordings are {classes.machine_types[0]} and alike in section and "
            "attributes: there is nothing to tell apart, so the backbones learn nothing from "
            "them; add recordings of other machine types"
        )
    started = time.monotonic()
    with session.session(address):
        store.make_dir(out)
        reach.everywhere(out, *training["uri"].to_pylist()[:1])
        front_ends = chosen.front_ends(chosen.trained_backbones()) or [chosen.front_end]
        tables = features.build(
            recordings, chosen, front_ends, features_uri or store.join(out, "features")
        )
        parts = {
            chosen.features_digest(front_end): features.parts_of(table, chosen, front_end)
            for front_end, table in zip(front_ends, tables, strict=True)
        }
        data = train_data.split(recordings, chosen, parts)
        _write(out, "recipe.yaml", chosen.to_yaml())
        _write(out, "classes.json", json.dumps(classes.to_dict(), indent=1) + "\n")
        _write(out, HEARD, json.dumps(heard) + "\n")
        lines = _run(chosen, classes, data, out, workers)
    run = {
        "recipe": chosen.name,
        "machine_types": len(classes.machine_types),
        "attribute_values": len(classes.attribute_values),
        "clips": next(iter(data.values())).counts,
        "features": tables,
        "seconds": round(time.monotonic() - started, 1),
        "backbones": {
            line["backbone"]: line
            for line in [*metrics_log.last_lines(out, chosen.trained_backbones()), *lines]
        },
    }
    _write(out, "run.json", json.dumps(run, indent=2) + "\n")
    return run


def _same_run(out: str, chosen: Recipe, classes: Classes, heard: list[str]) -> None:
    """Check that the training that ``out`` may hold checkpoints of is this one.

    Raises:
        BadInput: it is not; the differing settings are named.
    """
    kept = [store.join(out, name) for name in ("recipe.yaml", "classes.json", HEARD)]
    if not (store.exists(store.join(out, "checkpoints")) and all(map(store.exists, kept))):
        return
    then, found, before_heard = (store.read_bytes(uri).decode() for uri in kept)
    before, now = (training_settings(r) for r in (recipes.parse(then, kept[0]), chosen))
    differing = [name for name in now if name in before and before[name] != now[name]]
    if json.loads(found) != classes.to_dict():
        differing.append("the manifest's machine types, sections or attributes")
    elif json.loads(before_heard) != heard:
        differing.append("the manifest's training recordings")
    if differing:
        raise BadInput(
            f"{out}: holds a training with other settings of {', '.join(differing)}; train into "
            "another folder, or remove this one"
        )


def _run(
    recipe: Recipe, classes: Classes, data: dict[str, Data], out: str, workers: int | None
) -> list[dict[str, Any]]:
    """Train all backbones and leave their weights; returns the lines of metrics.

    ``data`` are those of the features tables, by :meth:`Recipe.features_digest`.
    """
    backbones = recipe.trained_backbones()
    if not backbones:
        return []
    clips = min(table.counts["source"] for table in data.values())
    count, cpus, threads, gpu = _workers(workers, recipe.upstream.batch, clips)
    session.wait_for({"CPU": count * cpus, **({"GPU": count} if gpu else {})})
    storage, path = store.resolve(store.join(out, "checkpoints"))
    storage.create_dir(path, recursive=True)
    epochs = {name: recipe.epochs_of(name) for name in backbones}
    with metrics_log.followed(epochs, out) as (log, lines):
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "recipe": recipe.model_dump(),
                "classes": classes.to_dict(),
                "steps": {
                    name: steps_per_epoch(
                        table.counts["source"] // count, recipe.upstream.batch, count
                    )
                    for name, table in data.items()
                },
                "threads": threads,
                "hold_source": {
                    name: table.source_bytes / count <= _MOST_HELD_BYTES
                    for name, table in data.items()
                },
                "log": log,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=count,
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="upstream",
                storage_path=path,
                storage_filesystem=storage,
                failure_config=ray.train.FailureConfig(max_failures=3),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=recipe.upstream.checkpoints_kept
                ),
                worker_runtime_env=_WORKER_ENVIRONMENT,
            ),
            datasets={
                dataset_name(role, name): getattr(table, role)
                for name, table in data.items()
                for role in table.counts
            },
            dataset_config=ray.train.DataConfig(
                datasets_to_split=[dataset_name("source", name) for name in data]
            ),
        )
        try:
            checkpoint = trainer.fit().checkpoint
        except ray.train.TrainingFailedError as error:
            raise _own_error(ray.get(log.failure.remote())) or _ray_error(error) from None
        if failed := _own_error(ray.get(log.failure.remote())):
            raise failed
    if checkpoint is None:
        raise RunFailed(f"training left no checkpoint in {out}/checkpoints")
    with checkpoint.as_directory() as folder:
        for backbone in backbones:
            store.make_dir(store.join(out, backbone))
            weights = (Path(folder) / backbone / WEIGHTS).read_bytes()
            store.write_atomic(store.join(out, backbone, WEIGHTS), weights)
    return lines


def _workers(asked: int | None, batch: int, clips: int) -> tuple[int, float, int, bool]:
    """How many workers, the CPUs and threads of each, and whether each has a GPU.

    Ray Data needs a core to feed them: measured, workers that reserve all of two cores wait
    for ever.

    Raises:
        BadInput: more workers than there are GPUs, or cores.
    """
    cores, gpus = session.cores(), session.gpus()
    workers = asked or min(gpus or cores, max(1, batch // _FEWEST_CLIPS), max(1, clips))
    kind, there = ("GPUs", gpus) if gpus else ("cores", cores)
    if workers > there:
        raise BadInput(f"--workers {workers}: there are {there} {kind}; ask for at most as many")
    nodes = session.cores_by_node()
    share = plan.worker_share(nodes, workers)
    # Ray Data's core is idle for most of the time.
    threads = max(1, int(min(sum(nodes) // workers, max(nodes))))
    return workers, share, threads, bool(gpus)


def _own_error(failure: tuple[str, str] | None) -> Exception | None:
    """The workers' own one-line error, where that is what ended the training."""
    if failure is None:
        return None
    kind, line = failure
    return BadInput(line) if kind == BadInput.__name__ else RunFailed(line)


def _ray_error(error: Exception) -> RunFailed:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunFailed(
        f"training failed: {lines[-1].strip() if lines else repr(error)}; the same command "
        "carries on from the last checkpoint"
    )


def _write(out: str, name: str, text: str) -> None:
    store.write_atomic(store.join(out, name), text.encode())
