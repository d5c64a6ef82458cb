"""A bundle and a new machine's normal recordings → a bundle that knows it too.

Nothing is retrained: the backbones stay as they are, and so do the other sections, to the digit.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_asd import bundle as bundles
from ray_asd import console
from ray_asd.archive import manifest
from ray_asd.bundle import Bundle, Key, Section
from ray_asd.downstream import ReferenceSet
from ray_asd.errors import BadInput
from ray_asd.pipelines import fit, mixes, session

_FEWEST_CLIPS = 10
# Robust standard deviations (1.4826 · median absolute deviation) beyond which a normal recording
# looks like none (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
_SUSPICIOUS = 3.5
_QUANTILES = (0.5, 0.9, 0.99)


def enroll(
    manifest_uri: str, bundle: str, out: str, *, address: str | None = None
) -> dict[str, Any]:
    """Add the manifest's machine types and sections to a bundle, from normal recordings alone.

    Args:
        manifest_uri: a manifest; its normal training recordings are taken.
        bundle: the bundle that is added to; it is left as it is.
        out: the new bundle's folder.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        The new bundle's id, and for each new section how far it can be trusted: ``clips``;
        ``spread``, quantiles of its normal clips' scores by detectors that had not seen them;
        ``own_similarity``, the mean cosine of a clip to the closest other one; ``nearest``, the
        known section that it sounds most like, and its ``similarity``; ``suspects``, recordings
        that lie far from the others; ``warnings``.

    Raises:
        BadInput: no normal recordings, or the bundle knows one of the sections.

    >>> enroll("new.parquet", "bundle", "bundle2")["enrolled"]  # doctest: +SKIP
    """
    loaded = bundles.load(bundle)
    training = manifest.training(manifest.read(manifest_uri))
    if not training.num_rows:
        raise BadInput(f"{manifest_uri}: no normal recordings of the split train to enrol")
    keys = set(
        zip(training["machine_type"].to_pylist(), training["section"].to_pylist(), strict=True)
    )
    for machine_type, section in sorted(keys & loaded.sections.keys()):
        raise BadInput(
            f"{bundle}: knows {machine_type} section {section} already; enrol new ones, or fit "
            "the bundle anew with all recordings"
        )
    started = time.monotonic()
    with session.session(address):
        weights = bundles.weights_of(bundle)
        rows = fit.embedded(training, loaded.recipe, weights)
        # The backbones have heard none of them.
        references = fit.references_of(rows, frozenset(), loaded.recipe)
        references = mixes.added(references, rows, loaded.recipe, weights)
        fitted = fit.fitted(references, loaded.recipe)
    new = {
        key: _with_trust(section, next(iter(references[key].values())), loaded)
        for key, section in fitted.items()
    }
    for (machine_type, section), one in sorted(new.items()):
        for line in one.trust["warnings"]:
            console.warn(f"{machine_type} section {section}: {line}")
    saved = bundles.save(Bundle(loaded.recipe, loaded.backbones, {**loaded.sections, **new}), out)
    return {
        "bundle": out,
        "bundle_id": saved.bundle_id,
        "sections": len(saved.sections),
        "enrolled": {f"{key[0]}/{key[1]}": one.trust for key, one in sorted(new.items())},
        "seconds": round(time.monotonic() - started, 1),
    }


def _with_trust(section: Section, reference: ReferenceSet, loaded: Bundle) -> Section:
    """The section, with what its normal clips say about themselves."""
    points = section.neighbours.embeddings.astype(np.float64)
    own = _closest_other(points)
    nearest, similarity = _nearest_known(points, loaded.sections)
    suspects = _suspects(1 - own, reference)
    scores = next(iter(section.calibration.ensembles.values())).scores
    trust = {
        **section.trust,
        "spread": {str(q): float(np.quantile(scores, q)) for q in _QUANTILES},
        "own_similarity": float(own.mean()),
        "nearest": f"{nearest[0]}/{nearest[1]}",
        "similarity": similarity,
        "suspects": suspects,
    }
    warnings = [trust.pop("warning")] if "warning" in trust else []
    if len(points) < _FEWEST_CLIPS:
        warnings.append(
            f"{len(points)} normal clips are few: record {_FEWEST_CLIPS} or more, over all that "
            "the machine does when it is well"
        )
    if similarity >= trust["own_similarity"]:
        warnings.append(
            f"to these backbones it sounds like {nearest[0]} section {nearest[1]} (cosine "
            f"{similarity:.2f}, among its own clips {trust['own_similarity']:.2f}): what is wrong "
            "with it may go unheard; train with its recordings where that matters"
        )
    if suspects:
        warnings.append(
            f"{len(suspects)} of the normal recordings lie far from the others, the first of "
            f"them {suspects[0]}: listen to them, and enrol without those that are not normal"
        )
    return Section(
        section.detectors,
        section.calibration,
        section.neighbours,
        {**trust, "warnings": warnings},
    )


def _closest_other(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine of each unit vector (n, d) to the closest other one (n,); 1 for a single one."""
    if len(points) == 1:
        return np.ones(1)
    cosines = points @ points.T
    np.fill_diagonal(cosines, -np.inf)
    closest: npt.NDArray[np.float64] = cosines.max(1)
    return closest


def _nearest_known(
    points: npt.NDArray[np.float64], sections: dict[Key, Section]
) -> tuple[Key, float]:
    """The known section that the clips are closest to on average, and that mean cosine."""
    means = {
        key: float((points @ one.neighbours.embeddings.T.astype(np.float64)).max(1).mean())
        for key, one in sections.items()
    }
    nearest = max(sorted(means), key=means.__getitem__)
    return nearest, means[nearest]


def _suspects(distances: npt.NDArray[np.float64], reference: ReferenceSet) -> list[str]:
    """Recordings whose clips lie far from all others, the farthest first."""
    centre = np.median(distances)
    scale = 1.4826 * np.median(np.abs(distances - centre))
    far = distances - centre > _SUSPICIOUS * max(scale, np.finfo(np.float32).eps)
    order = np.argsort(-distances, kind="stable")
    return list(dict.fromkeys(str(reference.uris[i]) for i in order if far[i]))
