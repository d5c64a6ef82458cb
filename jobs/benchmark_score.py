"""Scoring speed: the plain loop of a careful user, our kernels without Ray, and the pipeline.

All three score the same recordings with the same weights on the same cores in one run:

plain     soundfile, torchaudio's mel of every segment, the backbones as they were built, in
          float32, scikit-learn's neighbours; one single-threaded process a core
kernels   this project's own hearing, encoders and detectors in plain processes
pipeline  ``ray-asd score``, from its first finished shard to its last

Example: python jobs/benchmark_score.py --recordings 2000 --precision bf16
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import processes
import pyarrow as pa
import soundfile
import torch
import torchaudio
import typer
from rich.console import Console
from rich.table import Table
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

import ray_asd
from ray_asd import bundle as bundles
from ray_asd import console
from ray_asd import recipe as recipes
from ray_asd.archive import fleet, manifest
from ray_asd.bundle import Bundle, Weights
from ray_asd.downstream import score_clips
from ray_asd.frontend import segment_frames, segment_starts, standardize
from ray_asd.pipelines import columns, fit, fit_section, session
from ray_asd.pipelines.embed import Embed
from ray_asd.recipe import FrontEnd, Recipe
from ray_asd.upstream import Classes, Training, build_backbone, load_weights, pack_weights

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

_TYPES = ("fan", "gearbox", "slider", "valve")
# Recordings that are synthesized; an archive holds each of them many times.
_DIFFERENT = 160
_WARM_UP = 2


@app.command()
def score(
    recordings: Annotated[int, typer.Option(min=200, help="In the archive, 10 s each.")] = 2000,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")] = (
        "first_shot"
    ),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change a setting.")] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = "fp32",
    plain_recordings: Annotated[
        int, typer.Option(help="Of these the plain loop and the kernels score so many a turn.")
    ] = 200,
    sizes: Annotated[
        list[int] | None, typer.Option(help="Instead: growth of the pipeline over such archives.")
    ] = None,
) -> None:
    """Clips a second of each way, their ratios, and the pipeline's seconds by stage, as JSON."""
    chosen = recipes.load(recipe, [*(settings or []), f"downstream.precision={precision}"])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = _made(place / "different")
        bundle = _bundle(chosen, made, place / "bundle")
        with session.session():
            if sizes:
                return _print_growth([_grown(place, made, bundle, size) for size in sizes])
            archive = _archive(place / "archive", made, recordings)
            loops = [_loops(archive, bundle, plain_recordings)]
            run = _pipeline(archive, bundle, place / "scores")
            loops.append(_loops(archive, bundle, plain_recordings))
    # Before and after the pipeline, since the load of a shared machine drifts.
    speeds = {
        "plain": float(np.mean([loop["plain"] for loop in loops])),
        "kernels": float(np.mean([loop["kernels"] for loop in loops])),
        "pipeline": run["clips_per_s"],
    }
    clip_s = 10
    result = {
        "recipe": chosen.name,
        "precision": precision,
        "engine": chosen.downstream.engine,
        "cores": os.cpu_count(),
        "recordings": recordings,
        "clips_per_s": {name: round(speed, 2) for name, speed in speeds.items()},
        "audio_hours_per_hour": {name: round(speed * clip_s, 1) for name, speed in speeds.items()},
        "pipeline_over_plain": round(speeds["pipeline"] / speeds["plain"], 3),
        "pipeline_over_kernels": round(speeds["pipeline"] / speeds["kernels"], 3),
        "startup_s": run["startup_s"],
        "stage_seconds": run["stage_seconds"],
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _made(place: Path) -> pa.Table:
    fleet.synthesize(
        str(place),
        machine_types=_TYPES,
        train_source=_DIFFERENT // len(_TYPES) - 4,
        train_target=4,
        test_per_cell=0,
        duration_s=10.0,
        seed=0,
    )
    return manifest.build(str(place)).table


def _bundle(recipe: Recipe, recordings: pa.Table, place: Path) -> str:
    """A bundle with random weights: what they are changes no duration."""
    console.say("benchmark: a bundle with random weights")
    classes, device = Classes.of(recordings), torch.device("cpu")
    weights, files = {}, {}
    place.mkdir()
    for name in recipe.trained_backbones():
        weights[name] = pack_weights(Training(recipe, name, classes, 0, device).network.backbone)
        file = place / f"{name}.safetensors"
        file.write_bytes(weights[name])
        files[name] = Weights(str(file))
    embed = Embed(recipe.model_dump(), files, threads=os.cpu_count() or 1)
    references = fit.references_of(embed(recordings), frozenset(), recipe)
    sections = {
        key: fit_section.fit_section(key, reference, recipe)
        for key, reference in references.items()
    }
    bundles.save(Bundle(recipe, weights, sections), str(place / "bundle"))
    return str(place / "bundle")


def _archive(place: Path, made: pa.Table, count: int) -> str:
    """A manifest of ``count`` recordings, copies of the ones that were made."""
    files = [Path(uri) for uri in made["uri"].to_pylist()]
    for number in range(count):
        file = files[number % len(files)]
        machine_type = file.parts[-3]
        folder = place / machine_type / "test"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / f"section_00_{number:04d}.wav")
    uri = str(place / "manifest.parquet")
    manifest.write(manifest.build(str(place)).table, uri)
    return uri


def _pipeline(archive: str, bundle: str, out: Path) -> dict[str, Any]:
    """The run's record, with seconds until the first shard was there."""
    console.say("benchmark: the pipeline")
    return ray_asd.score(archive, bundle, str(out))


