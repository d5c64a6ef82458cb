"""Manifest → mel tensors: one table per front-end digest, kept as Parquet for training.

A features table is a folder of parts and, written last, ``features.json``: what it was made
with. A table whose ``features.json`` fits is used again.
"""

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_asd import console, tables
from ray_asd.archive import manifest, store
from ray_asd.errors import BadInput
from ray_asd.frontend import Hearing, Missed
from ray_asd.pipelines import plan
from ray_asd.recipe import Recipe


def build(recordings: pa.Table, recipe: Recipe, uri: str) -> str:
    """Make the features table of the manifest's training recordings under ``uri``.

    Args:
        recordings: a manifest; its training normals are taken.
        recipe: its front end and cutting of clips decide the table.
        uri: the folder of features tables; the table gets a folder of its own in it.

    Returns:
        The table's folder. Needs a Ray that is held (:func:`session.session`).

    Raises:
        BadInput: no training recordings, none of them can be read, or the scale is not log.
    """
    if recipe.front_end.scale != "log":
        raise BadInput(
            "front_end.scale linear: features are kept as float16, which it overflows; train "
            "with scale log"
        )
    training = manifest.training(recordings)
    if not training.num_rows:
        raise BadInput("the manifest has no normal recordings of the split train to learn from")
    keys = _digest(training)
    folder = store.join(uri, f"{recipe.features_digest()}-{keys}")
    if store.exists(store.join(folder, "features.json")):
        console.say(f"features: {folder} is there already")
        return folder
    store.make_dir(folder)
    counts = {"clips": 0}
    rejected: list[str] = []
    blocks = plan.blocks(_shuffled(training))
    dataset = plan.Pool.heavy(len(blocks)).stage(
        blocks, MakeFeatures, recipe=recipe.model_dump(), folder=folder
    )
    parts = []
    with console.track("features", training.num_rows, "recordings") as advance:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in block.to_pylist():
                advance(row["recordings"], "")
                counts["clips"] += row["clips"]
                parts += [row["part"]] if row["clips"] else []
                rejected += row["rejected"]
    console.warn_some("not learned from", rejected)
    if not counts["clips"]:
        raise BadInput("none of the training recordings can be read; see the lines above")
    about = {
        "front_end": recipe.front_end.model_dump(),
        "clips_settings": recipe.clips.model_dump(),
        "parts": sorted(parts),
        **counts,
        "rejected": rejected,
    }
    text = json.dumps(about, indent=2) + "\n"
    store.write_atomic(store.join(folder, "features.json"), text.encode())
    return folder


def parts_of(folder: str, recipe: Recipe) -> list[str]:
    """Files of the features table in ``folder``, checked to be made as ``recipe`` says.

    Raises:
        BadInput: no features table there, or one that another front end made; the settings
            that differ are named.
    """
    try:
        about = json.loads(store.read_bytes(store.join(folder, "features.json")))
    except FileNotFoundError:
        raise BadInput(f"{folder}: no features table there (features.json is missing)") from None
    for name, wanted in (("front_end", recipe.front_end), ("clips_settings", recipe.clips)):
        settings = wanted.model_dump()
        found = about[name]
        differing = [
            f"{key} {found.get(key)} (the recipe has {value})"
            for key, value in settings.items()
            if found.get(key) != value
        ]
        if differing:
            raise BadInput(
                f"{folder}: made with another front end: {', '.join(differing)}; "
                "make the features anew, or use the recipe they were made with"
            )
    return [store.join(folder, part) for part in about["parts"]]


class MakeFeatures:
    """Ray Data stage: recordings → one part of the features table, and a row about it."""

    def __init__(self, recipe: dict[str, Any], folder: str) -> None:
        torch.set_num_threads(1)
        self._folder = folder
        self._hearing = Hearing(Recipe.model_validate(recipe))

    def __call__(self, recordings: pa.Table) -> pa.Table:
        """Write the part; return ``part``, ``recordings``, ``clips`` and ``rejected`` (lines)."""
        rows: list[dict[str, Any]] = []
        rejected: list[str] = []
        for recording in recordings.to_pylist():
            for clip in self._hearing(recording):
                if isinstance(clip, Missed):
                    rejected.append(f"{recording['uri']}: {clip.reason}: {clip.detail}")
                    continue
                rows.append(
                    {
                        **recording,
                        "start_s": clip.start_s,
                        "duration_s": clip.duration_s,
                        "frames": clip.mel.shape[1],
                        "mel": clip.mel.astype(np.float16).tobytes(),
                    }
                )
        part = f"part-{_digest(recordings)}.parquet"
        if rows:
            sink = pa.BufferOutputStream()
            # Float16 noise does not compress, and a row group a few clips long lets training
            # read a part piece by piece.
            pq.write_table(
                pa.Table.from_pylist(rows, tables.FEATURES),
                sink,
                compression="none",
                use_dictionary=False,
                row_group_size=64,
            )
            store.write_atomic(store.join(self._folder, part), sink.getvalue().to_pybytes())
        return pa.Table.from_pylist(
            [
                {
                    "part": part,
                    "recordings": recordings.num_rows,
                    "clips": len(rows),
                    "rejected": rejected,
                }
            ],
            pa.schema(
                [
                    ("part", pa.string()),
                    ("recordings", pa.int64()),
                    ("clips", pa.int64()),
                    ("rejected", pa.list_(pa.string())),
                ]
            ),
        )


def _shuffled(recordings: pa.Table) -> pa.Table:
    """The rows in the order of a hash, so that every part is a fair sample of all machines."""
    hashes = [hashlib.sha256(uri.encode()).hexdigest() for uri in recordings["uri"].to_pylist()]
    return recordings.take(pa.array(np.argsort(hashes, kind="stable")))


def _digest(recordings: pa.Table) -> str:
    """Digest of which recordings these are, in any order, and of what training reads of them."""
    columns = ("uri", "fingerprint", "machine_type", "section", "attributes")
    keys = sorted(zip(*(recordings[name].to_pylist() for name in columns), strict=True))
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
