"""A recording's way to its embeddings within one process: decoder, front ends and backbones.

Separate from :mod:`ray_asd.pipelines.embed`, because it imports torch, which takes seconds: what
drives a run does without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

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
from ray_asd.pipelines import stage_metrics
from ray_asd.pipelines.columns import SPENT
from ray_asd.pipelines.stage_metrics import Stopwatch
from ray_asd.recipe import FrontEnd, Recipe
from ray_asd.upstream import Encoder


class Embedder:
    """Makes rows of :func:`columns.schema`, with an embedding by each backbone or a rejection.

    A clip's segments pass through a backbone by themselves, always in the same shape: what
    else a process embeds cannot change a digit of them.
    """

    def __init__(
        self, recipe: Recipe, weights: dict[str, Weights], *, threads: int, device: str
    ) -> None:
        """Load the backbones.

        Args:
            recipe: the system's settings.
            weights: of the trained backbones, by name.
            threads: of torch, in this process.
            device: where the backbones run, for torch.
        """
        self._recipe = recipe
        self._hearing = Hearing(recipe)
        self._front_ends = {name: recipe.front_end_of(name) for name in recipe.upstream.backbones}
        self._frames = {
            front_end: segment_frames(front_end, recipe.clips) for front_end in recipe.front_ends()
        }
        self._encoders = {
            name: Encoder(
                settings,
                weights[name].read() if settings.trained else None,
                mels=self._front_ends[name].bands,
                frames=self._frames[self._front_ends[name]],
                embedding=recipe.upstream.embedding,
                precision=recipe.downstream.precision,
                engine=recipe.downstream.engine,
                threads=threads,
                device=device,
            )
            for name, settings in recipe.upstream.backbones.items()
        }
        # Now, and not in the first recording's time, for what is compiled.
        self.embed_a_good_clip()

    def __call__(
        self, recording: dict[str, Any], go_on: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each clip of ``recording``, a row of the manifest.

        ``go_on`` is called whenever something is through.
        """
        go_on()
        watch = Stopwatch()
        for clip in self._hearing(recording):
            go_on()
            heard_s = watch.lap()
            row, embedded_s = self._row(recording, clip), 0.0
            if isinstance(clip, Heard):
                embedded_s = watch.lap()
            yield {**row, f"{SPENT}hear": heard_s, f"{SPENT}embed": embedded_s}
            stage_metrics.observe("hear", heard_s)
            stage_metrics.observe("embed", embedded_s)
            go_on()

    def mixed(self, mix: dict[str, Any]) -> dict[str, Any]:
        """The row of one mix; ``mix`` is a row of :data:`ray_asd.pipelines.mixes.DRAWN`."""
        return self._row(mix, self._hearing.mixed(mix["source"], mix["target"], mix["share"]))

    def rejected(self, recording: dict[str, Any], reason: Reason, detail: str) -> dict[str, Any]:
        """The row of a recording that is not decoded."""
        return self._rejection(recording, Missed(0.0, 0.0, reason, detail))

    def embed_a_good_clip(self) -> None:
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

    def _row(self, recording: dict[str, Any], clip: Heard | Missed) -> dict[str, Any]:
        if isinstance(clip, Missed):
            return self._rejection(recording, clip)
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