def _loops(archive: str, bundle: str, count: int) -> dict[str, float]:
    """Clips a second of both loops, over one process a core each."""
    speeds = {}
    for name, work in (("plain", _plain), ("kernels", _kernels)):
        console.say(f"benchmark: {name}")
        speeds[name] = _over_cores(work, archive, bundle, count)
    return speeds


def _over_cores(work: Callable[..., None], archive: str, bundle: str, count: int) -> float:
    cores = os.cpu_count() or 1
    spawned = multiprocessing.get_context("spawn")
    ready, seconds = spawned.Barrier(cores), spawned.SimpleQueue()
    processes.run(
        spawned.Process(target=work, args=(archive, bundle, count, rank, cores, ready, seconds))
        for rank in range(cores)
    )
    return count / max(seconds.get() for _ in range(cores))


def _mine(archive: str, count: int, rank: int, cores: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = manifest.read(archive).slice(0, count).to_pylist()
    return rows[rank::cores]


def _timed(
    recordings: list[dict[str, Any]], one: Callable[[dict[str, Any]], object], ready: Any
) -> float:
    for recording in recordings[:_WARM_UP]:
        one(recording)
    ready.wait()
    began = time.perf_counter()
    for recording in recordings:
        one(recording)
    return time.perf_counter() - began


def _plain(
    archive: str, bundle: str, count: int, rank: int, cores: int, ready: Any, seconds: Any
) -> None:
    torch.set_num_threads(1)
    loaded = bundles.load(bundle)
    recipe = loaded.recipe
    backbones: dict[FrontEnd, list[torch.nn.Module]] = {}
    for name, settings in recipe.upstream.backbones.items():
        front_end = recipe.front_end_of(name)
        backbone = build_backbone(
            settings,
            mels=front_end.bands,
            frames=segment_frames(front_end, recipe.clips),
            embedding=recipe.upstream.embedding,
        ).to(memory_format=torch.contiguous_format)
        if settings.trained:
            load_weights(backbone, loaded.backbones[name])
        backbones.setdefault(front_end, []).append(backbone.eval())
    spectra = {front_end: _torchaudio(front_end) for front_end in backbones}
    neighbours = {
        key: NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(
            section.neighbours.embeddings
        )
        for key, section in loaded.sections.items()
    }

    def mels(front_end: FrontEnd, waveform: torch.Tensor) -> torch.Tensor:
        frames, hop = segment_frames(front_end, recipe.clips), front_end.hop
        starts = segment_starts(len(waveform) // hop + 1, frames, recipe.clips.segments)
        pieces = [waveform[s * hop :][: (frames - 1) * hop] for s in starts]
        return torch.log(torch.stack(list(map(spectra[front_end], pieces))) + front_end.floor)

    @torch.inference_mode()
    def one(recording: dict[str, Any]) -> npt.NDArray[np.float64]:
        samples, _ = soundfile.read(recording["uri"], dtype="float32")
        waveform = torch.from_numpy(standardize(samples))
        section = neighbours[recording["machine_type"], recording["section"]]
        embeddings = [
            backbone(segments).mean(0, keepdim=True)
            for front_end, own in backbones.items()
            for segments in [mels(front_end, waveform)]
            for backbone in own
        ]
        distances, _ = section.kneighbors(embeddings[0].numpy())
        return np.asarray(distances)

    with threadpool_limits(1):
        seconds.put(_timed(_mine(archive, count, rank, cores), one, ready))


def _torchaudio(front_end: FrontEnd) -> Callable[[torch.Tensor], torch.Tensor]:
    """Waveform (samples,) → power (bands, frames), by torchaudio's own transforms."""
    if isinstance(front_end.mels, int):
        return torchaudio.transforms.MelSpectrogram(
            sample_rate=front_end.sample_rate_hz,
            n_fft=front_end.n_fft,
            hop_length=front_end.hop,
            n_mels=front_end.mels,
            f_min=front_end.low_hz,
            f_max=front_end.high_hz,
        )
    spectrogram = torchaudio.transforms.Spectrogram(front_end.n_fft, hop_length=front_end.hop)
    return lambda waveform: spectrogram(waveform)[front_end.bins.start : front_end.bins.stop]


def _kernels(
    archive: str, bundle: str, count: int, rank: int, cores: int, ready: Any, seconds: Any
) -> None:
    loaded = bundles.load(bundle)
    recipe = loaded.recipe
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, weights in loaded.backbones.items():
            file = Path(folder) / name
            file.write_bytes(weights)
            files[name] = Weights(str(file))
        embed = Embed(recipe.model_dump(), files)
    schema = manifest.read(archive).schema

    def one(recording: dict[str, Any]) -> object:
        rows = embed(pa.Table.from_pylist([recording], schema))
        section = loaded.sections[recording["machine_type"], recording["section"]]
        raw = {}
        for member in recipe.used_members():
            backbone, name = member.split("/")
            points = columns.matrix(rows, backbone, recipe)
            raw[member], _ = score_clips(
                section.detectors[member], recipe.downstream.detectors[name], points
            )
        return section.calibration.standardize(raw)

    with threadpool_limits(1):
        seconds.put(_timed(_mine(archive, count, rank, cores), one, ready))


def _grown(place: Path, made: pa.Table, bundle: str, size: int) -> dict[str, Any]:
    archive = _archive(place / f"archive-{size}", made, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = _pipeline(archive, bundle, place / f"scores-{size}")
    shutil.rmtree(place / f"archive-{size}")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "recordings": size,
        "ms_a_clip": round(1000 / run["clips_per_s"], 2),
        "driver_peak_mb": round(after / 1000, 1),
        "driver_grew_mb": round((after - before) / 1000, 1),
        "startup_s": run["startup_s"],
    }


def _print_growth(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False, file=sys.stdout).print(table)


if __name__ == "__main__":
    app()
