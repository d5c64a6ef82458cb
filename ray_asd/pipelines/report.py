"""Scores → one page for a person: which machines need attention, why, and how they sound.

Counted part by part of the scores table, on Ray where there are many parts; of all recordings
only those that the page shows are read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from pyarrow import fs

from ray_asd import bundle as bundles
from ray_asd import console, tables
from ray_asd.archive import store
from ray_asd.bundle import Bundle, Key
from ray_asd.errors import BadInput
from ray_asd.pipelines import columns, session
from ray_asd.pipelines.embed import Embed
from ray_asd.recipe import Recipe
from ray_asd.reporting import contents, maps, page, parts, summary, tally, walks
from ray_asd.reporting.contents import Found
from ray_asd.reporting.maps import Map
from ray_asd.reporting.page import Page
from ray_asd.reporting.parts import Part
from ray_asd.reporting.tally import Tally

# Starting Ray takes as long as reading these here.
_GROUPS_ALONE = 4


def report(
    scores_uri: str,
    bundle: str,
    out: str,
    *,
    ensemble: str | None = None,
    top: int = 25,
    nights: int | None = None,
    largest_mb: float = 20.0,
    embedding_maps: bool = True,
    address: str | None = None,
) -> dict[str, Any]:
    """Write one self-contained HTML file of what a scores table says.

    Args:
        scores_uri: what ``ray-asd score`` wrote.
        bundle: the bundle that it was scored with, for its reference normals and front end.
        out: the file to write.
        ensemble: which ensemble is shown; the first by name if None, as in ``evaluate``.
        top: how many of the most anomalous clips are shown, and their recordings read.
        nights: only the scores of so many last nights; of all if None.
        embedding_maps: whether labelled clips, some hundred of all, are heard again and drawn
            among the normal ones; without labels none are.
        largest_mb: how large the file may be; sound, then spectrograms are left out of it.
        address: a Ray cluster's address; None starts a local Ray, if the table is large.

    Returns:
        Counts, the machines that need attention, and what was left out of the page.

    Raises:
        BadInput: no scores there, no such ensemble or bundle, or ``out`` cannot be written.

    >>> report("scores", "bundle", "report.html")["attention"]  # doctest: +SKIP
    """
    started = time.monotonic()
    _check_writable(out)
    scores_uri = store.absolute(scores_uri)
    scored, rejected = _of_last_nights(
        parts.list_parts(scores_uri, "scores"), parts.list_parts(scores_uri, "rejections"), nights
    )
    loaded = bundles.load(bundle, weights=False)
    with session.lazily(address) as hold:
        each = partial(_each, hold=hold)
        keys = tally.joined(each(walks.keys, scored, what="report: reading keys"))
        ensemble = _chosen(keys, ensemble, scores_uri)
        keys = keys.filter(pc.equal(keys["ensemble"], ensemble))
        count = partial(
            walks.counts,
            old=tally.outdated(keys),
            ensemble=ensemble,
            nights=contents.shown_nights(scored),
            top=top,
        )
        total = Tally.merged(each(count, scored, what="report: counting"), top)
        refused = tally.joined(each(walks.rejections, rejected, what="report: rejections"))
    if total is None or not total.top.num_rows:
        raise BadInput(f"{scores_uri}: none of its scores of ensemble {ensemble} is a number")
    found = Found(
        scores_uri, ensemble, loaded, scored, rejected, total, tally.standing(refused, keys)
    )
    for line in found.warnings:
        console.warn(line)
    clips = []
    with console.track("report: listening", total.top.num_rows, "clips") as advance:
        for clip in found.clips():
            clips.append(clip)
            advance(1, "")
    mapped = _mapped(found.to_map(), loaded, bundle) if embedding_maps else {}
    built = page.build(clips, round(largest_mb * 1e6), **found.said(clips, mapped))
    _write(out, built.html)
    return {
        "report": out,
        **_summary(found, built),
        "shown": len(clips),
        "mapped": sum(len(drawn.clips) for drawn in mapped.values()),
        "not_heard": sum(bool(clip.heard.missing) for clip in clips),
        "seconds": round(time.monotonic() - started, 1),
    }


def _mapped(rows: Mapping[Key, list[dict[str, Any]]], loaded: Bundle, uri: str) -> dict[Key, Map]:
    """A map of each section's clips; in this process, for they are few.

    A long recording is embedded whole, and drawn only where its first clip was chosen: so one
    clip's worth of embedding comes to each that was chosen, on average.
    """
    firsts = {key: [row for row in own if row["start_s"] == 0] for key, own in rows.items()}
    count = sum(map(len, firsts.values()))
    if not count:
        return {}
    recipe = _of_first_backbone(loaded.recipe)
    (backbone,) = recipe.upstream.backbones
    embed = Embed(recipe.model_dump(), bundles.weights_of(uri))
    mapped = {}
    with console.track("report: mapping", count, "clips") as advance:
        for key, own in firsts.items():
            try:
                heard = list(_first_clips(embed, own, advance))
            except BadInput as error:
                # To ask a bucket that does not answer takes many seconds: once is enough.
                console.warn(f"maps of embeddings are left out: {error}")
                break
            points = [columns.matrix(found, backbone, recipe)[0].mean(0) for found, _ in heard]
            normals = loaded.sections[key].neighbours.embeddings.astype(np.float64)
            kinds = [(row["domain"], row["label"]) for _, row in heard]
            drawn = maps.project(normals, np.array(points, np.float64), kinds)
            if drawn is not None:
                mapped[key] = drawn
    return mapped


def _of_first_backbone(recipe: Recipe) -> Recipe:
    """What embeds as the reference clips of the bundle were, and nothing else."""
    name, settings = next(iter(recipe.upstream.backbones.items()))
    upstream = recipe.upstream.model_copy(update={"backbones": {name: settings}})
    ensembles = {
        name: ensemble.model_copy(update={"members": "all"})
        for name, ensemble in recipe.ensembles.items()
    }
    return recipe.model_copy(update={"upstream": upstream, "ensembles": ensembles})


def _first_clips(
    embed: Callable[[pa.Table], pa.Table], rows: Sequence[dict[str, Any]], advance: console.Advance
) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
    """The embedded first clip of each recording that can be heard, and its row."""
    for row in rows:
        advance(1, "")
        recording = {name: row[name] for name in tables.RECORDINGS.names}
        try:
            found = embed(pa.Table.from_pylist([recording], tables.RECORDINGS)).slice(0, 1)
        except (OSError, ValueError):
            # A table may hold any text for a uri, and what is not heard is not drawn.
            continue
        if not found["reason"][0].is_valid:
            yield found, row


def _summary(found: Found, built: Page) -> dict[str, Any]:
    return {
        "ensemble": found.ensemble,
        "bundle_id": found.bundle.bundle_id,
        "clips": sum(machine.alarms.clips for machine in found.machines),
        "above": sum(machine.alarms.above for machine in found.machines),
        "rejected": found.standing.num_rows,
        "attention": [_unit(unit) for unit in found.attention],
        "official_score": None if found.judged is None else found.judged.official_score,
        "without_sound": built.left_out["player"],
        "without_spectrogram": built.left_out["picture"],
        "bytes": len(built.html),
        "warnings": found.warnings,
    }


def _unit(unit: summary.Unit) -> dict[str, Any]:
    return {
        "machine_type": unit.machine_type,
        "section": unit.section,
        "site": unit.site,
        "asset": unit.asset,
        "clips": unit.all.clips,
        "above": unit.all.above,
        "highest": unit.highest,
        "why": unit.why,
    }


def _check_writable(out: str) -> None:
    """Refuse before minutes of work what could not be written after them."""
    try:
        filesystem, path = store.resolve(out)
        if store.is_folder(out):
            raise BadInput(f"{out}: is a folder; name the HTML file to write")
        folder = path.rpartition("/")[0] or "/"
        # In a bucket no folder needs to stand before a file does.
        if isinstance(filesystem, fs.LocalFileSystem) and not store.is_folder(folder):
            raise BadInput(f"{out}: there is no folder {folder}; make it first")
    except OSError as error:
        raise _not_written(out, error) from None


def _write(out: str, html: bytes) -> None:
    try:
        store.write_atomic(out, html)
    except OSError as error:
        raise _not_written(out, error) from None


def _not_written(out: str, error: OSError) -> BadInput:
    return BadInput(f"{out}: cannot be written: {error.strerror or error}")


def _of_last_nights(
    scored: list[Part], rejected: list[Part], nights: int | None
) -> tuple[list[Part], list[Part]]:
    if nights is None:
        return scored, rejected
    chosen = set(contents.nights_of([*scored, *rejected])[-nights:])
    kept_scored, kept_rejected = (
        [part for part in found if part.night in chosen] for found in (scored, rejected)
    )
    return kept_scored, kept_rejected


def _chosen(keys: pa.Table, ensemble: str | None, uri: str) -> str:
    """The ensemble that is shown."""
    if not keys.num_rows:
        raise BadInput(f"{uri}: holds no scores; `ray-asd score` writes them")
    there = sorted(pc.unique(keys["ensemble"]).to_pylist())
    if ensemble is not None and ensemble not in there:
        raise BadInput(f"{uri}: no ensemble {ensemble}; there are {', '.join(there)}")
    return there[0] if ensemble is None else ensemble


def _each(
    function: Callable[[list[Part]], Any],
    found: Sequence[Part],
    *,
    hold: Callable[[], None],
    what: str,
) -> Iterator[Any]:
    """What ``function`` makes of each group of parts, in their order; on Ray if there are many."""
    groups = parts.groups(found)
    if not groups:
        return
    with console.track(what, len(found), "parts") as advance:
        if len(groups) <= _GROUPS_ALONE:
            for group in groups:
                yield function(group)
                advance(len(group), "")
            return
        hold()
        task = ray.remote(num_cpus=1, max_retries=3)(walks.apply)
        shared, cores = ray.put(function), session.cores()
        waiting: deque[tuple[Any, int]] = deque()
        for group in groups:
            # One more than there are cores: what waits to be merged stays small.
            if len(waiting) > cores:
                yield _finished(waiting, advance)
            waiting.append((task.remote(shared, group), len(group)))
        while waiting:
            yield _finished(waiting, advance)


def _finished(waiting: deque[tuple[Any, int]], advance: console.Advance) -> Any:
    reference, count = waiting.popleft()
    found = ray.get(reference)
    advance(count, "")
    return found
