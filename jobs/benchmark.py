"""What the parts of ray-asd cost, measured on this machine: one subcommand a part.

python jobs/benchmark.py detect --sizes 1000 --sizes 10000
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import benchmark_device
import benchmark_memory
import benchmark_plan
import benchmark_score
import benchmark_train
import faiss
import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from timing import medians

from ray_asd import recipe as recipes
from ray_asd.downstream import fit
from ray_asd.downstream.detector import Detector
from ray_asd.frontend import segment_frames
from ray_asd.recipe import Recipe
from ray_asd.upstream import Encoder, build_backbone, pack_weights

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Points = npt.NDArray[np.float64]


app.command("train")(benchmark_train.train)
app.command("score")(benchmark_score.score)
app.command("device")(benchmark_device.device)
app.command("memory")(benchmark_memory.memory)
app.command("plan")(benchmark_plan.plan)


@app.callback()
def benchmarks() -> None:
    """Measure what the parts of ray-asd cost on this machine."""


@app.command()
def detect(
    recipe: Annotated[str, typer.Option(help="Whose detectors.")] = "first_shot",
    sizes: Annotated[list[int] | None, typer.Option(help="Reference vectors.")] = None,
    blocks: Annotated[list[int] | None, typer.Option(help="Clips in a block.")] = None,
    spread: Annotated[
        float, typer.Option(help="Of the points about their cluster's centre; small is tight.")
    ] = 0.3,
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    gmm_up_to: Annotated[int, typer.Option(help="Reference vectors a GMM is fitted on.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Queries a second of each detector, KNN beside scikit-learn's, and beside the backbones.

    A block of n clips makes n queries of mean embeddings and n × segments of segments, as
    scoring does; the rates are of the block's segments. Medians of the repetitions, which take
    turns, so that a busy machine is unfair to nobody.
    """
    chosen = recipes.load(recipe)
    embed_s = _embedding_s(chosen, repetitions, threads)
    rows = []
    with threadpool_limits(threads):
        faiss.omp_set_num_threads(threads)
        for size in sizes or [1_000, 10_000, 100_000]:
            rows += _detectors(chosen, size, blocks or [4, 64], spread, repetitions, gmm_up_to)
    for row in rows:
        row["share_of_embedding"] = row["all_s"] / (embed_s * row["clips"])
    result = {
        "threads": threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "embedding_s_a_clip": embed_s,
        "detectors": rows,
    }
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    _print(result)


def _detectors(
    chosen: Recipe, size: int, blocks: list[int], spread: float, repetitions: int, gmm_up_to: int
) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    width, segments = chosen.upstream.embedding, chosen.clips.segments
    centres = random.normal(size=(16, width))

    def points(count: int) -> Points:
        around = centres[random.integers(len(centres), size=count)]
        made = around + spread * random.normal(size=(count, width))
        # What scoring gets are float32 embeddings, held as float64.
        return made.astype(np.float32).astype(np.float64)

    reference = points(size)
    domains = np.full(size, "source")
    detectors: dict[str, Detector] = {
        name: fit(reference, domains, settings, seed=chosen.seed)
        for name, settings in chosen.downstream.detectors.items()
        if settings.kind != "gmm" or size <= gmm_up_to
    }
    knn = next(d for d in chosen.downstream.detectors.values() if d.kind == "knn")
    theirs = NearestNeighbors(
        n_neighbors=min(knn.size, size), metric=knn.metric, algorithm="brute"
    ).fit(reference)
    rows = []
    for clips in blocks:
        queries = points(clips * segments)
        tasks: dict[str, Callable[[], object]] = {
            name: lambda own=detector, q=queries: own.score(q)  # type: ignore[misc]
            for name, detector in detectors.items()
        }
        tasks["scikit-learn"] = lambda q=queries: theirs.kneighbors(q)  # type: ignore[misc]
        seconds = medians(tasks, repetitions)
        rows.append(
            {
                "reference": size,
                "clips": clips,
                "queries": len(queries),
                "queries_per_s": {name: len(queries) / s for name, s in seconds.items()},
                "knn_over_scikit_learn": seconds["scikit-learn"] / seconds["knn"],
                # Scoring also scores each clip's mean: one query more beside its segments.
                "all_s": sum(seconds[n] for n in detectors) * (1 + 1 / segments),
                "measured": list(detectors),
            }
        )
    return rows


def _embedding_s(chosen: Recipe, repetitions: int, threads: int) -> float:
    """Seconds a clip of all backbones together, with random weights."""
    torch.manual_seed(chosen.seed)
    random = np.random.default_rng(0)
    tasks: dict[str, Callable[[], object]] = {}
    for name, settings in chosen.upstream.backbones.items():
        front_end = chosen.front_end_of(name)
        mels, frames = front_end.bands, segment_frames(front_end, chosen.clips)
        embedding = chosen.upstream.embedding
        made = build_backbone(settings, mels=mels, frames=frames, embedding=embedding)
        encoder = Encoder(
            settings,
            pack_weights(made),
            mels=mels,
            frames=frames,
            embedding=embedding,
            precision=chosen.downstream.precision,
            engine=chosen.downstream.engine,
            threads=threads,
        )
        clip = random.normal(size=(chosen.clips.segments, mels, frames)).astype(np.float32)
        tasks[name] = lambda e=encoder, c=clip: e.embed(c)  # type: ignore[misc]
    return sum(medians(tasks, repetitions).values())


def _print(result: dict[str, Any]) -> None:
    out = Console(highlight=False, width=120)
    out.print(
        f"{result['threads']} threads of {result['cores']} cores, load {result['load']:.1f}; "
        f"embedding takes {1e3 * result['embedding_s_a_clip']:.0f} ms a clip"
    )
    names = list(dict.fromkeys(n for row in result["detectors"] for n in row["queries_per_s"]))
    table = Table("reference", "clips", "queries", *(f"{n}/s" for n in names), box=None)
    table.add_column("KNN over scikit-learn")
    table.add_column("all, of embedding")
    for row in result["detectors"]:
        rates = [row["queries_per_s"].get(name) for name in names]
        table.add_row(
            *(str(row[key]) for key in ("reference", "clips", "queries")),
            *("n/a" if rate is None else f"{rate:,.0f}" for rate in rates),
            f"{row['knn_over_scikit_learn']:.2f}×",
            f"{100 * row['share_of_embedding']:.1f} % ({', '.join(row['measured'])})",
        )
    out.print(table)


if __name__ == "__main__":
    app()
