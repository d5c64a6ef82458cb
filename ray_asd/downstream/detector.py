"""What every detector does, the kinds there are, and a detector's use on clips."""

from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from ray_asd import recipe
from ray_asd.downstream.centroids import with_source_centroids

Points = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]


class Detector(Protocol):
    """A fitted detector: scores any point, higher = more anomalous.

    It is arrays and JSON, and scores to the same digit when restored from them.
    """

    def score(self, points: Points) -> Points:
        """Anomaly scores (m,) of points (m, d), each the same whatever the others are."""
        ...

    def arrays(self) -> Arrays:
        """The arrays that it consists of."""
        ...

    def meta(self) -> dict[str, Any]:
        """What it consists of beside arrays, fit for JSON; its ``kind`` is among it."""
        ...


class Kind(Detector, Protocol):
    """A class of detectors that a recipe can ask for."""

    kind: ClassVar[str]

    @classmethod
    def fit(cls, points: Points, settings: Any, seed: int) -> Self:
        """Fit to finite points (n, d), n at least 1; ``settings`` is the kind's own model."""
        ...

    @classmethod
    def restore(cls, arrays: Arrays, meta: dict[str, Any]) -> Self:
        """The detector of these arrays and this meta."""
        ...


_KINDS: dict[str, type[Kind]] = {}


def register(detector: type[Kind], settings: type[recipe.Detector] | None = None) -> None:
    """Make a kind of detector known under its ``kind``, to recipes too by its settings model.

    A package outside this one adds its own detector so, before it loads a recipe that names it.

    Raises:
        ValueError: another class has this kind already.
    """
    if _KINDS.setdefault(detector.kind, detector) is not detector:
        raise ValueError(f"there is another detector of the kind {detector.kind}")
    if settings is not None:
        recipe.DETECTORS[detector.kind] = settings


def kinds() -> list[str]:
    """Names of the kinds of detectors that are known.

    >>> kinds()
    ['gmm', 'knn', 'lof']
    """
    return sorted(_KINDS)


def fit(
    points: Points, domains: npt.NDArray[Any], settings: recipe.Detector, *, seed: int = 0
) -> Detector:
    """Fit a detector of the settings' kind.

    The order of the points does not matter, to the last digit.

    Args:
        points: (n, d), normal.
        domains: (n,), the domain of each.
        settings: the detector's settings.
        seed: of what a kind draws at random.

    Raises:
        ValueError: there are no points, or they are not finite.

    >>> settings = recipe.load("first_shot").downstream.detectors["knn"]
    >>> normal = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn = fit(normal, np.array(["source", "target"]), settings)
    >>> knn.score(np.array([[2.0, 0.0], [-1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    points = _checked(points)
    if len(points) == 0:
        raise ValueError("there are no points to fit a detector on")
    order = _canonical(points, domains)
    points, domains = points[order], domains[order]
    if settings.source_centroids:
        points, domains = with_source_centroids(
            points, domains, settings.source_centroids, settings.metric, seed
        )
    detector = _KINDS[settings.kind]
    if settings.domain_wise and len(np.unique(domains)) > 1:
        parts: dict[str, Detector] = {
            str(name): detector.fit(points[domains == name], settings, seed)
            for name in np.unique(domains)
        }
        return DomainWise(parts)
    return detector.fit(points, settings, seed)


def restore(arrays: Arrays, meta: dict[str, Any]) -> Detector:
    """The detector that ``arrays()`` and ``meta()`` were taken from."""
    if meta["kind"] == DomainWise.kind:
        return DomainWise.restore(arrays, meta)
    return _KINDS[meta["kind"]].restore(arrays, meta)


def score_clips(
    detector: Detector, settings: recipe.Detector, embeddings: npt.NDArray[np.float32]
) -> tuple[Points, Points]:
    """Scores of clips (m,) and of their segments (m, S).

    A clip's score is that of its mean embedding where ``per`` is clip, and the mean or the
    maximum of its segments' scores where it is segment.

    Args:
        detector: fitted with ``settings``.
        settings: the detector's settings.
        embeddings: (m, S, d).

    Raises:
        ValueError: an embedding is not finite.
    """
    clips, segments, width = embeddings.shape
    points = _checked(embeddings.astype(np.float64).reshape(-1, width))
    if settings.per == "clip":
        # In one go with the segments: a few queries cost a search nearly what many do.
        points = np.concatenate([points, points.reshape(embeddings.shape).mean(axis=1)])
    scores = detector.score(points)
    of_segments = scores[: clips * segments].reshape(clips, segments)
    if settings.per == "clip":
        return scores[clips * segments :], of_segments
    pooled = of_segments.mean(axis=1) if settings.pool == "mean" else of_segments.max(axis=1)
    return pooled, of_segments


class DomainWise:
    """One detector per domain; the score is the least of theirs."""

    kind: ClassVar[str] = "domain_wise"

    def __init__(self, parts: dict[str, Detector]) -> None:
        self._parts = parts

    def score(self, points: Points) -> Points:
        """Scores (m,) of points (m, d)."""
        least: Points = np.min([part.score(points) for part in self._parts.values()], axis=0)
        return least

    def arrays(self) -> Arrays:
        """The parts' arrays, named ``domain/array``."""
        return {
            f"{name}/{key}": array
            for name, part in self._parts.items()
            for key, array in part.arrays().items()
        }

    def meta(self) -> dict[str, Any]:
        """The parts' metas by domain."""
        parts = {name: part.meta() for name, part in self._parts.items()}
        return {"kind": self.kind, "parts": parts}

    @classmethod
    def restore(cls, arrays: Arrays, meta: dict[str, Any]) -> Self:
        """From :meth:`arrays` and :meth:`meta`."""
        return cls(
            {
                name: restore(
                    {
                        key.removeprefix(f"{name}/"): array
                        for key, array in arrays.items()
                        if key.startswith(f"{name}/")
                    },
                    part,
                )
                for name, part in meta["parts"].items()
            }
        )


def _canonical(points: Points, domains: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """An order that is the same in whichever order the points come."""
    order = np.argsort(domains.astype(str), kind="stable")
    # By the rows' bytes: any order will do, and a lexical one of 128 columns takes seconds.
    rows = np.ascontiguousarray(points[order]).view(f"V{8 * points.shape[1]}").ravel()
    return order[np.argsort(rows, kind="stable")]


def _checked(points: Points) -> Points:
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"an embedding is not finite: row {row} of {len(points)}")
    return points
