"""Manifest → mel tensors: one table per front end, kept as Parquet for training.

A features table is a folder of parts and, written last, ``features.json``: what it was made
with. A table whose ``features.json`` fits is used again.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_asd import console, tables
from ray_asd.archive import manifest, store
from ray_asd.errors import BadInput
from ray_asd.frontend import Hearing, LogMel, Missed
from ray_asd.pipelines import plan
from ray_asd.recipe import FrontEnd, Recipe


def build(
    recordings: pa.Table, recipe: Recipe, front_ends: Sequence[FrontEnd], uri: str
) -> list[str]:
    """Make the features tables of the manifest's training recordings under ``uri``.

    Tables that are missing are made in one pass over the recordings.

    Args:
        recordings: a manifest; its training normals are taken.
        recipe: its cutting of clips decides the tables too.
        front_ends: of each of these a table is made.
        uri: the folder of features tables; each table gets a folder of its own in it.

    Returns:
        The tables' folders. Needs a Ray that is held (:func:`session.session`).

    Raises:
        BadInput: no training recordings, none of them can be read, the scale is not log, or mel
            bands are empty.
    """
    for front_end in front_ends:
        _check(front_end)
    training = manifest.training(recordings)
    if not training.num_rows:
        raise BadInput("the manifest has no normal recordings of the split train to learn from")
    keys = _digest(training)
    folders = {f: store.join(uri, f"{recipe.features_digest(f)}-{keys}") for f in front_ends}
    missing = {}
    for front_end, folder in folders.items():
        if store.exists(store.join(folder, "features.json")):
            console.say(f"features: {folder} is there already")
        else:
            missing[front_end] = folder
    if missing:
        _make(training, recipe, missing)
    return list(folders.values())


def _check(front_end: FrontEnd) -> None:
    if front_end.scale != "log":
        raise BadInput(
            "front_end.scale linear: features are kept as float16, which it overflows; train "
            "with scale log"
        )
    with warnings.catch_warnings():
        # torchaudio's own, of the same.
        warnings.simplefilter("ignore")
        empty = LogMel(front_end).empty_bands
    if empty:
        raise BadInput(
            f"front_end.mels {front_end.mels}: {empty} of them are narrower than the bins of "
            f"n_fft {front_end.n_fft} and would be empty; take fewer mels, a larger n_fft, or "
            "mels: bins"
        )


def _make(training: pa.Table, recipe: Recipe, folders: Mapping[FrontEnd, str]) -> None:
    for folder in folders.values():
        store.make_dir(folder)
    counts = {"clips": 0}
    rejected: list[str] = []
    # So every part is a fair sample of all machines.
    blocks = plan.blocks(manifest.in_hash_order(training))
    dataset = plan.Pool.heavy(len(blocks)).stage(
        blocks,
        MakeFeatures,
        recipe=recipe.model_dump(),
        folders=[(front_end.model_dump(), folder) for front_end, folder in folders.items()],
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
    for front_end, folder in folders.items():
        about = {
            "front_end": front_end.model_dump(),
            "clips_settings": recipe.clips.model_dump(),
            "parts": sorted(parts),
            **counts,
            "rejected": rejected,
        }
        text = json.dumps(about, indent=2) + "\n"
        store.write_atomic(store.join(folder, "features.json"), text.encode())


def parts_of(folder: str, recipe: Recipe, front_end: FrontEnd) -> list[str]:
    """Files of the features table in ``folder``, checked to be made by ``front_end``.

    Raises:
        BadInput: no features table there, or one that another front end made; the settings
            that differ are named.
    """
    try:
        about = json.loads(store.read_bytes(store.join(folder, "features.json")))
    except FileNotFoundError:
        raise BadInput(f"{folder}: no features table there (features.json is missing)") from None
    for name, wanted in (("front_end", front_end), ("clips_settings", recipe.clips)):
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
    """Ray Data stage: recordings → one part of each features table, and a row about it."""

    def __init__(self, recipe: dict[str, Any], folders: list[tuple[dict[str, Any], str]]) -> None:
        """``folders`` are those of the tables, with each one's front end."""
        torch.set_num_threads(1)
        self._folders = {FrontEnd.model_validate(tree): folder for tree, folder in folders}
        self._hearing = Hearing(Recipe.model_validate(recipe), self._folders)

    def __call__(self, recordings: pa.Table) -> pa.Table:
        """Write the parts; return ``part``, ``recordings``, ``clips`` and ``rejected`` (lines)."""
        rows: dict[FrontEnd, list[dict[str, Any]]] = {f: [] for f in self._folders}
        clips = 0
        rejected: list[str] = []
        for recording in recordings.to_pylist():
            for clip in self._hearing(recording):
                if isinstance(clip, Missed):
                    rejected.append(f"{recording['uri']}: {clip.reason}: {clip.detail}")
                    continue
                clips += 1
                for front_end, mel in clip.mels.items():
                    rows[front_end].append(
                        {
                            **recording,
                            "start_s": clip.start_s,
                            "duration_s": clip.duration_s,
                            "frames": mel.shape[1],
                            "mel": mel.astype(np.float16).tobytes(),
                        }
                    )
        part = f"part-{_digest(recordings)}.parquet"
        if clips:
            for front_end, folder in self._folders.items():
                _write(rows.pop(front_end), store.join(folder, part))
        return pa.Table.from_pylist(
            [
                {
                    "part": part,
                    "recordings": recordings.num_rows,
                    "clips": clips,
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


def _write(rows: list[dict[str, Any]], uri: str) -> None:
    sink = pa.BufferOutputStream()
    # Float16 noise does not compress, and a row group a few clips long lets training read a part
    # piece by piece.
    pq.write_table(
        pa.Table.from_pylist(rows, tables.FEATURES),
        sink,
        compression="none",
        use_dictionary=False,
        row_group_size=64,
    )
    store.write_atomic(uri, sink.getvalue().to_pybytes())


def _digest(recordings: pa.Table) -> str:
    """Digest of which recordings these are, in any order, and of what training reads of them."""
    columns = ("uri", "fingerprint", "machine_type", "section", "attributes")
    keys = sorted(zip(*(recordings[name].to_pylist() for name in columns), strict=True))
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
