"""The normal clips that detectors are fitted on, and the choice among them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ray_asd.errors import BadInput

Points = npt.NDArray[np.float64]
Which = Literal["all", "source", "target", "held_out"]
MIXED = "mixed"
"""Domain of a pseudo-normal clip, which is of neither."""


@dataclass(frozen=True)
class Draws:
    """Which clips of a reference set are mixed, and how much of each."""

    shares: Points
    """(c,), the source clip's; the target clip's is what is missing to 1."""
    parents: npt.NDArray[np.int64]
    """(c, 2), the rows of the source and of the target clip."""


@dataclass(frozen=True)
class Mixes:
    """Pseudo-normal clips that were mixed as waveforms, and embedded like any other clip."""

    embeddings: npt.NDArray[np.float32]
    """(c, S, d)."""
    parents: npt.NDArray[np.int64]
    """(c, 2), the reference set's rows of the clips that each is made of."""


@dataclass(frozen=True)
class ReferenceSet:
    """Normal clips of one (machine type, section), embedded by one backbone.

    Raises:
        ValueError: the lengths differ, or an embedding is not finite; names its recording.
    """

    embeddings: npt.NDArray[np.float32]
    """(n, S, d), S the segments of a clip."""
    domains: npt.NDArray[Any]
    """(n,), of text."""
    uris: npt.NDArray[Any]
    """(n,), of text."""
    starts_s: Points
    """(n,), start of each clip in its recording."""
    held_out: npt.NDArray[np.bool_]
    """(n,), true where the encoder never trained on the clip."""
    mixes: Mixes | None = None
    """Made of these clips; none where pseudo-normals are mixes of embeddings."""

    def __post_init__(self) -> None:
        columns = (self.domains, self.uris, self.starts_s, self.held_out)
        if self.embeddings.ndim != 3 or any(len(c) != len(self.embeddings) for c in columns):
            raise ValueError(
                f"embeddings {self.embeddings.shape} should be (clips, segments, embedding), "
                "and every column as long"
            )
        whole = np.isfinite(self.embeddings).all(axis=(1, 2))
        if not whole.all():
            raise ValueError(f"the embedding of {self.uris[np.argmin(whole)]} is not finite")

    def __len__(self) -> int:
        return len(self.embeddings)

    def select(self, rows: npt.NDArray[Any]) -> ReferenceSet:
        """The clips that a mask (n,) or indices pick, and the mixes of which both clips are there.

        So a detector that is fitted on some clips has heard nothing of the others, mixed or not.
        """
        return ReferenceSet(
            self.embeddings[rows],
            self.domains[rows],
            self.uris[rows],
            self.starts_s[rows],
            self.held_out[rows],
            self._mixes_among(np.arange(len(self))[rows]),
        )

    def rows(self, which: Which) -> npt.NDArray[np.int64]:
        """Row numbers of the clips that the setting ``downstream.reference`` names."""
        if which == "all":
            return np.arange(len(self))
        return np.flatnonzero(self.held_out if which == "held_out" else self.domains == which)

    def choose(self, which: Which) -> ReferenceSet:
        """The clips that the setting ``downstream.reference`` names.

        Raises:
            BadInput: there are none.
        """
        if which == "all":
            return self
        chosen = self.select(self.rows(which))
        if len(chosen) == 0:
            raise BadInput(
                f"downstream.reference is {which}, but none of the {len(self)} normal clips is; "
                "set it to all"
            )
        return chosen

    def points(self, per: Literal["clip", "segment"]) -> tuple[Points, npt.NDArray[Any]]:
        """Points and the domain of each: (n, d) mean embeddings, or all (n·S, d) segments."""
        exact = self.embeddings.astype(np.float64)
        if per == "clip":
            return exact.mean(axis=1), self.domains
        _, segments, width = exact.shape
        return exact.reshape(-1, width), np.repeat(self.domains, segments)

    def mixed(self) -> ReferenceSet:
        """The pseudo-normal clips that the mixes are.

        Raises:
            ValueError: none were made.
        """
        if self.mixes is None:
            raise ValueError("no waveforms of these clips were mixed")
        return _pseudo(self.mixes.embeddings)

    def _mixes_among(self, rows: npt.NDArray[np.int64]) -> Mixes | None:
        if self.mixes is None:
            return None
        places = np.full(len(self), -1)
        places[rows] = np.arange(len(rows))
        parents = places[self.mixes.parents]
        whole = (parents >= 0).all(axis=1)
        return Mixes(self.mixes.embeddings[whole], parents[whole])

    def extended(self, other: ReferenceSet) -> ReferenceSet:
        """These clips and those of ``other`` after them."""
        return ReferenceSet(
            np.concatenate([self.embeddings, other.embeddings]),
            np.concatenate([self.domains, other.domains]),
            np.concatenate([self.uris, other.uris]),
            np.concatenate([self.starts_s, other.starts_s]),
            np.concatenate([self.held_out, other.held_out]),
        )


def draw(
    reference: ReferenceSet, count: int, *, seed: int, machine_type: str, section: str
) -> Draws:
    """Draw ``count`` pairs of a source and a target clip, and shares λ ~ U(0, 1).

    Draws depend on the seed, the machine type, the section and the clips, not on the clips'
    order. None come out where a domain is absent.
    """
    order = np.lexsort((reference.starts_s, reference.uris.astype(str)))
    source = order[reference.domains[order] == "source"]
    target = order[reference.domains[order] == "target"]
    if len(source) == 0 or len(target) == 0:
        count = 0
    key = hashlib.sha256(f"{seed}\n{machine_type}\n{section}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(key[:8], "big"))
    shares = random.random(count)
    first = source[random.integers(max(len(source), 1), size=count)]
    second = target[random.integers(max(len(target), 1), size=count)]
    return Draws(shares, np.stack([first, second], axis=1))


def pseudo_normals(
    reference: ReferenceSet, count: int, *, seed: int, machine_type: str, section: str
) -> ReferenceSet:
    """``count`` mixes λ·source + (1−λ)·target of clips' embeddings, drawn by :func:`draw`.

    The report's domain generalization: between the many source clips and the few target clips,
    normal points are made up.
    """
    drawn = draw(reference, count, seed=seed, machine_type=machine_type, section=section)
    share = drawn.shares[:, None, None]
    first, second = (reference.embeddings[rows] for rows in drawn.parents.T)
    return _pseudo((share * first + (1 - share) * second).astype(np.float32))


def _pseudo(embeddings: npt.NDArray[np.float32]) -> ReferenceSet:
    count = len(embeddings)
    return ReferenceSet(
        embeddings,
        np.full(count, MIXED),
        np.full(count, ""),
        np.zeros(count),
        np.zeros(count, dtype=np.bool_),
    )
