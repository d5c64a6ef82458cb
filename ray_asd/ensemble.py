"""From detectors' raw scores to one score, a percentile and a decision.

Everything is measured against reference scores: those of normal clips that neither the encoder
nor the detector that scored them has seen (:func:`plan`). So a recording's score never
depends on what else is in its batch.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ray_asd.recipe import Recipe

Scores = npt.NDArray[np.float64]
Combine = Literal["mean", "min", "max"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A detector is fitted on the clips of one mask (n,), and scores those of the other."""

    fit: npt.NDArray[np.bool_]
    score: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """The splits that give every reference score, and what to tell the user about them."""

    splits: tuple[Split, ...]
    warning: str | None


def plan(
    uris: npt.NDArray[Any],
    domains: npt.NDArray[Any],
    held_out: npt.NDArray[np.bool_],
    *,
    reference: str,
    folds: int,
    fewest_held_out: int,
) -> Plan:
    """Decide which clips' scores standardize a section, and which clips score them.

    With enough held-out clips: a detector on the others scores them. Else all clips, in folds,
    with a warning, for the encoder has heard most of them. Where the reference set is the
    held-out clips themselves, those in folds. Folds are dealt by the hash of the uri within
    each domain, all clips of a recording into one; the order of the clips does not matter.

    Args:
        uris: (n,), n at least 1.
        domains: (n,).
        held_out: (n,), true where the encoder never trained on the clip.
        reference: the setting ``downstream.reference``.
        folds: the setting ``downstream.folds``.
        fewest_held_out: the setting ``downstream.fewest_held_out``.
    """
    enough = np.count_nonzero(held_out) >= fewest_held_out
    if enough and reference != "held_out" and not held_out.all():
        return Plan((Split(~held_out, held_out),), None)
    rows = held_out if enough else np.ones(len(uris), dtype=np.bool_)
    warning = None
    if not enough and held_out.all():
        warning = f"{len(uris)} normal clips are few to tell the spread of their scores by"
    elif not enough:
        warning = (
            f"only {np.count_nonzero(held_out)} of {len(uris)} normal clips are held out, fewer "
            f"than {fewest_held_out}: all are scored in folds, and the encoder trained on most"
        )
    fold = _folds(uris, domains, rows, folds)
    numbers = np.unique(fold[rows])
    if len(numbers) == 1:
        warning = (
            "all normal clips are of one recording: they are scored by detectors fitted on "
            "themselves, and neither score nor threshold can be trusted"
        )
        return Plan((Split(rows, rows),), warning)
    splits = tuple(Split(rows & (fold != number), rows & (fold == number)) for number in numbers)
    return Plan(splits, warning)


def _folds(
    uris: npt.NDArray[Any], domains: npt.NDArray[Any], rows: npt.NDArray[np.bool_], folds: int
) -> npt.NDArray[np.int64]:
    domain_of = {str(uris[i]): str(domains[i]) for i in np.flatnonzero(rows)}

    def place(uri: str) -> tuple[str, bytes, str]:
        # By the file's name: moving the archive changes nothing.
        name = uri.rpartition("/")[2]
        return domain_of[uri], hashlib.sha256(name.encode()).digest(), uri

    order = sorted(domain_of, key=place)
    # One deal through the domains, so that no fold is left empty while another holds two.
    fold_of = {uri: i % folds for i, uri in enumerate(order)}
    return np.array([fold_of.get(str(uri), -1) for uri in uris])


@dataclass(frozen=True)
class Standard:
    """A member's mean and standard deviation over reference scores."""

    mean: float
    std: float

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Of scores in any shape, at least one.

        Where they do not vary beyond rounding, the standard deviation is taken as 1, as
        scikit-learn's StandardScaler does.

        Raises:
            ValueError: a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError("a reference score is not finite")
        eps = float(np.finfo(np.float64).eps)
        mean, std = float(np.mean(scores)), float(np.std(scores))
        return cls(mean, std if std > 10 * eps * max(abs(mean), eps) else 1.0)

    def apply(self, scores: Scores) -> Scores:
        """Scores of any shape in standard deviations above the mean."""
        standardized: Scores = (scores - self.mean) / self.std
        return standardized


@dataclass(frozen=True)
class Reference:
    """One ensemble: its members, and its own scores of the reference clips."""

    members: tuple[str, ...]
    combine: Combine
    scores: Scores
    """(n,), ascending."""
    threshold: float


