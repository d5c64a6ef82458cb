"""The features tables as training reads them: source, target and held-out clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from ray_asd import console
from ray_asd.archive import manifest, store
from ray_asd.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """The training recordings' clips in one features table, by what they are for."""

    source: ray.data.Dataset
    target: ray.data.Dataset
    held_out: ray.data.Dataset
    counts: dict[str, int]
    source_bytes: float
    """about, of the source clips' mels"""


def split(recordings: pa.Table, recipe: Recipe, tables: Mapping[str, list[str]]) -> dict[str, Data]:
    """Read each features table three times: source, target, and held-out clips.

    Args:
        recordings: the manifest that the tables were made of.
        recipe: says how much is held out.
        tables: each table's parts, under a name for it.
    """
    # Held-out clips that are watched are the first ones, and so a fair sample.
    training = manifest.in_hash_order(manifest.training(recordings))
    kept = manifest.held_out(training, recipe.held_out).tolist()
    domains = training["domain"].to_pylist()
    uris: dict[str, list[str]] = {"source": [], "target": [], "held_out": []}
    for uri, out, domain in zip(training["uri"].to_pylist(), kept, domains, strict=True):
        role = "held_out" if out else "target" if domain == "target" else "source"
        uris[role].append(uri)
    if not uris["target"]:
        console.warn(
            "no target-domain clip to train on: batches hold source clips only, and the "
            "system will be less sure about machines whose surroundings changed"
        )
    if not uris["source"]:
        uris["source"] = uris["target"]
    del uris["held_out"][_MOST_WATCHED:]
    room = ray.cluster_resources().get("object_store_memory", 0) * _SHARE_HELD / len(tables)
    return {
        name: _read(parts, uris, {role: len(u) / len(training) for role, u in uris.items()}, room)
        for name, parts in tables.items()
    }


def _read(
    parts: list[str], uris: dict[str, list[str]], shares: dict[str, float], room: float
) -> Data:
    """One table's clips; ``room`` is how many bytes of the source's may be held in memory."""
    bytes_in_all = sum(store.size(part) for part in parts)
    filesystem, _ = store.resolve(parts[0])
    whole = ray.data.read_parquet(
        [store.resolve(part)[1] for part in parts],
        filesystem=filesystem,
        partitioning=None,
        ray_remote_args={"num_cpus": _READ_CPUS},
    )
    whole.context.target_max_block_size = _BLOCK_BYTES
    roles = {}
    for role, wanted in uris.items():
        clips = whole.map_batches(
            Keep(sorted(wanted)), batch_format="pyarrow", batch_size=None, num_cpus=_READ_CPUS
        )
        # Read once into the object store where they take little of that; else they stream from
        # Parquet in every epoch. Target and held-out clips are few, and every worker takes all.
        held = role != "source" or shares[role] * bytes_in_all < room
        roles[role] = clips.materialize() if held else clips
    return Data(
        **roles,
        counts={role: dataset.count() for role, dataset in roles.items()},
        source_bytes=bytes_in_all * shares["source"],
    )


# Held-out clips that watch for overfitting: enough for losses to three digits, however large the
# archive is.
_MOST_WATCHED = 1000
# Of a core, for a task that reads; fractions let it run beside workers that hold most cores.
_READ_CPUS = 0.25
# A worker holds a block or two of its own: what that is must not grow with the archive.
_BLOCK_BYTES = 16_000_000
# Of the object store, for features that are read once rather than every epoch.
_SHARE_HELD = 0.25


class Keep:
    """Ray Data step: rows of these recordings only."""

    def __init__(self, uris: list[str]) -> None:
        self._uris = pa.array(uris, pa.string())

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The rows whose ``uri`` is wanted."""
        return rows.filter(pc.is_in(rows["uri"], value_set=self._uris))
