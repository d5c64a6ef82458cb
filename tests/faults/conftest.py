"""Random weights: what faults do to a run has nothing to do with training."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ray_asd import bundle as bundles
from ray_asd import recipe as recipes
from ray_asd.archive import manifest
from ray_asd.bundle import Bundle
from ray_asd.pipelines.embed import Embed
from ray_asd.pipelines.fit import recipe_of, references_of
from ray_asd.pipelines.fit_section import fit_section
from ray_asd.pipelines.train import weights_of
from ray_asd.upstream import Classes, Training, pack_weights
from tests.conftest import TINY


@pytest.fixture(scope="session")
def random_run(small_fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An upstream run for the small fleet's machines, as far as `fit` and `tune` read it."""
    place = tmp_path_factory.mktemp("random") / "upstream"
    text = "extends: demo\nupstream: {backbones: {efficientnet: null}}\n"
    recipe = recipes.parse(text, "random", TINY)
    training = manifest.training(manifest.build(str(small_fleet)).table)
    untrained = Training(recipe, "transformer", Classes.of(training), 0, torch.device("cpu"))
    (place / "transformer").mkdir(parents=True)
    (place / "recipe.yaml").write_text(recipe.to_yaml())
    (place / "heard.json").write_text("[]")
    weights = pack_weights(untrained.network.backbone)
    (place / "transformer" / "weights.safetensors").write_bytes(weights)
    return str(place)


@pytest.fixture(scope="session")
def random_bundle(
    small_fleet: Path, random_run: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A bundle for the small fleet's machines; made in this process, without Ray."""
    out = str(tmp_path_factory.mktemp("random") / "bundle")
    recipe = recipe_of(random_run, None, [])
    weights = weights_of(random_run, recipe.trained_backbones())
    training = manifest.training(manifest.build(str(small_fleet)).table)
    rows: pa.Table = Embed(recipe.model_dump(), weights)(training)
    sections = {
        key: fit_section(key, references, recipe)
        for key, references in references_of(rows, frozenset(), recipe).items()
    }
    read = {name: one.read() for name, one in weights.items()}
    bundles.save(Bundle(recipe, read, sections), out)
    return out
