"""What a Ray Train worker reads of the features tables: clips, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import ray.train

from ray_asd.frontend import segment_frames
from ray_asd.recipe import FrontEnd, Recipe
from ray_asd.upstream import (
    Batch,
    Classes,
    Clip,
    Composer,
    TargetPool,
    clips_of,
    shuffled,
    stable_rng,
    worker_batch,
)

# Batches from which a worker draws its next one: enough that clips meet in new company, few
# enough that memory does not grow with the archive. Ray Data's own local shuffle joins whole
# blocks of the table, which do grow with it.
_SHUFFLED_BATCHES = 4


def dataset_name(role: str, table: str) -> str:
    """Name under which Ray Train hands out a features table's clips of a role."""
    return f"{role}-{table}"


class Tables:
    """The features tables, one a front end, of which a worker holds one at a time.

    Args:
        classes: what the heads tell apart.
        recipe: the system's settings.
        steps: of an epoch, by table.
        hold_source: by table, whether source clips are kept between epochs.
        rank: of this worker.
        workers: of how many.
    """

    def __init__(
        self,
        classes: Classes,
        recipe: Recipe,
        steps: Mapping[str, int],
        hold_source: Mapping[str, bool],
        rank: int,
        workers: int,
    ) -> None:
        self._classes, self._recipe = classes, recipe
        self._steps, self._hold_source = steps, hold_source
        self._rank, self._workers = rank, workers
        self._front_end: FrontEnd | None = None
        self._clips: TrainingClips | None = None

    def of(self, backbone: str) -> TrainingClips:
        """The clips as ``backbone`` hears them. Those of another front end are let go."""
        front_end = self._recipe.front_end_of(backbone)
        if self._clips is None or self._front_end != front_end:
            self._clips, self._front_end = None, front_end
            self._clips = self._read(front_end)
        return self._clips

    def _read(self, front_end: FrontEnd) -> TrainingClips:
        recipe, table = self._recipe, self._recipe.features_digest(front_end)
        stream = _Stream(table, self._classes, front_end.bands)
        composer = Composer(
            classes=self._classes,
            target=TargetPool(stream.read("target")),
            size=worker_batch(recipe.upstream.batch, self._workers),
            length=segment_frames(front_end, recipe.clips),
            seed=recipe.seed,
            rank=self._rank,
        )
        held_out = islice(stream.read("held_out"), self._rank, None, self._workers)
        source = _Source(stream, composer, self._hold_source[table])
        return TrainingClips(composer, source, list(held_out), self._steps[table])


class TrainingClips:
    """One worker's clips of one features table."""

    def __init__(
        self, composer: Composer, source: _Source, held_out: list[Clip], steps: int
    ) -> None:
        self.composer = composer
        self.steps = steps
        """of an epoch"""
        self._source = source
        self._held_out = held_out

    @property
    def watched(self) -> Iterator[Batch]:
        """This worker's share of the held-out clips, cropped the same in every epoch."""
        clips = iter(self._held_out)
        while several := list(islice(clips, self.composer.size)):
            yield self.composer.crops([(clip, 0) for clip in several], epoch=-1)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """One epoch's batches of this worker."""
        clips = self._source.epoch(epoch)
        yield from self.composer.epoch(clips, epoch, self.steps)
        # The workers share one stream: who leaves it early keeps the others waiting.
        for _ in clips:
            pass


class _Stream:
    """A features table as Ray Train hands it out to this worker."""

    def __init__(self, table: str, classes: Classes, bands: int) -> None:
        self._table, self._classes, self._bands = table, classes, bands

    def read(self, role: str) -> Iterator[Clip]:
        """This worker's clips of a role, in the order in which they come.

        Their mels are views of the object store's memory: whole blocks are read, since Ray Data
        copies what it cuts into batches.
        """
        shard = ray.train.get_dataset_shard(dataset_name(role, self._table))
        for rows in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from clips_of(rows, self._classes, self._bands)


class _Source:
    """This worker's source clips, epoch after epoch.

    Few clips (the driver decides, for all workers alike) are read once and kept: a stream takes
    seconds to begin, as long as a small archive's epoch itself.
    """

    def __init__(self, stream: _Stream, composer: Composer, held: bool) -> None:
        self._stream, self._composer, self._held = stream, composer, held
        self._kept: list[Clip] = []

    def epoch(self, epoch: int) -> Iterator[Clip]:
        """The clips in an order of this epoch's own. Read it to its end."""
        composer = self._composer
        order = stable_rng("source", composer.seed, epoch, composer.rank)
        if not self._held:
            room = composer.source_places * _SHUFFLED_BATCHES
            yield from shuffled(self._stream.read("source"), room, order)
            return
        if not self._kept:
            clips = [clip.copy() for clip in self._stream.read("source")]
            self._kept = sorted(clips, key=lambda clip: (clip.uri, clip.start_s))
        yield from (self._kept[i] for i in order.permutation(len(self._kept)))
