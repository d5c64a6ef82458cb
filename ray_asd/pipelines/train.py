"""Features → trained backbones: one Ray Train run, one backbone after the other.

``RUN/`` then holds ``run.json``, ``recipe.yaml``, ``classes.json``, ``checkpoints/`` (Ray Train's
storage), and for each backbone ``<name>/weights.safetensors`` (the encoder, without heads) and
``<name>/metrics.jsonl`` (a line an epoch).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.archive import manifest, store
from ray_asd.errors import BadInput, RunFailed
from ray_asd.frontend import segment_frames
from ray_asd.pipelines import features, metrics_log, session
from ray_asd.pipelines.train_worker import WEIGHTS, work
from ray_asd.recipe import Recipe
from ray_asd.upstream import (
    Classes,
    Composer,
    TargetPool,
    Training,
    clips_of,
    pack_weights,
    steps_per_epoch,
)


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
        BadInput: a manifest or recipe that cannot be used.
        RunFailed: training broke off; a later call carries on from the last checkpoint.
    """
    chosen = recipes.load(recipe, settings or [])
    out = store.absolute(out)
    recordings = manifest.read(manifest_uri)
    classes = Classes.of(manifest.training(recordings))
    started = time.monotonic()
    with session.session(address):
        table = features.build(recordings, chosen, features_uri or store.join(out, "features"))
        data = _Data.split(recordings, chosen, features.parts_of(table, chosen))
        store.make_dir(out)
        _write(out, "recipe.yaml", chosen.to_yaml())
        _write(out, "classes.json", json.dumps(classes.to_dict(), indent=1) + "\n")
        lines = _run(chosen, classes, data, out, workers)
    run = {
        "recipe": chosen.name,
        "machine_types": len(classes.machine_types),
        "attribute_values": len(classes.attribute_values),
        "clips": data.counts,
        "features": table,
        "seconds": round(time.monotonic() - started, 1),
        "backbones": {line["backbone"]: line for line in lines},
    }
    _write(out, "run.json", json.dumps(run, indent=2) + "\n")
    return run


def weights_of(run: str, backbones: list[str]) -> dict[str, str]:
    """URIs of the trained encoders' weights in the upstream run ``run``.

    Raises:
        BadInput: not an upstream run, or a backbone is missing in it.
    """
    if not store.exists(store.join(run, "recipe.yaml")):
        raise BadInput(f"{run}: no recipe.yaml there; name a folder that `ray-asd train` wrote")
    found = {name: store.join(run, name, WEIGHTS) for name in backbones}
    for name, uri in found.items():
        if not store.exists(uri):
            raise BadInput(f"{uri}: missing; `ray-asd train` has not finished the backbone {name}")
    return found


@dataclass(frozen=True)
class _Data:
    """The training recordings' clips, by what they are for."""

    source: ray.data.Dataset
    target: ray.data.Dataset
    held_out: ray.data.Dataset
    counts: dict[str, int]

    @classmethod
    def split(cls, recordings: pa.Table, recipe: Recipe, parts: list[str]) -> _Data:
        """Read the features table three times: source, target, and held-out clips."""
        training = manifest.training(recordings)
        kept = manifest.held_out(training, recipe.held_out).tolist()
        domains = training["domain"].to_pylist()
        uris: dict[str, list[str]] = {"source": [], "target": [], "held_out": []}
        for uri, out, domain in zip(training["uri"].to_pylist(), kept, domains, strict=True):
            role = "held_out" if out else "target" if domain == "target" else "source"
            uris[role].append(uri)
        if not uris["target"]:
            console.warn(
                "no target-domain clip to train on: batches hold source clips only, and the "
                "system will be less sure about machines whose surroundings changed"
            )
        if not uris["source"]:
            uris["source"] = uris["target"]
        filesystem, _ = store.resolve(parts[0])
        whole = ray.data.read_parquet(
            [store.resolve(part)[1] for part in parts],
            filesystem=filesystem,
            ray_remote_args={"num_cpus": _READ_CPUS},
        )
        roles = {
            role: _held_in_memory(
                whole.map_batches(
                    Keep(sorted(wanted)),
                    batch_format="pyarrow",
                    batch_size=None,
                    num_cpus=_READ_CPUS,
                ),
                len(wanted) / len(training),
                always=role != "source",
                bytes_in_all=sum(store.size(part) for part in parts),
            )
            for role, wanted in uris.items()
        }
        return cls(**roles, counts={role: dataset.count() for role, dataset in roles.items()})


# Of a core, for a task that reads; fractions let it run beside workers that hold most cores.
_READ_CPUS = 0.25
# Of the object store, for features that are read once rather than every epoch.
_SHARE_HELD = 0.25


