"""Training speed: Ray Train and Ray Data against a bare PyTorch loop over the same features.

Both train the same network on the same number of processes and threads, in the same precision,
from the same features table. The bare loop holds all mels in memory and does nothing beyond a
step: no Ray, no metrics, no target-domain guarantee. It runs before and after the pipeline, since
the load of a shared machine drifts.

Example: python jobs/benchmark_train.py --set upstream.batch=32 --workers 1 --workers 2
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import processes
import pyarrow.parquet as pq
import torch
import typer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import ray_asd
from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.archive import fleet, manifest
from ray_asd.frontend import segment_frames
from ray_asd.pipelines import features, session
from ray_asd.recipe import Recipe
from ray_asd.upstream import Batch, Classes, build_backbone, clips_of, worker_batch
from ray_asd.upstream.network import build_network, losses
from ray_asd.upstream.optimizer import build_optimizer, build_schedule
from ray_asd.upstream.training import trains_in_bf16

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def _here() -> None:
    """Keep ``train`` a named command where this is the only one."""


@app.command()
def train(
    source: Annotated[
        str | None, typer.Option("--manifest", help="Default: a small fleet, made up for it.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")] = (
        "first_shot"
    ),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change a setting.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Default: 1 and 2.")] = None,
    epochs: Annotated[int, typer.Option(min=2, help="The first one is warm-up.")] = 4,
    clips: Annotated[int, typer.Option(help="Training clips of the made-up fleet.")] = 480,
) -> None:
    """Clips per second of each backbone, by the pipeline and by a bare loop, as JSON."""
    chosen = recipes.load(recipe, [*(settings or []), f"upstream.epochs={epochs}"])
    results: dict[str, Any] = {"epochs": epochs, "batch": chosen.upstream.batch, "figures": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = source or made_fleet(Path(folder), clips)
        table = Path(folder) / "features"
        with session.session():
            cores = session.cores()
            front_ends = chosen.front_ends(chosen.trained_backbones())
            folders = features.build(manifest.read(place), chosen, front_ends, str(table))
            parts = {
                front_end: features.parts_of(folder, chosen, front_end)
                for front_end, folder in zip(front_ends, folders, strict=True)
            }
        for name in chosen.trained_backbones():
            alone = only(chosen, name)
            for count in workers or [1, 2]:
                console.say(f"benchmark: {name}, {count} workers")
                own = parts[chosen.front_end_of(name)]
                bare = functools.partial(_bare, alone, place, own, count, cores // count)
                before = bare()
                out = Path(folder) / f"{name}-{count}"
                piped = _pipeline(alone, place, out, count, str(table))
                loop = statistics.mean([before, bare()])
                results["figures"][f"{name}, {count} workers"] = {
                    "pipeline_clips_per_s": round(piped, 1),
                    "bare_clips_per_s": round(loop, 1),
                    "ratio": round(piped / loop, 3),
                }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def made_fleet(folder: Path, clips: int) -> str:
    """A manifest of ``clips`` synthesized recordings of 10 s, of four machine types."""
    types = ("fan", "gearbox", "valve", "slider")
    fleet.synthesize(
        str(folder / "recordings"),
        machine_types=types,
        train_source=clips // len(types) - 4,
        train_target=4,
        test_per_cell=0,
        duration_s=10.0,
        seed=0,
    )
    place = str(folder / "manifest.parquet")
    ray_asd.index(str(folder / "recordings"), place)
    return place


def only(recipe: Recipe, backbone: str) -> Recipe:
    """The recipe with no other backbone."""
    tree = recipe.model_dump(mode="json")
    tree["upstream"]["backbones"] = {backbone: tree["upstream"]["backbones"][backbone]}
    return recipes.validate(tree, recipe.name)


def _pipeline(recipe: Recipe, place: str, out: Path, workers: int, table: str) -> float:
    """Median clips/s of the epochs after the first, by ``ray-asd train``."""
    out.mkdir()
    file = out / "benchmark.yaml"
    file.write_text(recipe.to_yaml())
    ray_asd.train(place, str(out), recipe=str(file), workers=workers, features_uri=table)
    (backbone,) = recipe.upstream.backbones
    lines = (out / backbone / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["clips_per_s"] for line in lines[1:])


def _bare(recipe: Recipe, place: str, parts: list[str], workers: int, threads: int) -> float:
    """Median clips/s of the epochs after the first, over all processes of the bare loop."""
    spawned = multiprocessing.get_context("spawn")
    results = spawned.SimpleQueue()
    with tempfile.TemporaryDirectory() as meet:
        processes.run(
            spawned.Process(
                target=_bare_worker,
                args=(recipe.to_yaml(), place, parts, rank, workers, threads, meet, results),
            )
            for rank in range(workers)
        )
    return float(results.get())


def _bare_worker(
    text: str,
    place: str,
    parts: list[str],
    rank: int,
    workers: int,
    threads: int,
    meet: str,
    results: Any,
) -> None:
    torch.set_num_threads(max(1, threads))
    torch.manual_seed(0)
    recipe = recipes.parse(text, "benchmark")
    classes = Classes.of(manifest.training(manifest.read(place)))
    ((name, backbone),) = recipe.upstream.backbones.items()
    front_end = recipe.front_end_of(name)
    mels, labels = _loaded(front_end.bands, classes, parts, rank, workers)
    length = segment_frames(front_end, recipe.clips)
    embedding = recipe.upstream.embedding
    encoder = build_backbone(backbone, mels=front_end.bands, frames=length, embedding=embedding)
    bf16 = trains_in_bf16(torch.device("cpu"), encoder.trunk)
    network: nn.Module = build_network(encoder, embedding, classes, recipe.upstream.loss)
    size = worker_batch(recipe.upstream.batch, workers)
    steps = max(1, len(mels) // size)
    optimizer = build_optimizer(network, recipe.upstream)
    schedule = build_schedule(optimizer, recipe.upstream, steps * recipe.upstream.epochs)
    if schedule is None:
        raise ValueError("no steps to time")
    if workers > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meet}/meet", rank=rank, world_size=workers
        )
        network = DistributedDataParallel(network, forward_sync_buffers=False)
    rng = np.random.default_rng(rank)
    network.train()
    speeds = []
    for _ in range(recipe.upstream.epochs):
        started = time.perf_counter()
        order = rng.permutation(len(mels))
        for step in range(steps):
            chosen = order[step * size : (step + 1) * size]
            crops = np.empty((len(chosen), front_end.bands, length), np.float32)
            for row, index in zip(crops, chosen, strict=True):
                start = rng.integers(mels[index].shape[1] - length, endpoint=True)
                row[:] = mels[index][:, start : start + length]
            batch = Batch(torch.from_numpy(crops), *(label[chosen] for label in labels))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = network(batch.mels)
            loss = losses(outputs, batch, recipe.upstream.loss).total
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), recipe.upstream.gradient_clip)
            optimizer.step()
            if schedule.last_epoch + 1 < steps * recipe.upstream.epochs:
                schedule.step()
        speeds.append(steps * size * workers / (time.perf_counter() - started))
    if rank == 0:
        results.put(statistics.median(speeds[1:]))
    if workers > 1:
        distributed.destroy_process_group()


def _loaded(
    bands: int, classes: Classes, parts: list[str], rank: int, workers: int
) -> tuple[list[npt.NDArray[np.float16]], list[Tensor]]:
    """This rank's mels, and their one-hot labels, in memory."""
    mels: list[npt.NDArray[np.float16]] = []
    rows: list[tuple[int, int, int]] = []
    for part in parts:
        for clip in clips_of(pq.read_table(part), classes, bands):
            mels.append(np.array(clip.mel))
            rows.append((clip.machine_type, clip.attributes, clip.plain))
    counts = (
        len(classes.machine_types),
        len(classes.attribute_values),
        len(classes.plain_sections),
    )
    mine = slice(rank, None, workers)
    labels = torch.tensor(rows)[mine]
    one_hot = [
        torch.eye(count + 1)[labels[:, place]][:, :count] for place, count in enumerate(counts)
    ]
    return mels[mine], one_hot


if __name__ == "__main__":
    app()
