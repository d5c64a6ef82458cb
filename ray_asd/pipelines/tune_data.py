"""What a sweep works on: every upstream run's embeddings, made once and kept beside the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_asd import console
from ray_asd.archive import manifest, store
from ray_asd.bundle import Key, Weights
from ray_asd.errors import BadInput
from ray_asd.pipelines import columns, fit, mixes, tune_trial
from ray_asd.pipelines.mixes import References
from ray_asd.pipelines.tune_space import Space
from ray_asd.pipelines.tune_trial import Clips
from ray_asd.recipe import Recipe


@dataclass(frozen=True)
class Recordings:
    """The manifest's normal recordings to fit on, and its labelled test recordings."""

    training: pa.Table
    tests: pa.Table

    @classmethod
    def read(cls, manifest_uri: str) -> Recordings:
        """Of a manifest.

        Raises:
            BadInput: not a manifest, or one without normal recordings of the split train.
        """
        table = manifest.read(manifest_uri)
        training = manifest.training(table)
        if not training.num_rows:
            raise BadInput(f"{manifest_uri}: no normal recordings of the split train to fit on")
        labelled = pc.and_(
            pc.equal(table["split"], "test"), pc.not_equal(table["label"], "unknown")
        )
        return cls(training, table.filter(labelled))

    def parted(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows of the normal recordings, and those of the test recordings."""
        tests = pc.is_in(rows["uri"], value_set=self.tests["uri"].combine_chunks())
        return rows.filter(pc.invert(tests)), rows.filter(tests)


def embedded(
    recordings: Recordings, recipe: Recipe, weights: dict[str, Weights], folder: str
) -> tuple[pa.Table, str]:
    """Embeddings of one upstream run, and the digest of all that decides them.

    They are kept in ``folder`` under the digest, and taken from there the next time.
    """
    table = pa.concat_tables([recordings.training, recordings.tests])
    digest = hashlib.sha256(recipe.hearing_digest().encode())
    digest.update(f"{recipe.downstream.precision} {recipe.downstream.engine}".encode())
    for name, one in weights.items():
        digest.update(name.encode() + hashlib.sha256(one.read()).digest())
    for name, settings in recipe.upstream.backbones.items():
        if not settings.trained:
            digest.update(f"{name} {settings.digest()}".encode())
    digest.update(repr(table.select(["uri", "fingerprint"]).to_pydict()).encode())
    rows = _kept(folder, digest.hexdigest(), lambda: fit.embedded(table, recipe, weights))
    return rows, digest.hexdigest()


def with_mixes(
    references: References,
    rows: pa.Table,
    mixing: Recipe,
    weights: dict[str, Weights],
    folder: str,
    digest: str,
) -> References:
    """The references with the waveform mixes that the sweep asks for, if any.

    Args:
        references: normal clips of :func:`embedded`.
        rows: what they were made of.
        mixing: of :meth:`Space.mixing`.
        weights: of the trained backbones, by name.
        folder: where the mixes are kept, as embeddings are.
        digest: of all that decides the embeddings.
    """
    if not mixing.downstream.waveform_mixes:
        return references
    drawn = mixes.drawn(references, rows, mixing)
    own = hashlib.sha256(f"{digest} {drawn.to_pylist()!r}".encode()).hexdigest()
    made = _kept(folder, own, lambda: mixes.embedded(drawn, mixing, weights))
    return mixes.attached(references, made, mixing)


def clips(
    tests: pa.Table, references: References, recipe: Recipe, space: Space
) -> dict[str, dict[Key, Clips]]:
    """By backbone, the clips of every section that there are normal clips of.

    Args:
        tests: embeddings of the labelled test recordings.
        references: the normal clips.
        recipe: the upstream run's.
        space: says how pseudo-anomalies are made.
    """
    keys = list(zip(tests["machine_type"].to_pylist(), tests["section"].to_pylist(), strict=True))
    for key in sorted(set(keys) - references.keys()):
        console.warn(f"{key[0]} section {key[1]}: no normal training clips; it is left out")
    found: dict[str, dict[Key, Clips]] = {name: {} for name in recipe.upstream.backbones}
    for key, by_backbone in references.items():
        own = tests.filter(pa.array([k == key for k in keys], pa.bool_()))
        for name, reference in by_backbone.items():
            found[name][key] = Clips(
                reference,
                tune_trial.pseudo_anomalies(
                    {k: r[name] for k, r in references.items()},
                    key,
                    space.pseudo_anomaly_share,
                    recipe.seed,
                    space.fewest_normals,
                ),
                columns.matrix(own, name, recipe),
                _text(own, "domain"),
                _text(own, "label"),
            )
    return found


def _kept(folder: str, digest: str, make: Callable[[], pa.Table]) -> pa.Table:
    place = store.join(folder, f"{digest[:16]}.parquet")
    if store.exists(place):
        console.say(f"tune: embeddings of an earlier sweep in {place}")
        filesystem, path = store.resolve(place)
        return pq.read_table(path, filesystem=filesystem, partitioning=None)
    rows = make()
    store.make_dir(folder)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    store.write_atomic(place, sink.getvalue().to_pybytes())
    return rows


def _text(rows: pa.Table, column: str) -> np.ndarray[Any, Any]:
    return np.array(rows[column].to_pylist(), dtype=np.str_)
