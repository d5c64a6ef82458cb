"""One section's normal clips → its detectors and calibration. Light: imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ray_asd import ensemble as ensembles
from ray_asd import recipe as recipes
from ray_asd.bundle import Key, Neighbours, Section
from ray_asd.downstream import Detector, ReferenceSet, fit, pseudo_normals, score_clips
from ray_asd.ensemble import Scores
from ray_asd.recipe import Recipe


def fit_section(key: Key, references: dict[str, ReferenceSet], recipe: Recipe) -> Section:
    """Fit one section: the detector of every member of an ensemble, and the calibration of scores.

    The calibration comes from normal clips that neither the encoder nor the detector at hand
    has seen, as far as there are enough; the detectors that are kept are fitted on all clips of
    the chosen reference.
    """
    first = next(iter(references.values()))
    splits = plan(first, recipe)
    detectors: dict[str, Detector] = {}
    raw: dict[str, Scores] = {}
    for member in recipe.used_members():
        backbone, name = member.split("/")
        reference, settings = references[backbone], recipe.downstream.detectors[name]
        detectors[member] = fit_member(key, reference, settings, recipe)
        (raw[member],) = unseen_scores(
            key, reference, splits, settings, recipe, [reference.embeddings]
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


def plan(reference: ReferenceSet, recipe: Recipe) -> ensembles.Plan:
    """Which of a section's normal clips give its reference scores; see :mod:`ensemble`."""
    return ensembles.plan(
        reference.uris,
        reference.domains,
        reference.held_out,
        reference=recipe.downstream.reference,
        folds=recipe.downstream.folds,
        fewest_held_out=recipe.downstream.fewest_held_out,
    )


def unseen_scores(
    key: Key,
    reference: ReferenceSet,
    splits: ensembles.Plan,
    settings: recipes.Detector,
    recipe: Recipe,
    clips: Sequence[npt.NDArray[np.float32]],
) -> list[Scores]:
    """Scores of clips by detectors that have not seen the clip of the same row.

    Args:
        key: machine type and section.
        reference: its normal clips.
        splits: their :func:`plan`.
        settings: the detector's.
        recipe: what a detector is fitted on.
        clips: arrays (n, S, d), a row for each of the reference's clips: their embeddings, or
            what was made of them.

    Returns:
        For each array the scores of the splits' rows, one split after the other.
    """
    found: list[list[Scores]] = [[] for _ in clips]
    for split in splits.splits:
        detector = fit_member(key, reference.select(split.fit), settings, recipe)
        for embeddings, scores in zip(clips, found, strict=True):
            scores.append(score_clips(detector, settings, embeddings[split.score])[0])
    return [np.concatenate(scores) for scores in found]


def fit_member(
    key: Key, reference: ReferenceSet, settings: recipes.Detector, recipe: Recipe
) -> Detector:
    """Fit one detector to the clips that the recipe's reference set names, and their mixes.

    Mixes of embeddings are drawn from the very clips that it is fitted on; those of waveforms
    are made once, of all the section's, and whichever holds another clip is left out.
    """
    down = recipe.downstream
    chosen = reference.choose(down.reference)
    if down.waveform_mixes:
        mixed = chosen.mixed()
    else:
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
