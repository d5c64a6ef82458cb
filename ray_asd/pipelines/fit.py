"""Trained backbones and normal recordings → a bundle: detectors, calibration, thresholds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ray_asd import bundle as bundles
from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.archive import manifest, store
from ray_asd.bundle import Bundle, Key, Section, Weights
from ray_asd.downstream import ReferenceSet
from ray_asd.errors import BadInput
from ray_asd.pipelines import columns, embed, fit_section, mixes, reach, session
from ray_asd.pipelines.upstream_run import heard_by, weights_of
from ray_asd.recipe import Recipe


def fit(
    manifest_uri: str,
    upstream: str,
    out: str,
    *,
    recipe: str | None = None,
    settings: list[str] | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Fit every (machine type, section)'s detectors on its normal training recordings.

    Args:
        manifest_uri: a manifest that :func:`ray_asd.index` wrote.
        upstream: the run that :func:`ray_asd.train` left.
        out: the bundle's folder.
        recipe: where detectors and ensembles are taken from; the upstream run's own if None.
        settings: ``key=value`` overrides of the recipe.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        The bundle's id, its sections with how far each can be trusted, and seconds.

    Raises:
        BadInput: a manifest, run or recipe that cannot be used together.

    >>> fit("manifest.parquet", "upstream", "bundle")["bundle_id"]  # doctest: +SKIP
    """
    chosen = recipe_of(upstream, recipe, settings or [])
    weights = weights_of(store.absolute(upstream), chosen.trained_backbones())
    training = manifest.training(manifest.read(manifest_uri))
    if not training.num_rows:
        raise BadInput(f"{manifest_uri}: no normal recordings of the split train to fit on")
    started = time.monotonic()
    with session.session(address):
        rows = embedded(training, chosen, weights)
        references = references_of(rows, heard_by(upstream), chosen)
        references = mixes.added(references, rows, chosen, weights)
        sections = fitted(references, chosen)
    bundle = bundles.save(
        Bundle(chosen, {name: one.read() for name, one in weights.items()}, sections), out
    )
    return {
        "bundle": out,
        "bundle_id": bundle.bundle_id,
        "clips": rows.num_rows,
        "sections": {
            f"{machine_type}/{section}": one.trust
            for (machine_type, section), one in sorted(sections.items())
        },
        "seconds": round(time.monotonic() - started, 1),
    }


def recipe_of(upstream: str, name: str | None, settings: list[str]) -> Recipe:
    """The recipe to fit with, whose front end and backbones must be the upstream run's.

    Raises:
        BadInput: they are not; the differing settings are named.
    """
    own = store.join(upstream, "recipe.yaml")
    if not store.exists(own):
        raise BadInput(f"{upstream}: no recipe.yaml there; name a folder `ray-asd train` wrote")
    trained = recipes.parse(store.read_bytes(own).decode(), own)
    chosen = (
        recipes.parse(store.read_bytes(own).decode(), own, settings)
        if name is None
        else recipes.load(name, settings)
    )
    differing = [
        key
        for key in ("front_end", "clips", "held_out")
        if getattr(trained, key) != getattr(chosen, key)
    ]
    if trained.upstream.embedding != chosen.upstream.embedding:
        differing.append("upstream.embedding")
    for backbone in chosen.trained_backbones():
        shape = chosen.upstream.backbones[backbone]
        if trained.upstream.backbones.get(backbone) != shape:
            differing.append(f"upstream.backbones.{backbone}")
    if differing:
        raise BadInput(
            f"{upstream}: trained with other settings of {', '.join(differing)}; "
            "fit with the run's own recipe, or train with this one"
        )
    return chosen


def embedded(recordings: pa.Table, recipe: Recipe, weights: dict[str, Weights]) -> pa.Table:
    """Embeddings of the recordings' clips, by uri and start; columns of :func:`columns.schema`.

    Raises:
        BadInput: none of them can be read, or not all machines reach them or the weights.
    """
    reach.everywhere(*(one.uri for one in weights.values()), recordings["uri"][0].as_py())
    tables = []
    with console.track("embed", recordings.num_rows, "recordings") as advance:
        for block in embed.over(recordings, recipe, weights):
            tables.append(block)
            advance(len(set(block["uri"].to_pylist())), "")
    rows = pa.concat_tables(tables).sort_by([("uri", "ascending"), ("start_s", "ascending")])
    rejected = rows.filter(rows["reason"].is_valid()).select(["uri", "reason", "detail"])
    lines = [f"{row['uri']}: {row['reason']}: {row['detail']}" for row in rejected.to_pylist()]
    console.warn_some("left out", lines)
    accepted = rows.filter(rows["reason"].is_null())
    if not accepted.num_rows:
        raise BadInput("none of the recordings can be read; see the lines above")
    return accepted


def references_of(
    rows: pa.Table, heard: frozenset[str], recipe: Recipe
) -> dict[Key, dict[str, ReferenceSet]]:
    """Per section and backbone, the normal clips' embeddings.

    Args:
        rows: of :func:`embedded`.
        heard: identities of the recordings that the encoder trained on.
        recipe: the backbones' settings.
    """
    keys = zip(rows["machine_type"].to_pylist(), rows["section"].to_pylist(), strict=True)
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    references: dict[Key, dict[str, ReferenceSet]] = {}
    for key, numbers in sorted(places.items()):
        own = rows.take(pa.array(numbers))
        uris = np.array(own["uri"].to_pylist())
        held_out = np.array([identity not in heard for identity in manifest.identities(own)])
        references[key] = {
            name: ReferenceSet(
                embeddings=columns.matrix(own, name, recipe),
                domains=np.array(own["domain"].to_pylist()),
                uris=uris,
                starts_s=np.array(own["start_s"].to_pylist(), np.float64),
                held_out=held_out,
            )
            for name in recipe.upstream.backbones
        }
    return references


def fitted(references: dict[Key, dict[str, ReferenceSet]], recipe: Recipe) -> dict[Key, Section]:
    """Fit all sections, each in a Ray task of its own."""
    tree = recipe.model_dump()
    fit_task = ray.remote(num_cpus=1, max_retries=2)(fit_section.of_tree)
    pending = {fit_task.remote(key, reference, tree): key for key, reference in references.items()}
    sections: dict[Key, Section] = {}
    with console.track("fit", len(pending), "sections") as advance:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            key = pending.pop(done)
            sections[key] = ray.get(done)
            advance(1, "")
    trusts = {key: one.trust.get("warning") for key, one in sorted(sections.items())}
    console.warn_some(
        "calibration",
        [f"{key[0]} section {key[1]}: {line}" for key, line in trusts.items() if line],
    )
    return sections