@dataclass(frozen=True)
class Calibration:
    """What turns the raw scores of one (machine type, section) into the ensembles' scores."""

    members: dict[str, Standard]
    ensembles: dict[str, Reference]

    def standardize(self, raw: Mapping[str, Scores]) -> dict[str, Scores]:
        """Members' scores in standard deviations above normal, in the shape that they come in."""
        return {name: self.members[name].apply(scores) for name, scores in raw.items()}

    def combine(self, ensemble: str, standardized: Mapping[str, Scores]) -> Scores:
        """The ensemble's scores, in the shape that its members' come in."""
        reference = self.ensembles[ensemble]
        return combine([standardized[name] for name in reference.members], reference.combine)

    def percentile(self, ensemble: str, scores: Scores) -> Scores:
        """Share of reference clips that score strictly lower, 0 to 1."""
        reference = self.ensembles[ensemble].scores
        return np.searchsorted(reference, scores, side="left") / len(reference)

    def decide(self, ensemble: str, scores: Scores) -> npt.NDArray[np.int8]:
        """1 where a score is above the ensemble's threshold, else 0."""
        return (scores > self.ensembles[ensemble].threshold).astype(np.int8)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, from which :meth:`from_dict` makes an equal one to the last digit."""
        return {
            "members": {n: {"mean": s.mean, "std": s.std} for n, s in self.members.items()},
            "ensembles": {
                name: {
                    "members": list(reference.members),
                    "combine": reference.combine,
                    "scores": reference.scores.tolist(),
                    "threshold": reference.threshold,
                }
                for name, reference in self.ensembles.items()
            },
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """From :meth:`to_dict`."""
        return cls(
            {name: Standard(s["mean"], s["std"]) for name, s in tree["members"].items()},
            {
                name: Reference(
                    tuple(r["members"]),
                    r["combine"],
                    np.array(r["scores"], dtype=np.float64),
                    r["threshold"],
                )
                for name, r in tree["ensembles"].items()
            },
        )


def calibrate(raw: Mapping[str, Scores], recipe: Recipe) -> Calibration:
    """The calibration of a section from its reference clips' raw scores.

    Args:
        raw: for each of the recipe's members the scores (n,) of the same reference clips.
        recipe: names the ensembles, their thresholds' rule and the false-alarm rate aimed at.

    Raises:
        ValueError: there are no reference clips, or a score is not finite.
    """
    if not raw or any(len(scores) == 0 for scores in raw.values()):
        raise ValueError("there are no reference scores to calibrate on")
    members = {name: Standard.of(scores) for name, scores in raw.items()}
    ensembles = {}
    for name, settings in recipe.ensembles.items():
        of = recipe.ensemble_members(name)
        scores = combine([members[m].apply(raw[m]) for m in of], settings.combine)
        threshold = None
        if settings.threshold == "gamma" and all((raw[m] > 0).all() for m in of):
            zero = combine([members[m].apply(np.zeros(1)) for m in of], settings.combine)[0]
            threshold = gamma_threshold(scores - zero, recipe.false_alarm_rate)
            threshold = None if threshold is None else threshold + zero
        if settings.threshold == "gamma" and threshold is None:
            log.warning("ensemble %s: no gamma fits; the threshold is the empirical one", name)
        if threshold is None:
            threshold = empirical_threshold(scores, recipe.false_alarm_rate)
        ensembles[name] = Reference(tuple(of), settings.combine, np.sort(scores), float(threshold))
    return Calibration(members, ensembles)


def combine(standardized: list[Scores], how: Combine) -> Scores:
    """One score from the members' standardized scores, all of one shape."""
    stacked = np.stack(standardized)
    combined: Scores = getattr(stacked, how)(axis=0)
    return combined


def empirical_threshold(scores: Scores, false_alarm_rate: float) -> float:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of n scores, or the largest where there are too few.

    A further normal clip's score exceeds it with a probability of at most the rate (split
    conformal prediction: Vovk et al., Algorithmic Learning in a Random World, 2005), which the
    plain quantile of few scores does not keep. Too few: below 1/rate − 1 scores.

    >>> empirical_threshold(np.arange(19.0), 0.1)
    17.0
    """
    # The small subtrahend keeps 70 · 0.9 = 63.000000000000007 from becoming 64.
    rank = int(np.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def gamma_threshold(scores: Scores, false_alarm_rate: float) -> float | None:
    """The 1 − rate quantile of a gamma distribution fitted to positive scores; None if none fits.

    As in the official baseline: shape, location and scale by maximum likelihood
    (``networks/base_model.py`` of dcase2023_task2_baseline_ae).
    """
    from scipy import stats  # noqa: PLC0415, slow to import, and only fitting needs it

    if not (scores > 0).all() or np.ptp(scores) == 0:
        return None
    try:
        with np.errstate(all="ignore"):
            shape, location, scale = stats.gamma.fit(scores)
    except (stats.FitError, ValueError):
        return None
    threshold = float(stats.gamma.ppf(1 - false_alarm_rate, shape, location, scale))
    return threshold if np.isfinite(threshold) else None
