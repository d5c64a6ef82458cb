"""The figures of DCASE Challenge Task 2, year by year as the official evaluators compute them.

====  ==========================================  =====================================
year  figures of a (machine type, section)        over all
====  ==========================================  =====================================
2020  AUC and pAUC of all clips; no domains       arithmetic means
2021  AUC and pAUC of each domain's clips apart   harmonic means over sections, domains
2022  AUC of a domain's normal clips against the  harmonic means over sections;
      section's anomalies of both; pAUC of all    official score over all three figures
2023  as 2022, of new machine types with one      as 2022
–25   section each
====  ==========================================  =====================================

pAUC is over false-positive rates up to 0.1, standardized as in D. McClish, 1989 (scikit-learn's
``max_fpr``). Sources, each with its official evaluator: 2020 arXiv:2006.05822
(y-kawagu/dcase2020_task2_evaluator); 2021 arXiv:2106.04492 (y-kawagu/dcase2021_task2_evaluator);
2022 arXiv:2206.05876 (Kota-Dohi/dcase2022_evaluator); 2023 arXiv:2305.07828
(nttcslab/dcase2023_task2_evaluator); 2024 arXiv:2406.07250 (nttcslab/dcase2024_task2_evaluator);
2025 arXiv:2506.10097. 2020 and 2021 had no official score of one system alone (2020 ranked
teams): the mean over all AUC and pAUC, of the year's kind, stands in its place.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import roc_auc_score

YEARS = (2020, 2021, 2022, 2023, 2024, 2025)
DOMAINS = ("source", "target")
_MAX_FPR = 0.1

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Rows:
    """Scored test clips, one a row; each array (n,).

    Raises:
        ValueError: the lengths differ, or a score is not finite.
    """

    machine_type: npt.NDArray[Any]
    section: npt.NDArray[Any]
    domain: npt.NDArray[Any]
    """source, target or unknown."""
    label: npt.NDArray[Any]
    """normal, anomaly or unknown."""
    score: npt.NDArray[np.float64]
    """Higher = more anomalous."""
    decision: npt.NDArray[np.int8] | None
    """1 where an anomaly was called; None where no decisions were taken."""

    def __post_init__(self) -> None:
        columns = [self.machine_type, self.section, self.domain, self.label]
        columns += [] if self.decision is None else [self.decision]
        if any(len(column) != len(self.score) for column in columns):
            raise ValueError("the columns differ in length")
        if not np.isfinite(self.score).all():
            raise ValueError(f"row {int(np.argmin(np.isfinite(self.score)))}: no finite score")

    def select(self, rows: npt.NDArray[np.bool_]) -> "Rows":
        """The rows of a mask (n,)."""
        return Rows(
            self.machine_type[rows],
            self.section[rows],
            self.domain[rows],
            self.label[rows],
            self.score[rows],
            None if self.decision is None else self.decision[rows],
        )


@dataclass(frozen=True)
class Section:
    """The figures of one (machine type, section); None where one cannot be computed."""

    figures: Figures
    """AUCs, pAUC, and precision, recall and F1 of each domain."""
    clips: dict[str, int]
    """Clips in all, and by domain and label."""
    reason: str | None
    """Why a figure is None."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one system under one year's definition."""

    year: int
    official_score: float | None
    means: Figures
    """Of each figure over the sections that have all of the official score's."""
    machines: dict[str, dict[str, Section]]
    false_alarms: dict[str, float | None]
    """Share of normal clips that were called anomalies, by domain and in all, and as aimed at."""
    warnings: tuple[str, ...]
    """One line for each section left out, and why."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON, in the form of ``ray-asd evaluate --json``; null where there is no figure."""
        return {
            "year": self.year,
            "official_score": self.official_score,
            "means": self.means,
            "machines": {
                machine: {
                    name: {**section.figures, **section.clips, "reason": section.reason}
                    for name, section in sections.items()
                }
                for machine, sections in self.machines.items()
            },
            "false_alarms": self.false_alarms,
            "warnings": list(self.warnings),
        }


def evaluate(rows: Rows, year: int = 2023, false_alarm_rate: float | None = None) -> Evaluation:
    """Compute every figure of ``rows`` as the given year's challenge defines it.

    A section that lacks a class or a domain is left out of the means and of the official
    score, with a warning.

    Args:
        rows: the scored test clips.
        year: one of :data:`YEARS`.
        false_alarm_rate: the share of false alarms that was aimed at, to stand beside those
            that were reached.

    Raises:
        ValueError: an unknown year.

    >>> rows = Rows(
    ...     machine_type=np.array(["fan"] * 4),
    ...     section=np.array(["00"] * 4),
    ...     domain=np.array(["source", "target", "source", "target"]),
    ...     label=np.array(["normal", "normal", "anomaly", "anomaly"]),
    ...     score=np.array([0.1, 0.4, 0.3, 0.8]),
    ...     decision=None,
    ... )
    >>> evaluate(rows).means["auc_source"], evaluate(rows).means["auc_target"]
    (1.0, 0.5)
    """
    if year not in YEARS:
        raise ValueError(f"no definition of {year}; there are {', '.join(map(str, YEARS))}")
    definition = _DEFINITIONS[min(year, max(_DEFINITIONS))]
    machines: dict[str, dict[str, Section]] = {}
    whole, warnings = [], []
    for machine, name in sorted(set(zip(rows.machine_type, rows.section, strict=True))):
        own = rows.select((rows.machine_type == machine) & (rows.section == name))
        section = _section(own, definition)
        machines.setdefault(str(machine), {})[str(name)] = section
        if section.reason is None:
            whole.append(section.figures)
        else:
            warnings.append(f"{machine} section {name} is left out: {section.reason}")
    means = {
        key: definition.mean([figures[key] for figures in whole])
        for key in definition.figures(rows.select(np.zeros(len(rows.score), dtype=np.bool_)))[0]
    }
    return Evaluation(
        year=year,
        official_score=definition.mean([f[key] for f in whole for key in definition.scored]),
        means=means,
        machines=machines,
        false_alarms=_false_alarms(rows, false_alarm_rate),
        warnings=tuple(warnings),
    )


