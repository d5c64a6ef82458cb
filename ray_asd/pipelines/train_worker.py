"""What runs on each Ray Train worker: one backbone after the other, epochs over its shard."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines.train_clips import Tables, TrainingClips
from ray_asd.pipelines.upstream_run import WEIGHTS
from ray_asd.recipe import Recipe
from ray_asd.upstream import (
    Classes,
    StepMetrics,
    Training,
    average,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)


def work(config: dict[str, Any]) -> None:
    """Train the recipe's backbones; ``config`` is what :mod:`ray_asd.pipelines.train` hands out.

    A checkpoint holds the weights of the backbones that are finished and the whole state of the
    one at hand. A worker group that starts anew carries on from the last one that Ray Train's
    controller has seen (it looks every 2 s), with the schedule where it stopped.

    Raises:
        RunFailed: training cannot go on, such as from a diverged loss. What comes of it is a
            worker group that starts anew, and ends at once.
        BadInput: features or a checkpoint that do not fit; likewise.
    """
    if ray.get(config["log"].failure.remote()):
        return
    try:
        _work(config)
    except (RunFailed, BadInput) as error:
        # Ray Train starts anew, as for a lost worker: it cannot be told that this comes again.
        kind = BadInput if isinstance(error, BadInput) else RunFailed
        ray.get(config["log"].fail.remote(kind.__name__, str(error)))
        raise


def _work(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    recipe = Recipe.model_validate(config["recipe"])
    classes = Classes.from_dict(config["classes"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    tables = Tables(classes, recipe, config["steps"], config["hold_source"], rank, workers)
    with tempfile.TemporaryDirectory() as folder:
        done = _Finished(Path(folder))
        done.restore()
        for backbone in recipe.trained_backbones():
            if backbone not in done:
                _finish(backbone, recipe, classes, tables, done, config)


def _finish(
    backbone: str,
    recipe: Recipe,
    classes: Classes,
    tables: Tables,
    done: _Finished,
    config: dict[str, Any],
) -> None:
    """Bring one backbone to its end; nothing of it or its clips is held on to here."""
    clips = tables.of(backbone)
    training = Training(
        recipe,
        backbone,
        classes,
        total_steps=recipe.epochs_of(backbone) * clips.steps,
        device=ray.train.torch.get_device(),
        wrap=_data_parallel,
        rank=clips.composer.rank,
    )
    if training.total_steps:
        _resume(training, config["log"])
        _train(training, clips, done, config)
    else:
        _observe(training, clips, done, config)


def _train(
    training: Training, clips: TrainingClips, done: _Finished, config: dict[str, Any]
) -> None:
    """Train one backbone from where it stands to the end of its schedule.

    Ray Train hears of checkpoints only: it looks every 2 s, and workers that report wait for it.
    """
    settings, steps, composer = training.recipe.upstream, clips.steps, clips.composer
    workers = ray.train.get_context().get_world_size()
    for epoch in range(training.steps // steps, settings.epochs):
        started = time.monotonic()
        taken = [training.step(batch) for batch in clips.epoch(epoch)]
        seconds = time.monotonic() - started
        line = {
            "backbone": training.backbone,
            "epoch": epoch + 1,
            "epochs": settings.epochs,
            "step": training.steps,
            "at": round(time.time(), 1),
            **average(_of_all_workers(taken)),
            **_watch(training, clips),
            "clips_per_s": round(steps * composer.size * workers / seconds, 1),
        }
        last = epoch + 1 == settings.epochs
        if last or (epoch + 1) % settings.checkpoint_epochs == 0:
            _checkpoint(training, line, done, last)
        if composer.rank == 0:
            ray.get(config["log"].add.remote(line))


def _observe(
    training: Training, clips: TrainingClips, done: _Finished, config: dict[str, Any]
) -> None:
    """Leave a backbone untrained, its BatchNorm statistics those of one epoch of the data."""
    for batch in clips.epoch(0):
        training.observe(batch)
    line = {"backbone": training.backbone, "epoch": 0, "epochs": 0, "step": 0}
    _checkpoint(training, line, done, last=True)
    if clips.composer.rank == 0:
        ray.get(config["log"].add.remote(line))


class _Finished:
    """The weights of the backbones that are trained, in a folder of this worker's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, backbone: str) -> bool:
        return self._file(backbone).exists()

    def add(self, training: Training) -> None:
        """Keep the encoder of a training that has ended."""
        self._file(training.backbone).parent.mkdir()
        save_weights(training.network.backbone, self._file(training.backbone))

    def restore(self) -> None:
        """Take over what the last checkpoint holds, if there is one."""
        self._copy(ray.train.get_checkpoint(), self.folder)

    def copy_to(self, folder: Path) -> None:
        """Put all of them into a checkpoint."""
        self._copy(ray.train.Checkpoint.from_directory(str(self.folder)), folder)

    def _file(self, backbone: str) -> Path:
        return self.folder / backbone / WEIGHTS

    @staticmethod
    def _copy(checkpoint: Any, folder: Path) -> None:
        if checkpoint is None:
            return
        with checkpoint.as_directory() as there:
            for file in Path(there).glob(f"*/{WEIGHTS}"):
                (folder / file.parent.name).mkdir(exist_ok=True)
                (folder / file.parent.name / WEIGHTS).write_bytes(file.read_bytes())


def _data_parallel(network: nn.Module) -> nn.Module:
    """The network in DistributedDataParallel where there are several workers.

    Statistics of BatchNorm stay each worker's own while training, and are averaged before a
    checkpoint.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False)


def _resume(training: Training, log: Any) -> None:
    """Take up the state of this backbone that the last checkpoint holds, if it does."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        line = json.loads((Path(folder) / "line.json").read_text("utf-8"))
        if line["backbone"] == training.backbone:
            load_checkpoint(training, Path(folder))
            if ray.train.get_context().get_world_rank() == 0:
                # A driver that was killed may not have seen it.
                ray.get(log.add.remote(line))


def _watch(training: Training, clips: TrainingClips) -> dict[str, Any]:
    """Losses and accuracies on the held-out clips."""
    taken = [training.validate(batch) for batch in clips.watched]
    figures = average(_of_all_workers(taken))
    figures.pop("learning_rate")
    return {f"held_out_{name}": value for name, value in figures.items()}


def _of_all_workers(taken: list[StepMetrics]) -> list[StepMetrics]:
    """Every worker's steps, on every worker."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return taken
    gathered: list[list[StepMetrics]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, taken)
    return [step for worker in gathered for step in worker]


def _checkpoint(training: Training, line: dict[str, Any], done: _Finished, last: bool) -> None:
    """All workers agree on a checkpoint, and one writes it."""
    training.agree()
    if last:
        done.add(training)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if ray.train.get_context().get_world_rank() == 0:
            place = Path(folder)
            save_checkpoint(training, place)
            (place / "line.json").write_text(json.dumps(line), "utf-8")
            done.copy_to(place)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(line, checkpoint=checkpoint)
