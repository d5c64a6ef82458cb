"""A training's whole state, to go on exactly where it stopped: tensors and JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_asd.errors import BadInput
from ray_asd.upstream.training import Training, training_settings
from ray_asd.upstream.weights import fill, load_tensors, save_tensors

TENSORS = "training.safetensors"
META = "training.json"

_NETWORK = "network."
_OPTIMIZER = "optimizer."


def state(training: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that the next step depends on, apart from its batch.

    Tensors: weights and buffers as ``network.<name>``, AdamW's moments and step counts as
    ``optimizer.<index>.<name>``. Meta, JSON values: steps taken, the schedule's position, the
    optimizer's settings, and what the training must have been made with to take them up.
    """
    optimizer = training.optimizer.state_dict()
    tensors = {_NETWORK + name: t for name, t in training.network.state_dict().items()}
    for index, moments in optimizer["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{name}": t for name, t in moments.items()}
    meta = {
        "steps": training.steps,
        "groups": optimizer["param_groups"],
        "schedule": None if training.schedule is None else training.schedule.state_dict(),
        "made_with": _made_with(training),
    }
    return tensors, meta


def load_state(
    training: Training,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    origin: str = "checkpoint",
) -> None:
    """Take up what :func:`state` gave.

    Raises:
        BadInput: the checkpoint is of another training; names the first differing setting.
    """
    _same_training(training, meta, origin)
    fill(training.network, _under(_NETWORK, tensors), origin)
    training.optimizer.load_state_dict(
        {"state": _moments(training, tensors), "param_groups": meta["groups"]}
    )
    if training.schedule is not None:
        training.schedule.load_state_dict(meta["schedule"])
    training.steps = int(meta["steps"])


def save_checkpoint(training: Training, folder: Path) -> None:
    """Write a training's state into ``folder``: one safetensors file and one JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, meta = state(training)
    save_tensors(tensors, folder / TENSORS)
    (folder / META).write_text(json.dumps(meta, indent=1, allow_nan=False), "utf-8")


def load_checkpoint(training: Training, folder: Path) -> None:
    """Go on where the training that wrote ``folder`` stood.

    Raises:
        BadInput: not a whole checkpoint, or one of another training.
    """
    try:
        meta = json.loads((folder / META).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / META}: not a checkpoint's: {error}") from None
    load_state(training, load_tensors(folder / TENSORS), meta, str(folder))


def _made_with(training: Training) -> dict[str, Any]:
    others = {f"upstream.backbones.{name}" for name in training.recipe.upstream.backbones}
    others.remove(f"upstream.backbones.{training.backbone}")
    settings = training_settings(training.recipe)
    made_with = {
        "backbone": training.backbone,
        "total_steps": training.total_steps,
        "classes": training.classes.to_dict(),
        **{name: value for name, value in settings.items() if name not in others},
    }
    # As JSON gives it back, so that it compares equal to what was read.
    values: dict[str, Any] = json.loads(json.dumps(made_with))
    return values


def _same_training(training: Training, meta: Mapping[str, Any], origin: str) -> None:
    missing = {"steps", "groups", "schedule", "made_with"} - meta.keys()
    if missing:
        raise BadInput(f"{origin}: not a training's checkpoint: {min(missing)} is missing")
    now, then = _made_with(training), meta["made_with"]
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if changed:
        raise BadInput(
            f"{origin}: a checkpoint of another training: {', '.join(changed)} changed since; "
            f"resume with the recipe, manifest and number of workers that it was made with, or "
            f"train into another folder"
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _moments(training: Training, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(_OPTIMIZER, tensors).items():
        index, _, kind = name.partition(".")
        parameter = parameters[int(index)]
        # In the memory layout of its parameter (channels last), as AdamW itself makes it.
        like = torch.empty_like(parameter) if tensor.shape == parameter.shape else tensor.clone()
        moments.setdefault(int(index), {})[kind] = like.copy_(tensor)
    return moments
