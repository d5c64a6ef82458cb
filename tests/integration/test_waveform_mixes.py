"""Pseudo-normals mixed as waveforms: fitted on, kept by a sweep, and none where they cannot be."""

from pathlib import Path

import numpy as np
import pytest

import ray_asd
from ray_asd import bundle
from ray_asd.archive import manifest
from ray_asd.downstream import ReferenceSet
from ray_asd.pipelines import fit, tune_data
from ray_asd.pipelines.upstream_run import weights_of
from tests.conftest import System

pytestmark = pytest.mark.integration

WAVEFORM = "downstream.pseudo_normal_space=waveform"


def points_of(uri: str) -> np.ndarray:
    fitted = bundle.load(uri).sections["fan", "00"].detectors["transformer/knn"]
    return fitted.arrays()["points"]


def test_a_bundle_is_fitted_on_mixed_waveforms(system: System, tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    ray_asd.fit(system.manifest, system.upstream, out, settings=[WAVEFORM])
    assert bundle.load(out).recipe.downstream.pseudo_normal_space == "waveform"
    before, after = points_of(system.bundle), points_of(out)
    assert before.shape == after.shape == (15 + 5, 128)
    # The clips are the same; the mixes lie elsewhere.
    rows = [{row.tobytes() for row in points} for points in (before, after)]
    assert len(rows[0] & rows[1]) == 15


def test_a_sweep_mixes_waveforms_once(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fit.recipe_of(system.upstream, None, [WAVEFORM])
    weights = weights_of(system.upstream, own.trained_backbones())
    training = manifest.training(manifest.read(system.manifest))
    rows = fit.embedded(training, own, weights)
    references = fit.references_of(rows, frozenset(), own)

    def mixed() -> list[ReferenceSet]:
        given = (rows, own, weights, str(tmp_path), "digest")
        found = tune_data.with_mixes(references, *given)
        return [one["transformer"].mixed() for one in found.values()]

    first = mixed()
    monkeypatch.setattr("ray_asd.pipelines.mixes.embedded", None)
    for once, again in zip(first, mixed(), strict=True):
        assert len(once) == 5
        np.testing.assert_array_equal(once.embeddings, again.embeddings)
