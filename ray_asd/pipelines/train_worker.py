"""What runs on each Ray Train worker: one backbone after the other, epochs over its shard."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ray_asd.errors import BadInput, RunFailed
from ray_asd.frontend import segment_frames
from ray_asd.recipe import Recipe
from ray_asd.upstream import (
    Batch,
    Classes,
    Clip,
    Composer,
    StepMetrics,
    TargetPool,
    Training,
    average,
    clips_of,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    stable_rng,
    worker_batch,
)

WEIGHTS = "weights.safetensors"

# Batches from which a worker draws its next one: enough that clips meet in new company, few
# enough that memory does not grow with the archive.
_SHUFFLED_BATCHES = 4


def work(config: dict[str, Any]) -> None:
    """Train the recipe's backbones; ``config`` is what :mod:`ray_asd.pipelines.train` hands out.

    A checkpoint holds the weights of the backbones that are finished and the whole state of the
    one at hand. A worker group that starts anew carries on from the last one, at most
    ``checkpoint_epochs`` back, with the schedule where it stopped.

    Raises:
        RunFailed: training cannot go on, such as from a diverged loss; again, without trying, in
            a worker group that starts anew.
        BadInput: features or a checkpoint that do not fit.
    """
    if told := ray.get(config["log"].failure.remote()):
        raise RunFailed(told[1])
    try:
        _work(config)
    except (RunFailed, BadInput) as error:
        # Ray Train wraps exceptions, and starts anew for those that would only come again.
        kind = BadInput if isinstance(error, BadInput) else RunFailed
        ray.get(config["log"].fail.remote(kind.__name__, str(error)))
        raise


def _work(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    recipe = Recipe.model_validate(config["recipe"])
    classes = Classes.from_dict(config["classes"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    composer = Composer(
        classes=classes,
        target=TargetPool(_clips("target", classes, recipe)),
        size=worker_batch(recipe.upstream.batch, workers),
        length=segment_frames(recipe.front_end, recipe.clips),
        seed=recipe.seed,
        rank=rank,
    )
    watched = list(_watched(composer, recipe, workers))
    source = _Source(composer, recipe, held=config["hold_source"])
    with tempfile.TemporaryDirectory() as folder:
        done = _Finished(Path(folder))
        done.restore()
        for backbone in recipe.trained_backbones():
            if backbone not in done:
                training = Training(
                    recipe,
                    backbone,
                    classes,
                    total_steps=recipe.epochs_of(backbone) * config["steps"],
                    device=ray.train.torch.get_device(),
                    wrap=_data_parallel,
                    rank=rank,
                )
                if training.total_steps:
                    _resume(training, config["log"])
                    _train(training, composer, source, watched, done, config)
                else:
                    _observe(training, composer, source, done, config)


def _train(
    training: Training,
    composer: Composer,
    source: _Source,
    watched: list[Batch],
    done: _Finished,
    config: dict[str, Any],
) -> None:
    """Train one backbone from where it stands to the end of its schedule."""
    settings, steps = training.recipe.upstream, config["steps"]
    workers = ray.train.get_context().get_world_size()
    for epoch in range(training.steps // steps, settings.epochs):
        started = time.monotonic()
        taken = [training.step(batch) for batch in _epoch(composer, source, epoch, steps)]
        seconds = time.monotonic() - started
        line = {
            "backbone": training.backbone,
            "epoch": epoch + 1,
            "epochs": settings.epochs,
            "step": training.steps,
            "at": round(time.time(), 1),
            **average(_of_all_workers(taken)),
            **_watch(training, watched),
            "clips_per_s": round(steps * composer.size * workers / seconds, 1),
        }
        last = epoch + 1 == settings.epochs
        if last or (epoch + 1) % settings.checkpoint_epochs == 0:
            _checkpoint(training, line, done, last)
        else:
            ray.train.report(line)
        if composer.rank == 0:
            ray.get(config["log"].add.remote(line))


def _epoch(composer: Composer, source: _Source, epoch: int, steps: int) -> Iterator[Batch]:
    """One epoch's batches of this worker."""
    clips = source.epoch(epoch)
    yield from composer.epoch(clips, epoch, steps)
    # The workers share one stream: who leaves it early keeps the others waiting.
    for _ in clips:
        pass


class _Source:
    """This worker's source clips, epoch after epoch.

    Few clips (the driver decides, for all workers alike) are kept after their first epoch: a
    stream takes seconds to begin, as long as a small archive's epoch itself.
    """

    def __init__(self, composer: Composer, recipe: Recipe, held: bool) -> None:
        self._composer, self._recipe, self._held = composer, recipe, held
        self._kept: list[Clip] = []

    def epoch(self, epoch: int) -> Iterator[Clip]:
        """The clips in an order of this epoch's own. Read it to its end."""
        composer = self._composer
        if self._kept:
            order = stable_rng("source", composer.seed, epoch, composer.rank)
            yield from (self._kept[i] for i in order.permutation(len(self._kept)))
            return
        kept = []
        for clip in _clips("source", composer.classes, self._recipe, epoch, composer.source_places):
            if self._held:
                # A copy, for the clip's mel is a view of a whole block.
                kept.append(replace(clip, mel=clip.mel.copy()))
            yield clip
        self._kept = sorted(kept, key=lambda clip: (clip.uri, clip.start_s))


def _observe(
    training: Training,
    composer: Composer,
    source: _Source,
    done: _Finished,
    config: dict[str, Any],
) -> None:
    """Leave a backbone untrained, its BatchNorm statistics those of one epoch of the data."""
    for batch in _epoch(composer, source, 0, config["steps"]):
        training.observe(batch)
    line = {"backbone": training.backbone, "epoch": 0, "epochs": 0, "step": 0}
    _checkpoint(training, line, done, last=True)
    if composer.rank == 0:
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


def _clips(
    role: str, classes: Classes, recipe: Recipe, epoch: int = 0, batch: int | None = None
) -> Iterator[Clip]:
    """This worker's clips of a role; shuffled by the epoch where a batch size is given."""
    shuffle = {}
    if batch is not None:
        shuffle = {
            "local_shuffle_buffer_size": batch * _SHUFFLED_BATCHES,
            "local_shuffle_seed": recipe.seed * 1_000_003 + epoch,
        }
    rows = ray.train.get_dataset_shard(role).iter_batches(
        batch_size=batch or 64, batch_format="pyarrow", prefetch_batches=1, **shuffle
    )
    for table in rows:
        yield from clips_of(table, classes, recipe.front_end.mels)


def _watched(composer: Composer, recipe: Recipe, workers: int) -> Iterator[Batch]:
    """This worker's held-out clips, each cropped once: what is not looked at is not kept."""
    clips = islice(_clips("held_out", composer.classes, recipe), composer.rank, None, workers)
    while several := list(islice(clips, composer.size)):
        yield composer.crops([(clip, 0) for clip in several], epoch=-1)


def _watch(training: Training, watched: list[Batch]) -> dict[str, Any]:
    """Losses and accuracies on the held-out clips."""
    taken = [training.validate(batch) for batch in watched]
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
