"""Waveform mixes without Ray: what is drawn, what becomes of it, and which detectors hear it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_asd import recipe as recipes
from ray_asd.archive import manifest
from ray_asd.bundle import Weights
from ray_asd.downstream import Mixes, ReferenceSet
from ray_asd.pipelines import fit, fit_section, mixes
from ray_asd.pipelines.embed import Embed
from ray_asd.upstream import Classes, Training, pack_weights
from tests.conftest import TINY

KEY = ("fan", "00")
WAVEFORM = "downstream.pseudo_normal_space=waveform"


@pytest.fixture(scope="module")
def recipe() -> recipes.Recipe:
    text = "extends: demo\nupstream: {backbones: {efficientnet: null}}\n"
    return recipes.parse(text, "random", [*TINY, WAVEFORM])


@pytest.fixture(scope="module")
def weights(
    small_fleet: Path, recipe: recipes.Recipe, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Weights]:
    training = manifest.training(manifest.build(str(small_fleet)).table)
    untrained = Training(recipe, "transformer", Classes.of(training), 0, torch.device("cpu"))
    place = tmp_path_factory.mktemp("random") / "weights.safetensors"
    place.write_bytes(pack_weights(untrained.network.backbone))
    return {"transformer": Weights(str(place))}


@pytest.fixture(scope="module")
def rows(small_fleet: Path, recipe: recipes.Recipe, weights: dict[str, Weights]) -> pa.Table:
    training = manifest.training(manifest.build(str(small_fleet)).table)
    return Embed(recipe.model_dump(), weights)(training)


def test_mixes_are_drawn_heard_and_attached(
    rows: pa.Table, recipe: recipes.Recipe, weights: dict[str, Weights]
) -> None:
    references = fit.references_of(rows, frozenset(), recipe)
    drawn = mixes.drawn(references, rows, recipe)
    assert drawn.num_rows == 2 * 5
    backwards = rows.take(pa.array(range(rows.num_rows)[::-1]))
    shuffled = fit.references_of(backwards, frozenset(), recipe)
    again = mixes.drawn(shuffled, rows, recipe)
    kept = ("machine_type", "section", "number", "source", "target", "share")
    assert again.select(kept) == drawn.select(kept)

    # A mix that is all source is the source clip, and none of both is either.
    place = drawn.schema.get_field_index("share")
    drawn = drawn.set_column(place, "share", pa.array([1.0, 0.0, 0.5, 0.5, 0.5] * 2))
    made = mixes.EmbedMixes(recipe.model_dump(), weights)(drawn)
    attached = mixes.attached(references, made, recipe)
    assert attached.keys() == references.keys()
    reference = attached[KEY]["transformer"]
    assert reference.mixes is not None
    assert reference.mixes.embeddings.shape == (5, 3, recipe.upstream.embedding)
    source, target = reference.mixes.parents.T
    assert set(reference.domains[source]) == {"source"}
    assert set(reference.domains[target]) == {"target"}
    from_source, from_target = (
        np.abs(reference.mixes.embeddings - reference.embeddings[parents]).max(axis=(1, 2))
        for parents in (source, target)
    )
    assert max(from_source[0], from_target[1]) < 1e-4
    assert min(from_source[1:].min(), from_target[0], from_target[2:].min()) > 1e-3


def test_a_recording_that_is_gone_costs_its_mixes_only(
    rows: pa.Table, recipe: recipes.Recipe, weights: dict[str, Weights], tmp_path: Path
) -> None:
    references = fit.references_of(rows, frozenset(), recipe)
    drawn = mixes.drawn(references, rows, recipe).to_pylist()
    drawn[3]["target"]["uri"] = str(tmp_path / "gone.wav")
    made = mixes.EmbedMixes(recipe.model_dump(), weights)(pa.Table.from_pylist(drawn, mixes.DRAWN))
    assert [row["reason"] for row in made.to_pylist()].count(None) == 9
    assert made["reason"][3].as_py() == "vanished"


def marked(count: int, targets: int) -> ReferenceSet:
    """Clips of a dimension each, and mixes of every source clip with every target clip."""
    embeddings = np.repeat(np.eye(count, dtype=np.float32)[:, None], 2, axis=1)
    pairs = [(s, t) for s in range(targets, count) for t in range(targets)]
    return ReferenceSet(
        embeddings,
        np.where(np.arange(count) < targets, "target", "source"),
        np.array([f"/fan/{n}.wav" for n in range(count)]),
        np.zeros(count),
        np.zeros(count, dtype=np.bool_),
        Mixes(np.stack([(embeddings[s] + embeddings[t]) / 2 for s, t in pairs]), np.array(pairs)),
    )


@pytest.mark.parametrize("held_out", [0, 8])
def test_no_detector_hears_a_clip_that_it_scores_even_mixed(
    recipe: recipes.Recipe, monkeypatch: pytest.MonkeyPatch, held_out: int
) -> None:
    reference = marked(30, 6)
    reference = replace(reference, held_out=np.arange(30) % 6 < held_out / 5)
    settings = {"folds": 3, "fewest_held_out": 8, "pseudo_normals": 144}
    changed = recipe.model_copy(
        update={"downstream": recipe.downstream.model_copy(update=settings)}
    )
    heard = []
    real = fit_section.fit

    def listening(points, domains, *rest, **named):  # type: ignore[no-untyped-def]
        heard.append((points, domains))
        return real(points, domains, *rest, **named)

    monkeypatch.setattr(fit_section, "fit", listening)
    splits = fit_section.plan(reference, changed)
    assert len(splits.splits) == (1 if held_out else 3)
    knn = changed.downstream.detectors["knn"]
    fit_section.unseen_scores(KEY, reference, splits, knn, changed, [reference.embeddings])
    assert len(heard) == len(splits.splits)
    for (points, domains), split in zip(heard, splits.splits, strict=True):
        assert not points[:, split.score].any()
        own = reference.domains[split.fit]
        assert (domains == "mixed").sum() == (own == "source").sum() * (own == "target").sum() > 0

    # The detector that is kept hears them all.
    heard.clear()
    fit_section.fit_member(KEY, reference, knn, changed)
    assert len(heard[0][0]) == 30 + 144
