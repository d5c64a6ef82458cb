"""Scores → the official figures."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ray_asd import challenge, metrics, scores
from ray_asd import ensemble as ensembles
from ray_asd.archive import store
from ray_asd.errors import BadInput

Standardize = Literal["reference", "batch"]


def evaluate(
    scores_uri: str,
    *,
    ground_truth: str | None = None,
    ensemble: str | None = None,
    year: int = 2023,
    members: bool = False,
    standardize: Standardize = "reference",
    strict: bool = False,
) -> dict[str, Any]:
    """Compute the official figures of a scores table, or of a folder of challenge CSVs.

    Args:
        scores_uri: what ``ray-asd score`` wrote, or a folder of ``anomaly_score_….csv``.
        ground_truth: the official evaluator's ground truth, for CSVs whose names hold no labels.
        ensemble: which ensemble is evaluated; the first by name if None.
        year: whose challenge's definition holds.
        members: also evaluate each member's own standardized score.
        standardize: ``batch`` standardizes by the test clips' own scores, section by section, as
            challenge entries did: to compare with, for a score then depends on its company.
        strict: a section that cannot be evaluated is an error.

    Returns:
        ``official_score``, ``means``, ``machines`` and more, as in
        :meth:`ray_asd.metrics.Evaluation.to_dict`; ``members`` where asked for.

    Raises:
        BadInput: no scores there, no labelled test clips, or ``strict`` and a section is left
            out.

    >>> from pathlib import Path
    >>> Path("entry").mkdir()
    >>> names = [f"section_00_{domain}_test_{label}_0000"
    ...          for label in ("normal", "anomaly") for domain in ("source", "target")]
    >>> rows = [f"{name}.wav,{score}" for name, score in zip(names, (0.1, 0.4, 0.3, 0.8))]
    >>> _ = Path("entry/anomaly_score_fan_section_00_test.csv").write_text("\\n".join(rows))
    >>> evaluate("entry")["means"]["auc_target"]
    0.5
    """
    if year not in metrics.YEARS:
        raise BadInput(f"--year {year}: there are {', '.join(map(str, metrics.YEARS))}")
    result: dict[str, Any]
    if not store.exists(store.join(scores_uri, "scores")):
        rows = challenge.read_challenge_scores(scores_uri, ground_truth)
        evaluation = metrics.evaluate(rows, year)
        result = evaluation.to_dict()
    else:
        table = _labelled(test_clips(scores_uri, ensemble), scores_uri)
        record = scores.read_run(scores_uri, table["run_id"][0].as_py()) or {}
        if standardize == "batch":
            rows = _rows(table, _by_batch(table, record, scores_uri), decided=False)
            evaluation = metrics.evaluate(rows, year)
        else:
            # The false-alarm rate that the run aimed at, where its record is still there.
            rows = _rows(table, table["score"].to_pylist())
            evaluation = metrics.evaluate(rows, year, record.get("false_alarm_rate"))
        result = {**evaluation.to_dict(), "ensemble": table["ensemble"][0].as_py()}
        if members:
            by_member = [dict(row) for row in table["members"].to_pylist()]
            result["members"] = {
                member: metrics.evaluate(
                    _rows(table, [row[member] for row in by_member]), year
                ).to_dict()
                for member in by_member[0]
            }
    if strict and evaluation.warnings:
        raise BadInput(f"{scores_uri}: {evaluation.warnings[0]}")
    return result


def test_clips(uri: str, ensemble: str | None) -> pa.Table:
    """One ensemble's rows of the test split; those of the first by name if None.

    Raises:
        BadInput: none of them is there.
    """
    table = scores.read_scores(uri, ensemble=ensemble)
    if ensemble is None and table.num_rows:
        first = min(table["ensemble"].unique().to_pylist())
        table = table.filter(pa.array([e == first for e in table["ensemble"].to_pylist()]))
    table = table.filter(pa.array([split == "test" for split in table["split"].to_pylist()]))
    if not table.num_rows:
        raise BadInput(f"{uri}: holds no scores of the split test; nothing to evaluate")
    return table


def _labelled(table: pa.Table, uri: str) -> pa.Table:
    """The same rows.

    Raises:
        BadInput: none of them has a label.
    """
    if set(table["label"].to_pylist()) == {"unknown"}:
        raise BadInput(
            f"{uri}: none of its {table.num_rows} test clips has a label; "
            "the official figures need labels in the recordings' names"
        )
    return table


def _rows(table: pa.Table, values: list[float], decided: bool = True) -> metrics.Rows:
    machine_type, section, domain, label = (
        np.array(table[name].to_pylist()) for name in ("machine_type", "section", "domain", "label")
    )
    return metrics.Rows(
        machine_type,
        section,
        domain,
        label,
        score=np.array(values, np.float64),
        decision=np.array(table["decision"].to_pylist(), np.int8) if decided else None,
    )


def _by_batch(table: pa.Table, record: dict[str, Any], uri: str) -> list[float]:
    """The ensemble's scores with the members standardized by these very clips.

    Raises:
        BadInput: the run's record, which says how members are combined, is gone.
    """
    how = record.get("combine", {}).get(table["ensemble"][0].as_py())
    if how is None:
        raise BadInput(f"{uri}: runs/ does not say how its members are combined; score anew")
    raw = [dict(row) for row in table["members_raw"].to_pylist()]
    keys = list(zip(table["machine_type"].to_pylist(), table["section"].to_pylist(), strict=True))
    scores_of = np.empty(len(keys))
    for key in set(keys):
        rows = [i for i, other in enumerate(keys) if other == key]
        columns = [np.array([raw[i][member] for i in rows]) for member in raw[rows[0]]]
        standardized = [ensembles.Standard.of(column).apply(column) for column in columns]
        scores_of[rows] = ensembles.combine(standardized, how)
    return list(scores_of)
