"""The stages after the embedding: detectors, and the reducer that makes scores of their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_asd import bundle as bundles
from ray_asd import ledger, scores, tables
from ray_asd.downstream import score_clips
from ray_asd.errors import RunFailed
from ray_asd.pipelines import columns, stage_metrics
from ray_asd.pipelines.columns import BEGAN, SPENT
from ray_asd.pipelines.stage_metrics import Stopwatch

RAW = pa.list_(pa.float64())
"""A member's raw scores of a clip: the clip's, then each segment's; empty for a rejection."""


def _sections(rows: pa.Table) -> Iterator[tuple[bundles.Key, npt.NDArray[np.int64]]]:
    """Row numbers of the accepted rows of each (machine type, section)."""
    keys = zip(rows["machine_type"].to_pylist(), rows["section"].to_pylist(), strict=True)
    accepted = rows["reason"].is_null().to_pylist()
    groups: dict[bundles.Key, list[int]] = {}
    for number, (key, good) in enumerate(zip(keys, accepted, strict=True)):
        if good:
            groups.setdefault(key, []).append(number)
    for key, numbers in groups.items():
        yield key, np.array(numbers)


def _with_spent(rows: pa.Table, stage: str, watch: Stopwatch) -> pa.Table:
    """The rows with each one's share of the seconds that the stage took."""
    seconds = watch.lap()
    stage_metrics.observe(stage, seconds)
    share = np.full(rows.num_rows, seconds / max(1, rows.num_rows))
    return rows.append_column(f"{SPENT}{stage}", pa.array(share))


class Detect:
    """Ray Data stage: adds a column ``raw/<member>`` for each member of one kind of detector."""

    def __init__(self, bundle: str, kind: str) -> None:
        self._kind = kind
        self._bundle = bundles.load(bundle, weights=False)
        detectors = self._bundle.recipe.downstream.detectors
        self._members = {
            member: detectors[member.split("/")[1]]
            for member in self._bundle.recipe.used_members()
            if detectors[member.split("/")[1]].kind == kind
        }

    def __call__(self, rows: pa.Table) -> pa.Table:
        """``rows`` are those of :class:`ray_asd.pipelines.embed.Embed`."""
        watch = Stopwatch()
        recipe = self._bundle.recipe
        found: dict[str, list[Any]] = {member: [[]] * rows.num_rows for member in self._members}
        for key, numbers in _sections(rows):
            own = rows.take(pa.array(numbers))
            detectors = self._bundle.sections[key].detectors
            for member, settings in self._members.items():
                points = columns.matrix(own, member.split("/")[0], recipe)
                clips, segments = score_clips(detectors[member], settings, points)
                for number, clip, of_segments in zip(numbers, clips, segments, strict=True):
                    found[member][number] = [clip, *of_segments]
        for member, values in found.items():
            rows = rows.append_column(f"raw/{member}", pa.array(values, RAW))
        return _with_spent(rows, self._kind, watch)