def _section(rows: Rows, definition: "_Definition") -> Section:
    labelled = rows.select(np.isin(rows.label, ("normal", "anomaly")))
    figures, reasons = definition.figures(labelled)
    clips = {"n": len(rows.score), "n_unlabelled": len(rows.score) - len(labelled.score)}
    for domain in DOMAINS:
        for label in ("normal", "anomaly"):
            there = (labelled.domain == domain) & (labelled.label == label)
            clips[f"n_{domain}_{label}"] = int(np.count_nonzero(there))
    return Section(figures, clips, "; ".join(dict.fromkeys(reasons)) or None)


def _figures_2020(rows: Rows) -> tuple[Figures, list[str]]:
    auc, pauc, reasons = _curve(rows, rows, "", "")
    figures: Figures = {"auc_source": None, "auc_target": None, "pauc": pauc, "auc": auc}
    return figures, reasons


def _figures_2021(rows: Rows) -> tuple[Figures, list[str]]:
    figures: Figures = {}
    reasons: list[str] = []
    for domain in DOMAINS:
        own = rows.select(rows.domain == domain)
        of = f" of the {domain} domain"
        auc, pauc, why = _curve(own, own, of, of)
        figures |= {f"auc_{domain}": auc, f"pauc_{domain}": pauc, **_decisions(own, domain)}
        reasons += why
    both = [figures["pauc_source"], figures["pauc_target"]]
    figures["pauc"] = None if None in both else _harmonic(both)
    return figures, reasons


def _figures_2022(rows: Rows) -> tuple[Figures, list[str]]:
    figures: Figures = {}
    reasons: list[str] = []
    for domain in DOMAINS:
        own = rows.select(rows.domain == domain)
        figures[f"auc_{domain}"], _, why = _curve(own, rows, f" of the {domain} domain", "")
        figures |= _decisions(own, domain)
        reasons += why
    figures["auc"], figures["pauc"], why = _curve(rows, rows, "", "")
    return figures, reasons + why


def _curve(
    normals: Rows, anomalies: Rows, of_normals: str, of_anomalies: str
) -> tuple[float | None, float | None, list[str]]:
    """AUC and pAUC of the normal clips of the one against the anomalies of the other."""
    low = normals.score[normals.label == "normal"]
    high = anomalies.score[anomalies.label == "anomaly"]
    reasons = [] if len(low) else [f"no normal test clips{of_normals}"]
    if not len(high):
        reasons.append(f"no anomalous test clips{of_anomalies}")
    if reasons:
        return None, None, reasons
    truth = np.repeat([0, 1], [len(low), len(high)])
    scores = np.concatenate([low, high])
    return (
        float(roc_auc_score(truth, scores)),
        float(roc_auc_score(truth, scores, max_fpr=_MAX_FPR)),
        [],
    )


def _decisions(rows: Rows, domain: str) -> Figures:
    """Precision, recall and F1 of one domain's clips, with the evaluator's guard against 0/0."""
    names = (f"precision_{domain}", f"recall_{domain}", f"f1_{domain}")
    if rows.decision is None or len(np.unique(rows.label)) < 2:
        return dict.fromkeys(names)
    called, anomalous = rows.decision == 1, rows.label == "anomaly"
    hits = float(np.sum(called & anomalous))
    precision = hits / max(float(np.sum(called)), sys.float_info.epsilon)
    recall = hits / max(float(np.sum(anomalous)), sys.float_info.epsilon)
    f1 = 2 * precision * recall / max(precision + recall, sys.float_info.epsilon)
    return dict(zip(names, (precision, recall, f1), strict=True))


def _false_alarms(rows: Rows, aimed: float | None) -> Figures:
    reached: Figures = {"aimed": aimed}
    for domain in (*DOMAINS, "all"):
        normals = rows.select(
            (rows.label == "normal") & ((rows.domain == domain) | (domain == "all"))
        )
        empty = normals.decision is None or len(normals.decision) == 0
        reached[domain] = None if empty else float(np.mean(normals.decision == 1))
    return reached


def _harmonic(figures: Sequence[float | None]) -> float | None:
    """Harmonic mean of those there are, as the evaluators take it: zeros raised to an epsilon."""
    there = [figure for figure in figures if figure is not None]
    return float(stats.hmean(np.maximum(there, sys.float_info.epsilon))) if there else None


def _arithmetic(figures: Sequence[float | None]) -> float | None:
    there = [figure for figure in figures if figure is not None]
    return float(np.mean(there)) if there else None


@dataclass(frozen=True)
class _Definition:
    """What one year measures on a section, which figures make its score, and their mean."""

    figures: Callable[[Rows], tuple[Figures, list[str]]]
    scored: tuple[str, ...]
    mean: Callable[[Sequence[float | None]], float | None]


_DEFINITIONS = {
    2020: _Definition(_figures_2020, ("auc", "pauc"), _arithmetic),
    2021: _Definition(
        _figures_2021, ("auc_source", "auc_target", "pauc_source", "pauc_target"), _harmonic
    ),
    2022: _Definition(_figures_2022, ("auc_source", "auc_target", "pauc"), _harmonic),
}
