"""The features table as training reads it: source, target and held-out clips."""

from __future__ import annotations

import hashlib
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
    """The training recordings' clips, by what they are for."""

    source: ray.data.Dataset
    target: ray.data.Dataset
    held_out: ray.data.Dataset
    counts: dict[str, int]
    source_bytes: float
    """about, of the source clips' mels"""

    @classmethod
    def split(cls, recordings: pa.Table, recipe: Recipe, parts: list[str]) -> Data:
        """Read the features table three times: source, target, and held-out clips."""
        training = manifest.training(recordings)
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
        # In the order of a hash, so that those who are watched are a fair sample.
        uris["held_out"] = sorted(uris["held_out"], key=_hash)[:_MOST_WATCHED]
        bytes_in_all = sum(store.size(part) for part in parts)
        filesystem, _ = store.resolve(parts[0])
        whole = ray.data.read_parquet(
            [store.resolve(part)[1] for part in parts],
            filesystem=filesystem,
            partitioning=None,
            ray_remote_args={"num_cpus": _READ_CPUS},
        )
        roles = {
            role: _held_in_memory(
                whole.map_batches(
                    Keep(sorted(wanted)),
                    batch_format="pyarrow",
                    batch_size=None,
                    num_cpus=_READ_CPUS,
                ),
                len(wanted) / len(training),
                always=role != "source",
                bytes_in_all=bytes_in_all,
            )
            for role, wanted in uris.items()
        }
        return cls(
            **roles,
            counts={role: dataset.count() for role, dataset in roles.items()},
            source_bytes=bytes_in_all * len(uris["source"]) / len(training),
        )


# Held-out clips that watch for overfitting: enough for losses to three digits, however large the
# archive is.
_MOST_WATCHED = 1000
# Of a core, for a task that reads; fractions let it run beside workers that hold most cores.
_READ_CPUS = 0.25
# Of the object store, for features that are read once rather than every epoch.
_SHARE_HELD = 0.25


def _held_in_memory(
    dataset: ray.data.Dataset, share: float, *, always: bool, bytes_in_all: int
) -> ray.data.Dataset:
    """The dataset, read once into the object store where it takes little of that.

    The others stream from Parquet in every epoch. Target and held-out clips are few, and every
    worker takes all of them.
    """
    room = ray.cluster_resources().get("object_store_memory", 0) * _SHARE_HELD
    return dataset.materialize() if always or share * bytes_in_all < room else dataset


def _hash(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()


class Keep:
    """Ray Data step: rows of these recordings only."""

    def __init__(self, uris: list[str]) -> None:
        self._uris = pa.array(uris, pa.string())

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The rows whose ``uri`` is wanted."""
        return rows.filter(pc.is_in(rows["uri"], value_set=self._uris))