class Reduce:
    """Ray Data stage, the last: standardize, combine, decide, publish a shard and commit it.

    Returns a row a clip: ``uri``, ``start_s``, ``duration_s``, ``reason`` (null where it was
    scored), when its shard was begun, and the seconds that each stage took for it.
    """

    def __init__(self, bundle: str, out: str, run_id: str, night: str) -> None:
        self._bundle = bundles.load(bundle, weights=False)
        self._out, self._run_id, self._night = out, run_id, night

    def __call__(self, rows: pa.Table) -> pa.Table:
        """``rows`` are one whole shard that has passed every :class:`Detect`."""
        watch = Stopwatch()
        shard, machine_type = self._shard(rows)
        scored = [
            row for key, numbers in _sections(rows) for row in self._score(key, rows, numbers)
        ]
        rejected = rows.filter(pc.is_valid(rows["reason"])).to_pylist()
        parts = {"scores": scored, "rejections": [self._rejection(row) for row in rejected]}
        passing = {row["uri"] for row in rejected if row["may_pass"]}
        keys = ("uri", "fingerprint", "machine_type", "section")
        recordings = rows.select(keys).group_by(keys).aggregate([]).to_pylist()
        commits = [
            {
                "uri": recording["uri"],
                "fingerprint": recording["fingerprint"],
                "section_digest": self._digest(recording),
                "final": recording["uri"] not in passing,
            }
            for recording in recordings
        ]
        try:
            for kind, part in parts.items():
                scores.publish(
                    part, kind, self._out, night=self._night, machine_type=machine_type, name=shard
                )
            ledger.commit(self._out, shard, commits)
        except OSError as error:
            raise RunFailed(
                f"{self._out}: the shard {shard} cannot be written: {error.strerror or error}; "
                "what is published stays: mend that, and run the same command again to carry on"
            ) from error
        stage_metrics.count(
            rows.num_rows - len(rejected), Counter(row["reason"] for row in rejected)
        )
        rows = _with_spent(rows, "reduce", watch)
        spent = [name for name in rows.column_names if name.startswith(SPENT)]
        return rows.select(["uri", "start_s", "duration_s", "reason", BEGAN, *spent])

    def _shard(self, rows: pa.Table) -> tuple[str, str]:
        """Name and machine type of the one shard that ``rows`` must be, whole."""
        columns = ("shard", "machine_type", "shard_recordings")
        found = rows.select(columns).group_by(columns).aggregate([]).to_pylist()
        uris = pc.count_distinct(rows["uri"]).as_py()
        if len(found) != 1 or found[0]["shard_recordings"] != uris:
            raise RunFailed(
                f"a block holds {uris} recordings of {len(found)} shards instead of one whole "
                "shard; score with a smaller --batch"
            )
        return found[0]["shard"], found[0]["machine_type"]

    def _score(
        self, key: bundles.Key, rows: pa.Table, numbers: npt.NDArray[np.int64]
    ) -> Iterator[dict[str, Any]]:
        recipe, section = self._bundle.recipe, self._bundle.sections[key]
        own = rows.take(pa.array(numbers))
        raw = {
            member: np.array(own[f"raw/{member}"].to_pylist(), np.float64)
            for member in recipe.used_members()
        }
        standardized = section.calibration.standardize(raw)
        backbone = next(iter(recipe.upstream.backbones))
        nearest = section.neighbours.nearest(columns.matrix(own, backbone, recipe).mean(1))
        clips = own.select(tables.CLIPS.names).to_pylist()
        starts = own["segment_starts_s"].to_pylist()
        now = datetime.now(UTC)
        for name in recipe.ensembles:
            members = recipe.ensemble_members(name)
            combined = section.calibration.combine(name, standardized)
            whole = combined[:, 0]
            percentiles = section.calibration.percentile(name, whole)
            decisions = section.calibration.decide(name, whole)
            for i, clip in enumerate(clips):
                yield {
                    **clip,
                    "ensemble": name,
                    "score": whole[i],
                    "percentile": percentiles[i],
                    "decision": int(decisions[i]),
                    "members_raw": [(m, raw[m][i, 0]) for m in members],
                    "members": [(m, standardized[m][i, 0]) for m in members],
                    "segment_scores": combined[i, 1:],
                    "segment_starts_s": starts[i],
                    "nearest_uri": nearest[i][0],
                    "nearest_start_s": nearest[i][1],
                    "section_digest": self._bundle.digests[key],
                    "bundle_id": self._bundle.bundle_id,
                    "run_id": self._run_id,
                    "scored_at": now,
                    "night": self._night,
                }

    def _rejection(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            **{name: row[name] for name in (*tables.CLIPS.names, "reason", "detail")},
            "section_digest": self._digest(row),
            "run_id": self._run_id,
            "night": self._night,
        }

    def _digest(self, row: dict[str, Any]) -> str:
        return self._bundle.digests.get((row["machine_type"], row["section"]), "")
