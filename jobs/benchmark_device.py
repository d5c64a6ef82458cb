"""What one device does: a training step and an inference batch of each backbone, on it.

Free of Ray, so that it runs wherever torch does: on a GPU where there is one (float32 and
bfloat16), else on this machine's cores. Random mels and labels: what they are changes no
duration.

Example: python jobs/benchmark_device.py --device cuda
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import numpy as np
import torch
import typer
from timing import medians

from ray_asd import recipe as recipes
from ray_asd.frontend import segment_frames
from ray_asd.recipe import Recipe
from ray_asd.upstream import Batch, Classes, Encoder, Training, pack_weights

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

_TYPES = tuple(f"machine {number}" for number in range(7))
_WARM_UP = 3


@app.command()
def device(
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")] = (
        "first_shot"
    ),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change a setting.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu | cuda; a GPU where there is one.")] = (
        None
    ),
    repetitions: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Clips a second of training and of embedding, a backbone and precision each, as JSON."""
    chosen = recipes.load(recipe, settings or [])
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    figures = [
        {"backbone": name, "bf16": bf16, **_measured(chosen, name, place, bf16, repetitions)}
        for name in chosen.trained_backbones()
        for bf16 in (False, True)
    ]
    about = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    result = {
        "device": about,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "training_batch": chosen.upstream.batch,
        "figures": figures,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _measured(
    recipe: Recipe, name: str, place: torch.device, bf16: bool, repetitions: int
) -> dict[str, Any]:
    classes = Classes(_TYPES, (), tuple((machine_type, "00") for machine_type in _TYPES))
    front_end = recipe.front_end_of(name)
    frames = segment_frames(front_end, recipe.clips)
    mels, count = front_end.bands, recipe.upstream.batch
    random = np.random.default_rng(0)
    labels = torch.eye(len(_TYPES))[torch.from_numpy(random.integers(len(_TYPES), size=count))]
    batch = Batch(
        torch.from_numpy(random.normal(-8, 2, (count, mels, frames)).astype(np.float32)),
        labels,
        torch.zeros(count, 0),
        labels,
    )
    steps = repetitions + _WARM_UP
    training = Training(recipe, name, classes, steps, place, bf16=bf16)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    # Both wait for the device themselves: what they return lies in this process's memory.
    step_s = medians({"step": lambda: training.step(batch)}, repetitions, _WARM_UP)["step"]
    peak = torch.cuda.max_memory_allocated(place) / 1e9 if place.type == "cuda" else None
    encoder = Encoder(
        recipe.upstream.backbones[name],
        pack_weights(training.network.backbone),
        mels=mels,
        frames=frames,
        embedding=recipe.upstream.embedding,
        precision="bf16" if bf16 else "fp32",
        device=place,
    )
    segments = batch.mels[: recipe.clips.segments].numpy()
    embed_s = medians({"embed": lambda: encoder.embed(segments)}, repetitions, _WARM_UP)["embed"]
    return {
        "training_clips_per_s": round(count / step_s, 1),
        "training_peak_gb": None if peak is None else round(peak, 2),
        "embedded_clips_per_s": round(1 / embed_s, 1),
    }


if __name__ == "__main__":
    app()
