"""Random weights: what faults do to a run has nothing to do with training."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
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
from ray_asd.pipelines.upstream_run import weights_of
from ray_asd.upstream import Classes, Training, pack_weights
from tests.conftest import TINY
from tests.faults.commands import Command
from tests.faults.outcome import scores_of


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


@pytest.fixture
def archive(small_fleet: Path, tmp_path: Path) -> Path:
    """Test recordings of the small fleet, 24 of them."""
    return _archive(small_fleet, tmp_path / "archive")


def _archive(fleet: Path, root: Path) -> Path:
    for machine_type in ("fan", "valve"):
        shutil.copytree(fleet / machine_type / "test", root / machine_type / "test")
    return root


@pytest.fixture
def run() -> Iterator[Callable[..., Command]]:
    """Starts ``ray-asd``; what still runs when the test is over is killed."""
    started: list[Command] = []

    def start(*arguments: str, **environment: str) -> Command:
        started.append(Command(*arguments, **environment))
        return started[-1]

    yield start
    for command in started:
        if command.alive():
            command.kill()


@pytest.fixture
def score(
    run: Callable[..., Command], archive: Path, random_bundle: str, tmp_path: Path
) -> Callable[..., Command]:
    """Starts ``ray-asd score`` over the archive, in shards of two recordings."""
    out = str(tmp_path / "scores")
    return partial(
        run, "score", str(archive), "--bundle", random_bundle, "--out", out, "--batch", "2"
    )


@pytest.fixture(scope="session")
def undisturbed(
    small_fleet: Path, random_bundle: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    """Scores of the archive's recordings by name, from one run that nothing befalls."""
    place = tmp_path_factory.mktemp("undisturbed")
    archive, out = _archive(small_fleet, place / "archive"), str(place / "scores")
    command = Command("score", str(archive), "--bundle", random_bundle, "--out", out)
    try:
        command.end_well()
    finally:
        if command.alive():
            command.kill()
    return scores_of(out)
