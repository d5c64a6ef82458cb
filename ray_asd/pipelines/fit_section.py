"""One section's normal clips → its detectors and calibration. Light: imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ray_asd import ensemble as ensembles
from ray_asd.bundle import Key, Neighbours, Section
from ray_asd.downstream import Detector, ReferenceSet, fit, pseudo_normals, score_clips
from ray_asd.recipe import Recipe


def fit_section(key: Key, references: dict[str, ReferenceSet], recipe: Recipe) -> Section:
    """Fit one section: every member's detector, and the calibration of scores.

    The calibration comes from normal clips that neither the encoder nor the detector at hand
    has seen, as far as there are enough; the detectors that are kept are fitted on all clips of
    the chosen reference.
    """
    first = next(iter(references.values()))
    splits = ensembles.plan(
        first.uris,
        first.domains,
        first.held_out,
        reference=recipe.downstream.reference,
        folds=recipe.downstream.folds,
        fewest_held_out=recipe.downstream.fewest_held_out,
    )
    detectors: dict[str, Detector] = {}
    raw: dict[str, npt.NDArray[np.float64]] = {}
    for backbone, reference in references.items():
        for name, settings in recipe.downstream.detectors.items():
            member = f"{backbone}/{name}"
            detectors[member] = _fit_member(key, reference, settings, recipe)
            raw[member] = np.concatenate(
                [
                    score_clips(
                        _fit_member(key, reference.select(split.fit), settings, recipe),
                        settings,
                        reference.embeddings[split.score],
                    )[0]
                    for split in splits.splits
                ]
            )
    trust: dict[str, Any] = {
        "clips": len(first),
        "reference_clips": len(next(iter(raw.values()))),
        "folds": len(splits.splits),
    }
    if splits.warning:
        trust["warning"] = splits.warning
    return Section(detectors, ensembles.calibrate(raw, recipe), _neighbours(first), trust)


def of_tree(key: Key, references: dict[str, ReferenceSet], tree: dict[str, Any]) -> Section:
    """:func:`fit_section` with the recipe as it travels to a Ray task; one thread."""
    with threadpool_limits(1):
        return fit_section(key, references, Recipe.model_validate(tree))


def _fit_member(key: Key, reference: ReferenceSet, settings: Any, recipe: Recipe) -> Detector:
    down = recipe.downstream
    chosen = reference.choose(down.reference)
    mixed = pseudo_normals(
        chosen, down.pseudo_normals, seed=recipe.seed, machine_type=key[0], section=key[1]
    )
    points, domains = chosen.extended(mixed).points(settings.per)
    return fit(points, domains, settings, seed=recipe.seed)


def _neighbours(reference: ReferenceSet) -> Neighbours:
    points, _ = reference.points("clip")
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return Neighbours(
        reference.uris.tolist(),
        reference.starts_s.tolist(),
        (points / np.where(lengths > 0, lengths, 1)).astype(np.float32),
    )
