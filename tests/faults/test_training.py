"""Training outlives what is killed under it, and carries on with the schedule where it stopped."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ray_asd
from tests.conftest import TINY
from tests.faults.commands import Command

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

RECIPE = """
extends: demo
name: one_backbone
upstream:
  backbones: {efficientnet: null}
  checkpoint_epochs: 2
"""
EPOCHS = 10


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made by the first training, and used again by the others."""
    return str(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def manifest(small_fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("manifest") / "manifest.parquet")
    ray_asd.index(str(small_fleet), path)
    return path


def lines_of(run: Path) -> list[dict]:
    path = run / "transformer" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_the_whole_schedule(run: Path, epochs: int) -> None:
    """Every epoch once, in order, each with its own steps and the one-cycle rate of its place."""
    lines = lines_of(run)
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
    steps = lines[0]["step"]
    assert [line["step"] for line in lines] == [steps * (i + 1) for i in range(epochs)]
    from ray_asd import recipe as recipes
    from ray_asd.upstream.optimizer import build_optimizer, build_schedule

    settings = recipes.load(run / "recipe.yaml").upstream
    import torch

    optimizer = build_optimizer(torch.nn.Linear(1, 1), settings)
    schedule = build_schedule(optimizer, settings, steps * epochs)
    assert schedule is not None
    rates = []
    for _ in range(steps * epochs):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < steps * epochs:
            schedule.step()
    expected = rates[steps - 1 :: steps]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected)
    assert all(math.isfinite(line["loss"]) for line in lines)


@pytest.fixture
def train(
    manifest: str, features: str, recipe: str, tmp_path: Path
) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*settings: str) -> Command:
        arguments = ["train", manifest, "--out", str(tmp_path / "run"), "--recipe", recipe]
        for setting in [
            *(s for s in TINY if "efficientnet" not in s),
            f"upstream.epochs={EPOCHS}",
            *settings,
        ]:
            arguments += ["--set", setting]
        started.append(Command(*arguments, "--workers", "2", "--features", features))
        return started[-1]

    yield start
    for command in started:
        if command.alive():
            command.kill()


def test_a_killed_worker_costs_the_epochs_since_the_last_checkpoint(
    train: Callable[..., Command], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = train()
    command.wait_for(lambda: len(lines_of(run)) >= 3)
    (first, *_) = command.workers("RayTrainWorker")
    os.kill(first, signal.SIGKILL)
    before = len(lines_of(run))
    assert before < EPOCHS
    code, said = command.end()
    assert code == 0, said
    check_the_whole_schedule(run, EPOCHS)
    assert (run / "transformer" / "weights.safetensors").exists()


def test_a_killed_driver_is_carried_on_from_the_last_checkpoint(
    train: Callable[..., Command], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = train("upstream.checkpoint_epochs=1")
    command.wait_for(lambda: len(lines_of(run)) >= 4)
    command.kill()
    before = lines_of(run)
    assert 4 <= len(before) < EPOCHS
    again = train("upstream.checkpoint_epochs=1")
    code, said = again.end()
    assert code == 0, said
    check_the_whole_schedule(run, EPOCHS)
    # What the first driver had seen of is not trained again: the lines are the very same, but
    # for one checkpoint interval at most.
    assert lines_of(run)[: len(before) - 1] == before[:-1]
    assert not (run / "run.json").read_text().count("NaN")
