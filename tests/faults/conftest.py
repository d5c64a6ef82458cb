"""A bundle with random weights: what faults do to a run has nothing to do with training."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ray_asd import bundle as bundles
from ray_asd import recipe as recipes
from ray_asd.archive import manifest
from ray_asd.bundle import Bundle, Weights
from ray_asd.pipelines.embed import Embed
from ray_asd.pipelines.fit import references_of
from ray_asd.pipelines.fit_section import fit_section
from ray_asd.upstream import Classes, Training, pack_weights
from tests.conftest import TINY


@pytest.fixture(scope="session")
def random_bundle(small_fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle for the small fleet's machines; made in this process, without Ray."""
    place = tmp_path_factory.mktemp("random")
    text = "extends: demo\nupstream: {backbones: {efficientnet: null}}\n"
    recipe = recipes.parse(text, "random", TINY)
    training = manifest.training(manifest.build(str(small_fleet)).table)
    untrained = Training(recipe, "transformer", Classes.of(training), 0, torch.device("cpu"))
    weights = pack_weights(untrained.network.backbone)
    (place / "weights.safetensors").write_bytes(weights)
    embed = Embed(recipe.model_dump(), {"transformer": Weights(str(place / "weights.safetensors"))})
    rows: pa.Table = embed(training)
    sections = {
        key: fit_section(key, references, recipe)
        for key, references in references_of(rows, frozenset(), recipe).items()
    }
    bundles.save(Bundle(recipe, {"transformer": weights}, sections), str(place / "bundle"))
    return str(place / "bundle")
