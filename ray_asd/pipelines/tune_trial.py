"""One trial of a sweep: fit one detector's setting to every section, and score. Light: no torch.

Two objectives are measured. The labelled one is the official score of the test clips. The
label-free one is the same figure of normal clips alone: a section's normals are its reference
scores (of clips that neither encoder nor detector has seen), its anomalies as many
pseudo-anomalies, each the embedding of such a clip mixed with a little of another machine type's
normal clip and scored by the same detector. Whole clips of other machine types would not do: every
detector tells them apart, for the encoder was trained to. A setting does well where small steps
towards other sounds stand out from what normal clips, seen for the first time, vary by, in both
domains. Sections of few normal clips make no pseudo-anomalies: one AUC of 0 of one clip would
drown the harmonic mean.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from ray_asd import metrics
from ray_asd.bundle import Key
from ray_asd.downstream import ReferenceSet, score_clips
from ray_asd.ensemble import Standard
from ray_asd.pipelines import fit_section
from ray_asd.pipelines.tune_space import Trial
from ray_asd.recipe import Recipe

Embeddings = npt.NDArray[np.float32]
Figures = dict[str, float | None]

TEST, UNSEEN = "test", "unseen"
"""What a row of a trial's scores is of: a labelled test clip, or a normal clip of the training
split or its pseudo-anomaly."""

SCORES = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in ("of", "machine_type", "section", "domain", "label")
    ]
    + [pa.field("score", pa.float64(), nullable=False)]
)
"""A trial's scores, in standard deviations above normal."""


@dataclass(frozen=True)
class Clips:
    """One section's clips, embedded by one backbone; S segments, d dimensions."""

    reference: ReferenceSet
    """n normal clips of the training split."""
    pseudo_anomalies: Embeddings
    """(n, S, d), made of the normal clip of the same row; or (0, S, d)."""
    tests: Embeddings
    """(m, S, d), labelled."""
    domains: npt.NDArray[Any]
    """(m,), of the test clips."""
    labels: npt.NDArray[Any]
    """(m,), normal or anomaly."""


def pseudo_anomalies(
    references: dict[Key, ReferenceSet], key: Key, share: float, seed: int, fewest: int
) -> Embeddings:
    """A pseudo-anomaly (n, S, d) for each of a section's n normal clips.

    (1 − share) · clip + share · a normal clip of another machine type, drawn by the seed and the
    section: the same clips for every backbone. None where there is no other machine type, or
    where n is below ``fewest``.
    """
    own = references[key].embeddings
    others = [r.embeddings for (machine, _), r in sorted(references.items()) if machine != key[0]]
    if not others or len(own) < fewest:
        return own[:0]
    pool = np.concatenate(others)
    digest = hashlib.sha256(f"{seed}\n{key[0]}\n{key[1]}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    partners = pool[random.integers(len(pool), size=len(own))]
    return ((1 - share) * own + share * partners).astype(np.float32)


def run(trial: Trial, base: Recipe, sections: dict[Key, Clips]) -> tuple[pa.Table, Figures]:
    """The trial's scores (:data:`SCORES`) over all sections, and its figures.

    Figures: ``official_score``, ``auc_source``, ``auc_target`` and ``pauc`` of the test clips,
    and ``label_free``; None where they cannot be computed.

    Raises:
        BadInput, ValueError: a section that the setting cannot be fitted to.
    """
    recipe = trial.recipe(base)
    with threadpool_limits(1):
        parts = [_section(key, clips, trial, recipe) for key, clips in sorted(sections.items())]
    table = pa.concat_tables(parts)
    evaluation = metrics.evaluate(rows(table, TEST))
    unseen = rows(table, UNSEEN)
    return table, {
        "official_score": evaluation.official_score,
        **{name: evaluation.means[name] for name in ("auc_source", "auc_target", "pauc")},
        "label_free": metrics.evaluate(unseen, definition(unseen)).official_score,
    }


def rows(table: pa.Table, of: str) -> metrics.Rows:
    """A trial's test clips, or its unseen normals and pseudo-anomalies, for the metrics."""
    own = table.filter(pa.array([kind == of for kind in table["of"].to_pylist()], pa.bool_()))
    machine_type, section, domain, label = (
        np.array(own[name].to_pylist(), dtype=np.str_)
        for name in ("machine_type", "section", "domain", "label")
    )
    return metrics.Rows(machine_type, section, domain, label, own["score"].to_numpy(), None)


def definition(unseen: metrics.Rows) -> int:
    """The year whose definition fits: 2020's, which knows no domains, where no section has both."""
    both: dict[tuple[str, str], set[str]] = {}
    for machine, section, domain in zip(
        unseen.machine_type, unseen.section, unseen.domain, strict=True
    ):
        both.setdefault((machine, section), set()).add(domain)
    return 2023 if any({*metrics.DOMAINS} <= domains for domains in both.values()) else 2020


def _section(key: Key, clips: Clips, trial: Trial, recipe: Recipe) -> pa.Table:
    reference, settings = clips.reference, trial.detector
    splits = fit_section.plan(reference, recipe)
    made = [clips.pseudo_anomalies] if len(clips.pseudo_anomalies) else []
    normal, *pseudo = fit_section.unseen_scores(
        key, reference, splits, settings, recipe, [reference.embeddings, *made]
    )
    standard = Standard.of(normal)
    domains = np.concatenate([reference.domains[split.score] for split in splits.splits])
    parts = [SCORES.empty_table()]
    for scores in pseudo:
        parts.append(_rows(key, UNSEEN, domains, "normal", standard.apply(normal)))
        parts.append(_rows(key, UNSEEN, domains, "anomaly", standard.apply(scores)))
    if len(clips.tests):
        detector = fit_section.fit_member(key, reference, settings, recipe)
        scores, _ = score_clips(detector, settings, clips.tests)
        parts.append(_rows(key, TEST, clips.domains, clips.labels, standard.apply(scores)))
    return pa.concat_tables(parts)


def _rows(
    key: Key, of: str, domains: npt.NDArray[Any], labels: Any, scores: npt.NDArray[np.float64]
) -> pa.Table:
    n = len(scores)
    columns = [[of] * n, [key[0]] * n, [key[1]] * n, domains, np.broadcast_to(labels, n), scores]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCORES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCORES)
