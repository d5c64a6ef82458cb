"""Exact nearest neighbours: FAISS proposes in float32, float64 decides.

A query's answer never depends on the batch that it comes in, though FAISS's own distances do.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

Metric = Literal["cosine", "euclidean"]
Points = npt.NDArray[np.float64]
Proposed = tuple[Points, npt.NDArray[np.int64], Points]
Propose = Callable[[Points, int], Proposed]

_SPARE = 16  # candidates beyond those asked for: room for float32 to have misjudged their order
_BLOCK = 1 << 22  # float64 numbers held at once, 32 MiB

# Queries times dimensions from which FAISS multiplies matrices. Its own 128,000 is for dozens of
# threads: on the one that an actor has, measured, 40 queries of 128 dimensions take five times as
# long without. 800 is what FAISS's makers measured for one thread.
faiss.cvar.distance_compute_blas_threshold = 800


def unit(points: Points) -> Points:
    """The points (n, d) scaled to length 1; a zero vector stays zero."""
    lengths = np.sqrt((points * points).sum(axis=-1, keepdims=True))
    scaled: Points = points / np.where(lengths > 0, lengths, 1.0)
    return scaled


class Neighbours:
    """A fixed set of points (n, d), searched for the nearest to each query.

    Cosine distance is half the squared distance of the unit vectors, equal to 1 − cos without
    that form's cancellation near zero.
    """

    def __init__(self, points: Points, metric: Metric) -> None:
        self.metric = metric
        self._points = np.ascontiguousarray(unit(points) if metric == "cosine" else points)
        self._centre = self._points.mean(axis=0)
        # Both distances are blind to a shift, and float32 loses fewer digits about the centre.
        centred = self._points - self._centre
        self._radius = float(np.sqrt((centred * centred).sum(axis=1)).max())
        self._index = faiss.IndexFlatL2(points.shape[1])
        self._index.add(np.ascontiguousarray(centred, dtype=np.float32))

    def __len__(self) -> int:
        return len(self._points)

    def search(
        self, queries: Points, k: int, scale: Points | None = None
    ) -> tuple[Points, npt.NDArray[np.int64]]:
        """Distances and indices (m, k) of the k nearest points, nearest first, ties by index.

        Args:
            queries: (m, d).
            k: at most the number of points.
            scale: (n,), positive; each distance to point i is divided by ``scale[i]`` first.
        """
        if self.metric == "cosine":
            queries = unit(queries)
        return self._search(queries, k, scale)

    def each_others(self, k: int) -> tuple[Points, npt.NDArray[np.int64]]:
        """Distances and indices (n, k) of the k points nearest to each point but itself.

        k is at most the number of points less one.
        """
        distances, indices = self._search(self._points, k + 1, None)
        itself = indices == np.arange(len(self))[:, None]
        # Among more than k equals the point itself may be missing: then the last one goes.
        itself[~itself.any(axis=1), -1] = True
        shape = (len(self), k)
        return distances[~itself].reshape(shape), indices[~itself].reshape(shape)

    def _search(
        self, queries: Points, k: int, scale: Points | None
    ) -> tuple[Points, npt.NDArray[np.int64]]:
        distances = np.empty((len(queries), k))
        indices = np.empty((len(queries), k), dtype=np.int64)
        rows = max(1, _BLOCK // ((k + _SPARE) * self._points.shape[1]))
        for start in range(0, len(queries), rows):
            block = np.arange(start, min(start + rows, len(queries)))
            for propose in (self._by_faiss, self._by_product):
                block = self._settle(propose, queries, k, scale, distances, indices, block)
            for i in block:
                distances[i], indices[i] = self._by_all(queries[i : i + 1], k, scale)
        return distances, indices

    def _settle(
        self,
        propose: Propose,
        queries: Points,
        k: int,
        scale: Points | None,
        distances: Points,
        indices: npt.NDArray[np.int64],
        rows: npt.NDArray[np.intp],
    ) -> npt.NDArray[np.intp]:
        """Fill in rows of distances and indices; returns those that the proposal leaves unsure."""
        unsure = [rows[:0]]
        few = max(1, _BLOCK // len(self)) if propose == self._by_product else len(rows)
        for start in range(0, len(rows), max(1, few)):
            some = rows[start : start + few]
            near, found, sure = self._candidates(propose, queries[some], k, scale)
            if sure.any():
                settled = some[sure]
                distances[settled], indices[settled] = self._nearest(
                    queries[settled], np.sort(found[sure, :near], axis=1), k, scale
                )
            unsure.append(some[~sure])
        return np.concatenate(unsure)

    def _candidates(
        self, propose: Propose, queries: Points, k: int, scale: Points | None
    ) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """How many of the proposed points (m, c) are needed, these in order, and whether enough.

        Enough: every point that is not proposed is farther than the k nearest of those that are,
        whatever the rounding.
        """
        wanted = min(k + _SPARE, len(self))
        rough, found, error = propose(queries - self._centre, wanted)
        low, high = self._bounds(rough, error[:, None], None if scale is None else scale[found])
        kth = np.partition(high, k - 1, axis=1)[:, k - 1]
        rest = self._metric(np.maximum(rough.max(axis=1) - error, 0))
        if scale is not None:
            rest = rest / scale.max()
        # FAISS leaves -1 where float32 overflows; a NaN leaves the comparison false.
        sure = (found.min(axis=1) >= 0) & ((kth < rest) | (wanted == len(self)))
        near = int((low[sure] <= kth[sure, None]).sum(axis=1).max(initial=k))
        return near, np.take_along_axis(found, np.argsort(low, axis=1), axis=1), sure

    def _by_faiss(self, centred: Points, wanted: int) -> Proposed:
        """Squared distances (m, c) by float32, their points, and what they may be off by (m,)."""
        rough, found = self._index.search(np.ascontiguousarray(centred, np.float32), wanted)
        return rough.astype(np.float64), found, self._error(centred, np.float32)

    def _by_product(self, centred: Points, wanted: int) -> Proposed:
        """The same by float64's matrix product and its far smaller error."""
        rough = self._products(centred)
        found = np.argpartition(rough, wanted - 1, axis=1)[:, :wanted]
        return np.take_along_axis(rough, found, axis=1), found, self._error(centred, np.float64)

    def _by_all(
        self, query: Points, k: int, scale: Points | None
    ) -> tuple[Points, npt.NDArray[np.int64]]:
        """The k nearest of one query (1, d), with as many candidates as it takes."""
        centred = query - self._centre
        error = self._error(centred, np.float64)[:, None]
        low, high = self._bounds(self._products(centred), error, scale)
        kth = np.partition(high, k - 1, axis=1)[:, k - 1]
        distances, indices = self._nearest(query, np.flatnonzero(low[0] <= kth)[None, :], k, scale)
        return distances[0], indices[0]

    def _products(self, centred: Points) -> Points:
        points, squares = self._centred
        squared: Points = squares - 2 * (centred @ points.T)
        squared += (centred * centred).sum(axis=1)[:, None]
        return squared

    @cached_property
    def _centred(self) -> tuple[Points, Points]:
        """The points (n, d) about their centre, and their squared lengths (n,).

        Kept once float32 has left a query unsure: measured, to make them anew for every block
        of queries took longer than the search.
        """
        points = self._points - self._centre
        return points, (points * points).sum(axis=1)

    def _nearest(
        self,
        queries: Points,
        candidates: npt.NDArray[np.int64],
        k: int,
        scale: Points | None,
    ) -> tuple[Points, npt.NDArray[np.int64]]:
        """The k nearest of each query's candidates (m, c), these in ascending order."""
        difference = queries[:, None, :] - self._points[candidates]
        exact = self._metric((difference * difference).sum(axis=-1))
        if scale is not None:
            exact = exact / scale[candidates]
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        return (
            np.take_along_axis(exact, order, axis=1),
            np.take_along_axis(candidates, order, axis=1),
        )

    def _bounds(
        self, squared: Points, error: Points, scale: Points | None
    ) -> tuple[Points, Points]:
        """Least and greatest distances that squared ones within an error of these stand for."""
        low = self._metric(np.maximum(squared - error, 0))
        high = self._metric(np.maximum(squared + error, 0))
        return (low, high) if scale is None else (low / scale, high / scale)

    def _metric(self, squared: Points) -> Points:
        distances: Points = np.sqrt(squared) if self.metric == "euclidean" else squared / 2
        return distances

    def _error(self, centred: Points, kind: type[np.floating[Any]]) -> Points:
        """What a squared distance computed in this precision may be off by, for queries (m, d).

        At most about d·eps times the square of the lengths' sum (Higham, Accuracy and Stability
        of Numerical Algorithms, 3.1), and what underflows.
        """
        width, limits = centred.shape[1], np.finfo(kind)
        lengths = np.sqrt((centred * centred).sum(axis=1)) + self._radius
        error: Points = (width + 8) * float(limits.eps) * lengths * lengths
        error += 4 * width * float(limits.tiny) * (1 + lengths)
        return error
