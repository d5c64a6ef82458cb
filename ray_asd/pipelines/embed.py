"""Recordings → embeddings: decode, mels and every backbone in one actor.

One stage, since raw waveforms then never travel between processes: measured, one and a half
times as fast as separate stages. ``fit`` and ``score`` both embed through this one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from ray_asd import plans
from ray_asd.bundle import Weights
from ray_asd.errors import Reason
from ray_asd.pipelines import columns, plan
from ray_asd.pipelines.columns import BEGAN
from ray_asd.pipelines.in_flight import Guard
from ray_asd.plans import Shard
from ray_asd.recipe import Recipe

Key = tuple[str, str]


class Embed:
    """Ray Data stage: recordings → embeddings, or rejections."""

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
        from ray_asd.pipelines.embedder import Embedder  # noqa: PLC0415, torch is slow to import

        self._guard = guard
        self._known = None if sections is None else {tuple(key) for key in sections}
        self._recipe = Recipe.model_validate(recipe)
        self._embedder = Embedder(self._recipe, weights, threads=threads, device=device)
        self._schema = columns.schema(self._recipe)

    def __call__(self, recordings: pa.Table) -> pa.Table:
        """One row a clip, in the order of the recordings; see :func:`columns.schema`."""
        began = time.time()
        with ExitStack() as held:
            may_touch: Callable[[str], bool] = _always
            go_on: Callable[[], None] = _nothing
            if self._guard is not None:
                shard, good = recordings["shard"][0].as_py(), self._embedder.embed_a_good_clip
                may_touch = held.enter_context(self._guard.shard(shard, good))
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
            yield self._embedder.rejected(recording, Reason.UNKNOWN_SECTION, detail)
        elif not may_touch(recording["uri"]):
            detail = "it ended the process that read it, or kept it without end, twice"
            yield self._embedder.rejected(recording, Reason.CRASHED, detail)
        else:
            yield from self._embedder(recording, go_on)


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
