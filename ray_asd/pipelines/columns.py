"""Embeddings as they travel between stages. Light: the detectors' processes import no torch."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_asd import tables
from ray_asd.recipe import Recipe

SPENT = "spent/"
"""Columns of this prefix hold the seconds that a stage took for a row."""

BEGAN = "began_at"
"""When a worker began with the row's block, in seconds since 1970 by its node's clock."""


def schema(recipe: Recipe) -> pa.Schema:
    """Embeddings as they travel: a clip's, or the reason why there are none.

    With its shard, if any, when that was begun, and the seconds that each stage took for it.
    """
    return pa.schema(
        [
            *tables.embeddings(recipe.upstream.backbones),
            pa.field("segment_starts_s", pa.list_(pa.float64())),
            pa.field("reason", pa.string()),
            pa.field("detail", pa.string()),
            pa.field("may_pass", pa.bool_()),
            pa.field("shard", pa.string()),
            pa.field("shard_recordings", pa.int32()),
            pa.field(BEGAN, pa.float64()),
            pa.field(f"{SPENT}hear", pa.float64()),
            pa.field(f"{SPENT}embed", pa.float64()),
        ]
    )


def matrix(rows: pa.Table, backbone: str, recipe: Recipe) -> npt.NDArray[np.float32]:
    """Embeddings of accepted rows, ``(clips, segments, embedding width)`` float32."""
    column = rows[f"embedding/{backbone}"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(
        rows.num_rows, recipe.clips.segments, recipe.embedding_width(backbone)
    )