def _held_in_memory(
    dataset: ray.data.Dataset, share: float, *, always: bool, bytes_in_all: int
) -> ray.data.Dataset:
    """The dataset, read once into the object store where it takes little of that.

    The others stream from Parquet in every epoch. Target and held-out clips are few, and every
    worker takes all of them.
    """
    room = ray.cluster_resources().get("object_store_memory", 0) * _SHARE_HELD
    return dataset.materialize() if always or share * bytes_in_all < room else dataset


class Keep:
    """Ray Data step: rows of these recordings only."""

    def __init__(self, uris: list[str]) -> None:
        self._uris = pa.array(uris, pa.string())

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The rows whose ``uri`` is wanted."""
        return rows.filter(pc.is_in(rows["uri"], value_set=self._uris))


def _run(
    recipe: Recipe, classes: Classes, data: _Data, out: str, workers: int | None
) -> list[dict[str, Any]]:
    """Train all backbones and leave their weights; returns the lines of metrics."""
    if recipe.upstream.epochs == 0:
        return _leave_untrained(recipe, classes, data, out)
    count, cpus, gpu = _workers(workers)
    storage, path = store.resolve(store.join(out, "checkpoints"))
    storage.create_dir(path, recursive=True)
    epochs = recipe.upstream.epochs * len(recipe.trained_backbones())
    with metrics_log.followed(epochs, out) as (log, lines):
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "recipe": recipe.model_dump(),
                "classes": classes.to_dict(),
                "steps": steps_per_epoch(
                    data.counts["source"] // count, recipe.upstream.batch, count
                ),
                "threads": max(1, session.cores() // count),
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
            ),
            datasets={"source": data.source, "target": data.target, "held_out": data.held_out},
            dataset_config=ray.train.DataConfig(datasets_to_split=["source"]),
        )
        try:
            checkpoint = trainer.fit().checkpoint
        except ray.train.TrainingFailedError as error:
            raise _as_run_failed(error) from None
    if checkpoint is None:
        raise RunFailed(f"training left no checkpoint in {out}/checkpoints")
    with checkpoint.as_directory() as folder:
        for backbone in recipe.trained_backbones():
            _leave(out, backbone, (Path(folder) / backbone / WEIGHTS).read_bytes())
    return lines


def _leave_untrained(
    recipe: Recipe, classes: Classes, data: _Data, out: str
) -> list[dict[str, Any]]:
    """Leave backbones with random weights, their BatchNorm statistics those of the data."""
    composer = Composer(
        classes=classes,
        target=TargetPool(()),
        size=recipe.upstream.batch,
        length=segment_frames(recipe.front_end, recipe.clips),
        seed=recipe.seed,
    )
    steps = steps_per_epoch(data.counts["source"], recipe.upstream.batch, 1)
    for backbone in recipe.trained_backbones():
        untrained = Training(recipe, backbone, classes, 0, torch.device("cpu"))
        rows = data.source.iter_batches(batch_size=recipe.upstream.batch, batch_format="pyarrow")
        clips = (clip for t in rows for clip in clips_of(t, classes, recipe.front_end.mels))
        for batch in composer.epoch(clips, 0, steps):
            untrained.observe(batch)
        _leave(out, backbone, pack_weights(untrained.network.backbone))
    return [{"backbone": backbone, "epoch": 0} for backbone in recipe.trained_backbones()]


def _leave(out: str, backbone: str, weights: bytes) -> None:
    store.make_dir(store.join(out, backbone))
    store.write_atomic(store.join(out, backbone, WEIGHTS), weights)


def _workers(asked: int | None) -> tuple[int, float, bool]:
    """How many workers, the CPUs of each, and whether each has a GPU.

    Ray Data needs a core to feed them: measured, workers that reserve all of two cores wait
    for ever.

    Raises:
        BadInput: more workers than there are GPUs, or cores.
    """
    cores, gpus = session.cores(), session.gpus()
    workers = asked or gpus or cores
    kind, there = ("GPUs", gpus) if gpus else ("cores", cores)
    if workers > there:
        raise BadInput(f"--workers {workers}: there are {there} {kind}; ask for at most as many")
    share = (cores - 1) / workers if cores > 1 else 0.5
    return workers, round(share, 3), bool(gpus)


def _as_run_failed(error: Exception) -> RunFailed:
    """The workers' own one-line error, where that is what ended the training."""
    for cause in getattr(error, "worker_failures", {}).values():
        inner = getattr(cause, "cause", None) or cause
        if isinstance(inner, RunFailed | BadInput):
            return RunFailed(str(inner))
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunFailed(
        f"training failed: {lines[-1].strip() if lines else repr(error)}; the same command "
        "carries on from the last checkpoint"
    )


def _write(out: str, name: str, text: str) -> None:
    store.write_atomic(store.join(out, name), text.encode())
