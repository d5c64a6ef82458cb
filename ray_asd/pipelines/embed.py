"""Recordings → embeddings: decode, mels and every backbone in one actor.

One stage, since raw waveforms then never travel between processes: measured, one and a half
times as fast as separate stages. ``fit`` and ``score`` both embed through this one.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_asd import plans
from ray_asd.bundle import Weights
from ray_asd.errors import Reason
from ray_asd.frontend import (
    Heard,
    Hearing,
    Missed,
    segment_frames,
    segments,
    standardize,
)
from ray_asd.frontend.mel import Mel
from ray_asd.pipelines import columns, plan, stage_metrics
from ray_asd.pipelines.columns import BEGAN, SPENT
from ray_asd.pipelines.in_flight import Guard
from ray_asd.pipelines.stage_metrics import Stopwatch
from ray_asd.plans import Shard
from ray_asd.recipe import FrontEnd, Recipe
from ray_asd.upstream import Encoder

Key = tuple[str, str]


class Embed:
    """Ray Data stage: recordings → embeddings, or rejections.

    A clip's segments pass through a backbone by themselves, always in the same shape: what
    else is in the block cannot change a digit of its embedding.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        weights: dict[str, Weights],
        sections: list[Key] | None = None,
        threads: int = 1,
        device: str = "cpu",
        guard: Guard | None = None,
    ) -> None:
        """Load the backbones.

        Args:
            weights: of the trained backbones, by name.
            sections: what is known; a recording of another (machine type, section) is rejected
                without being decoded. None where all are wanted.
            threads: of torch, in this process.
            device: where the backbones run; ``cuda`` is the GPU that Ray gave this actor.
            guard: keeps a recording that ends its process from ending the run; the recordings
                come in shards then.
        """
        self._guard = guard
        self._recipe = Recipe.model_validate(recipe)
        self._known = None if sections is None else {tuple(key) for key in sections}
        self._hearing = Hearing(self._recipe)
        self._front_ends = {
            name: self._recipe.front_end_of(name) for name in self._recipe.upstream.backbones
        }
        self._frames = {
            front_end: segment_frames(front_end, self._recipe.clips)
            for front_end in self._recipe.front_ends()
        }
        self._encoders = {
            name: Encoder(
                settings,
                weights[name].read() if settings.trained else None,
                mels=self._front_ends[name].bands,
                frames=self._frames[self._front_ends[name]],
                embedding=self._recipe.upstream.embedding,
                precision=self._recipe.downstream.precision,
                engine=self._recipe.downstream.engine,
                threads=threads,
                device=device,
            )
            for name, settings in self._recipe.upstream.backbones.items()
        }
        self._schema = columns.schema(self._recipe)
        # Now, and not in the first recording's time, for what is compiled.
        self._hear_a_good_clip()

    def __call__(self, recordings: pa.Table) -> pa.Table:
        """One row a clip, in the order of the recordings; see :func:`columns.schema`."""
        began = time.time()
        with ExitStack() as held:
            may_touch: Callable[[str], bool] = _always
            go_on: Callable[[], None] = _nothing
            if self._guard is not None:
                shard = recordings["shard"][0].as_py()
                may_touch = held.enter_context(self._guard.shard(shard, self._hear_a_good_clip))
                go_on = held.enter_context(self._guard.patience())
            rows = [
                {**row, BEGAN: began}
                for recording in recordings.to_pylist()
                for row in self._rows(recording, may_touch, go_on)
            ]
            return pa.Table.from_pylist(rows, self._schema)

    def _rows(
        self,
        recording: dict[str, Any],
        may_touch: Callable[[str], bool],
        go_on: Callable[[], None],
    ) -> Iterator[dict[str, Any]]:
        key = (recording["machine_type"], recording["section"])
        if self._known is not None and key not in self._known:
            detail = f"the bundle knows no section {key[1]} of the machine type {key[0]}"
            yield self._rejection(recording, Missed(0.0, 0.0, Reason.UNKNOWN_SECTION, detail))
        elif not may_touch(recording["uri"]):
            detail = "it ended the process that read it, or kept it without end, twice"
            yield self._rejection(recording, Missed(0.0, 0.0, Reason.CRASHED, detail))
        else:
            go_on()
            watch = Stopwatch()
            for clip in self._hearing(recording):
                go_on()
                heard_s = watch.lap()
                if isinstance(clip, Missed):
                    row, embedded_s = self._rejection(recording, clip), 0.0
                else:
                    row, embedded_s = self._embedded(recording, clip), watch.lap()
                yield {**row, f"{SPENT}hear": heard_s, f"{SPENT}embed": embedded_s}
                stage_metrics.observe("hear", heard_s)
                stage_metrics.observe("embed", embedded_s)
                go_on()

    def _hear_a_good_clip(self) -> None:
        """Pass a made-up clip through all that a recording passes but its decoder."""
        seconds = self._recipe.clips.segment_s
        rate = self._recipe.front_end.sample_rate_hz
        noise = np.random.default_rng(0).standard_normal(round(seconds * rate), np.float32)
        clip = standardize(noise)
        pieces, _ = self._segments(self._hearing.mels(clip))
        for name, encoder in self._encoders.items():
            encoder.embed(pieces[self._front_ends[name]])

    def _segments(
        self, mels: dict[FrontEnd, Mel]
    ) -> tuple[dict[FrontEnd, npt.NDArray[np.float32]], list[float]]:
        """Segments of a clip by each front end, and their starts in seconds.

        Front ends round the same starts to their own frames; those told are the first one's.
        """
        count = self._recipe.clips.segments
        pieces, starts = {}, {}
        for front_end, length in self._frames.items():
            pieces[front_end], starts[front_end] = segments(mels[front_end], length, count)
        first = next(iter(self._frames))
        return pieces, [s * first.hop / first.sample_rate_hz for s in starts[first]]

    def _embedded(self, recording: dict[str, Any], clip: Heard) -> dict[str, Any]:
        pieces, starts_s = self._segments(clip.mels)
        row = {
            **recording,
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
            "segments": self._recipe.clips.segments,
            "segment_starts_s": starts_s,
        }
        for name, encoder in self._encoders.items():
            embedding = encoder.embed(pieces[self._front_ends[name]])
            if not math.isfinite(float(embedding.sum(dtype=np.float64))):
                detail = f"the embedding of {name} is not finite"
                missed = Missed(clip.start_s, clip.duration_s, Reason.NOT_FINITE, detail)
                return self._rejection(recording, missed)
            row[f"embedding/{name}"] = embedding.ravel()
        return row

    def _rejection(self, recording: dict[str, Any], clip: Missed) -> dict[str, Any]:
        return {
            **recording,
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
            "segments": 0,
            "segment_starts_s": [],
            **{f"embedding/{name}": [] for name in self._encoders},
            "reason": clip.reason.value,
            "detail": clip.detail,
            "may_pass": clip.may_pass,
        }


class EmbedShard(Embed):
    """The same, over a plan's shards: a block comes as one row that says where they stand."""

    def __call__(self, shard: pa.Table) -> pa.Table:
        """``shard`` is one :class:`ray_asd.plans.Shard`."""
        (where,) = shard.to_pylist()
        return super().__call__(plans.recordings(Shard(**where)))


def over(
    rows: pa.Table, recipe: Recipe, weights: dict[str, Weights], stage: type[Embed] = Embed
) -> Iterator[pa.Table]:
    """What a stage makes of rows, block by block as they are ready; needs a Ray that is held."""
    blocks = plan.blocks(rows)
    pool = plan.Pool.embedding(len(blocks))
    dataset = pool.stage(
        blocks, stage, device=pool.device, recipe=recipe.model_dump(), weights=weights
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _always(uri: str) -> bool:
    return True


def _nothing() -> None:
    return None
