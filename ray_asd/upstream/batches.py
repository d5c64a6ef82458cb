"""Mini-batches with at least one target-domain clip each, on every worker.

The source clips are split over the workers and streamed; each worker holds the whole target set
and draws from it with replacement (design, section 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from ray_asd.errors import BadInput
from ray_asd.upstream.classes import Classes
from ray_asd.upstream.clips import Clip, crop_start
from ray_asd.upstream.randomness import stable_rng


def worker_batch(batch: int, workers: int) -> int:
    """Clips in one worker's batch.

    Raises:
        BadInput: fewer than two, so that source and target do not fit in.
    """
    if batch // workers < 2:
        raise BadInput(
            f"upstream.batch: {batch} clips over {workers} workers leave no room for a source and "
            f"a target clip in each worker's batch; use at most {batch // 2} workers or a larger "
            f"batch"
        )
    return batch // workers


def steps_per_epoch(source_clips_per_worker: int, batch: int, workers: int) -> int:
    """Steps of one epoch: every source clip about once, one place in each batch a target's.

    Raises:
        BadInput: fewer than two clips in each worker's batch.
    """
    return max(1, source_clips_per_worker // (worker_batch(batch, workers) - 1))


@dataclass(frozen=True)
class Batch:
    """Crops and their labels, one-hot or mixed."""

    mels: Tensor
    """(batch, mels, frames) float32"""
    machine_type: Tensor
    """(batch, machine types) float32; each row sums to 1"""
    attributes: Tensor
    """(batch, attribute classes) float32; a row sums to the clip's share that has attributes"""
    plain: Tensor
    """(batch, plain sections) float32; a row sums to the clip's share that has none"""

    @property
    def joint(self) -> Tensor:
        """(batch, joint classes) float32, of the joint label; each row sums to 1."""
        return torch.cat([self.attributes, self.plain], dim=1)

    def to(self, device: torch.device) -> Batch:
        """This batch on ``device``."""
        return Batch(
            self.mels.to(device, non_blocking=True),
            self.machine_type.to(device, non_blocking=True),
            self.attributes.to(device, non_blocking=True),
            self.plain.to(device, non_blocking=True),
        )

    def __len__(self) -> int:
        return len(self.mels)


class TargetPool:
    """All target-domain clips, on every worker; may be empty."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        self.clips = tuple(clips)

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, rng: np.random.Generator) -> Clip:
        """One clip, with replacement."""
        return self.clips[int(rng.integers(len(self.clips)))]


@dataclass(frozen=True)
class Composer:
    """Makes one worker's batches; all that it draws follows from seed, epoch, step and rank."""

    classes: Classes
    target: TargetPool
    size: int
    """clips in a batch"""
    length: int
    """frames of a crop"""
    seed: int
    rank: int = 0

    @property
    def source_places(self) -> int:
        """Source clips in a batch: all but one, or all where there is no target clip."""
        return self.size - 1 if self.target.clips else self.size

    def epoch(self, source: Iterable[Clip], epoch: int, steps: int) -> Iterator[Batch]:
        """Exactly ``steps`` batches from a stream of source clips, of which one batch is held.

        Where the stream ends early, the clips at hand are used again, cropped elsewhere. What is
        left of the stream is not read.

        Raises:
            BadInput: neither a source nor a target clip.
        """
        stream = iter(source)
        held: list[Clip] = []
        uses = 0
        for step in range(steps):
            fresh = list(islice(stream, self.source_places))
            uses = 0 if fresh else uses + 1
            held = fresh or held
            yield self.compose(held, epoch, step, first_use=uses * self.size)

    def compose(self, source: Sequence[Clip], epoch: int, step: int, first_use: int = 0) -> Batch:
        """One batch: the source clips, repeated where too few, and one drawn target clip.

        Args:
            source: at most ``source_places`` clips; without any, target clips fill the batch.
            epoch: counts from 0.
            step: within the epoch, from 0.
            first_use: how often these clips were cropped in this epoch before, at most.

        Raises:
            BadInput: neither a source nor a target clip.
        """
        if len(source) > self.source_places:
            raise ValueError(f"{len(source)} source clips for {self.source_places} places")
        if not source and not self.target.clips:
            raise BadInput(
                "features: no training clip for this worker; use fewer workers or more recordings"
            )
        rng = stable_rng("target", self.seed, epoch, step, self.rank)
        chosen = [
            (clip, first_use + place // len(source))
            for place, clip in enumerate(islice(cycle(source), self.source_places))
        ]
        # A target clip is drawn many times in an epoch, each time to be cropped elsewhere.
        chosen += [
            (self.target.draw(rng), int(rng.integers(2**32))) for _ in range(len(chosen), self.size)
        ]
        return self.crops(chosen, epoch)

    def crops(self, chosen: Sequence[tuple[Clip, int]], epoch: int) -> Batch:
        """A batch of one random crop of each (clip, repetition)."""
        mels = np.empty((len(chosen), chosen[0][0].mel.shape[0], self.length), np.float32)
        for row, (clip, repetition) in zip(mels, chosen, strict=True):
            frames = clip.mel.shape[1]
            start = crop_start(
                self.seed,
                epoch,
                clip.uri,
                clip.start_s,
                frames=frames,
                length=self.length,
                repetition=repetition,
            )
            row[:] = clip.mel[:, start : start + self.length]
        return Batch(
            torch.from_numpy(mels),
            _one_hot([clip.machine_type for clip, _ in chosen], len(self.classes.machine_types)),
            _one_hot([clip.attributes for clip, _ in chosen], len(self.classes.attribute_values)),
            _one_hot([clip.plain for clip, _ in chosen], len(self.classes.plain_sections)),
        )


def _one_hot(labels: Sequence[int], classes: int) -> Tensor:
    """(labels, classes) float32; a label of -1 makes a row of zeros."""
    rows = torch.zeros(len(labels), classes)
    for row, label in enumerate(labels):
        if label >= 0:
            rows[row, label] = 1
    return rows
