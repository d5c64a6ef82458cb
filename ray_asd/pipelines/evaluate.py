"""Scores → the official figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ray_asd import challenge, metrics, scores
from ray_asd.archive import store
from ray_asd.errors import BadInput


def evaluate(
    scores_uri: str,
    *,
    ground_truth: str | None = None,
    ensemble: str | None = None,
    year: int = 2023,
    members: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Compute the official figures of a scores table, or of a folder of challenge CSVs.

    Args:
        scores_uri: what ``ray-asd score`` wrote, or a folder of ``anomaly_score_….csv``.
        ground_truth: the official evaluator's ground truth, for CSVs whose names hold no labels.
        ensemble: which ensemble is evaluated; the first by name if None.
        year: whose challenge's definition holds.
        members: also evaluate each member's own standardized score.
        strict: a section that cannot be evaluated is an error.

    Returns:
        ``official_score``, ``means``, ``machines`` and more, as in
        :meth:`ray_asd.metrics.Evaluation.to_dict`; ``members`` where asked for.

    Raises:
        BadInput: no scores there, no labelled test clips, or ``strict`` and a section is left
            out.
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
        evaluation = metrics.evaluate(
            _rows(table, table["score"].to_pylist()), year, _aimed_at(scores_uri, table)
        )
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


def _rows(table: pa.Table, values: list[float]) -> metrics.Rows:
    machine_type, section, domain, label = (
        np.array(table[name].to_pylist()) for name in ("machine_type", "section", "domain", "label")
    )
    return metrics.Rows(
        machine_type,
        section,
        domain,
        label,
        score=np.array(values, np.float64),
        decision=np.array(table["decision"].to_pylist(), np.int8),
    )


def _aimed_at(uri: str, table: pa.Table) -> float | None:
    """The false-alarm rate that the run aimed at, where its record is still there."""
    record = scores.read_run(uri, table["run_id"][0].as_py())
    return None if record is None else record.get("false_alarm_rate")
