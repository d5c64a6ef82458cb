"""Pseudo-normal clips in waveform space: two clips' sounds mixed, heard and embedded like one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ray_asd import console
from ray_asd.bundle import Key, Weights
from ray_asd.downstream import Mixes, ReferenceSet, draw
from ray_asd.pipelines import columns
from ray_asd.pipelines.embed import Embed, over
from ray_asd.recipe import Recipe

References = dict[Key, dict[str, ReferenceSet]]
"""By section and backbone, the normal clips."""

_CLIP = pa.struct(
    [
        ("uri", pa.string()),
        ("fingerprint", pa.string()),
        ("start_s", pa.float64()),
        ("duration_s", pa.float64()),
    ]
)
_KEYS = [("machine_type", pa.string()), ("section", pa.string()), ("number", pa.int64())]
_PARENTS = [
    ("source", _CLIP),
    ("target", _CLIP),
    ("source_row", pa.int64()),
    ("target_row", pa.int64()),
]

DRAWN = pa.schema([*_KEYS, *_PARENTS, ("share", pa.float64())])
"""One row is one mix to be made: the source clip's share, and both clips with their places in the
section's reference set."""


class EmbedMixes(Embed):
    """Ray Data stage: mixes to be made (:data:`DRAWN`) → their embeddings, or rejections."""

    def __call__(self, mixes: pa.Table) -> pa.Table:
        """One row a mix, in their order."""
        rows = [self._embedder.mixed(mix) for mix in mixes.to_pylist()]
        return pa.Table.from_pylist(rows, _embedded_schema(self._recipe))


def added(
    references: References, rows: pa.Table, recipe: Recipe, weights: dict[str, Weights]
) -> References:
    """The references with the waveform mixes that the recipe asks for, if any.

    Args:
        references: of :func:`fit.references_of`.
        rows: the embedded clips that they were made of.
        recipe: says how many mixes, of which clips, and how they are heard.
        weights: of the trained backbones, by name.
    """
    if not recipe.downstream.waveform_mixes:
        return references
    return attached(references, embedded(drawn(references, rows, recipe), recipe, weights), recipe)


def drawn(references: References, rows: pa.Table, recipe: Recipe) -> pa.Table:
    """The mixes (:data:`DRAWN`) of every section, the same pairs and shares as of embeddings."""
    clips = rows.select(_CLIP.names).to_pylist()
    known = {(clip["uri"], clip["start_s"]): clip for clip in clips}
    found = []
    for (machine_type, section), by_backbone in sorted(references.items()):
        reference = next(iter(by_backbone.values()))
        chosen = reference.rows(recipe.downstream.reference)
        draws = draw(
            reference.select(chosen),
            recipe.downstream.waveform_mixes,
            seed=recipe.seed,
            machine_type=machine_type,
            section=section,
        )
        pairs = chosen[draws.parents].tolist()
        for number, (share, parents) in enumerate(zip(draws.shares.tolist(), pairs, strict=True)):
            pair = [known[reference.uris[row], reference.starts_s[row]] for row in parents]
            values = (machine_type, section, number, *pair, *parents, share)
            found.append(dict(zip(DRAWN.names, values, strict=True)))
    return pa.Table.from_pylist(found, DRAWN)


def embedded(mixes: pa.Table, recipe: Recipe, weights: dict[str, Weights]) -> pa.Table:
    """Embeddings of :func:`drawn` mixes; one that cannot be made is left out with a warning."""
    if not mixes.num_rows:
        return _embedded_schema(recipe).empty_table()
    tables = []
    with console.track("mix", mixes.num_rows, "pseudo-normal clips") as advance:
        for block in over(mixes, recipe, weights, EmbedMixes):
            tables.append(block)
            advance(block.num_rows, "")
    rows = pa.concat_tables(tables).sort_by([(name, "ascending") for name, _ in _KEYS])
    lines = [
        f"{row['source']['uri']} and {row['target']['uri']}: {row['reason']}: {row['detail']}"
        for row in rows.filter(rows["reason"].is_valid()).to_pylist()
    ]
    console.warn_some("not mixed", lines)
    return rows.filter(rows["reason"].is_null())


def attached(references: References, rows: pa.Table, recipe: Recipe) -> References:
    """The references with their sections' mixes, of :func:`embedded`."""
    keys = list(zip(rows["machine_type"].to_pylist(), rows["section"].to_pylist(), strict=True))
    found: References = {}
    for key, by_backbone in references.items():
        own = rows.filter(pa.array([k == key for k in keys], pa.bool_()))
        parents = np.stack([own[name].to_numpy() for name in ("source_row", "target_row")], axis=1)
        found[key] = {
            name: replace(reference, mixes=Mixes(columns.matrix(own, name, recipe), parents))
            for name, reference in by_backbone.items()
        }
    return found


def _embedded_schema(recipe: Recipe) -> pa.Schema:
    of_clips = columns.schema(recipe)
    names = [f"embedding/{name}" for name in recipe.upstream.backbones]
    fields = [of_clips.field(name) for name in (*names, "reason", "detail")]
    return pa.schema([*_KEYS, *_PARENTS, *fields])
