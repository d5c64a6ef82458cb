"""Backbones: segment → embedding. A kind of trunk between a shared entrance and a shared neck.

Another kind is added from outside the package by :func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ray_asd import recipe
from ray_asd.errors import BadInput
from ray_asd.upstream.efficientnet import EfficientNetTrunk
from ray_asd.upstream.statistics import StatisticsTrunk
from ray_asd.upstream.transformer import TransformerTrunk
from ray_asd.upstream.trunk import Trunk

BuildTrunk = Callable[[Any, int, int], Trunk]
"""(the kind's own settings, mels, frames) → trunk, its weights drawn from torch's stream."""

_TRUNKS: dict[str, BuildTrunk] = {
    "efficientnet_b0": EfficientNetTrunk,
    "statistics": StatisticsTrunk,
    "transformer": TransformerTrunk,
}


def register(kind: str, build: BuildTrunk, settings: type[recipe.Backbone] | None = None) -> None:
    """Make ``kind`` known to :func:`build_backbone`, and to recipes by its settings model.

    A package outside this one adds its own backbone so, before it loads a recipe that names it,
    and in every process that embeds.

    Raises:
        ValueError: the kind is taken.
    """
    if kind in _TRUNKS:
        raise ValueError(f"a backbone of kind {kind} exists already")
    _TRUNKS[kind] = build
    if settings is not None:
        recipe.BACKBONES[kind] = settings


class Neck(nn.Module):
    """Features → embedding: a linear map, each coordinate then brought to mean 0, variance 1.

    The normalization has no weights of its own (the heads are linear and take up any scale). It
    centres the embedding, so that the detectors' cosine distance looks at directions about the
    mean of all normals rather than about an arbitrary origin.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, embedding, bias=False)
        self.normalize = nn.BatchNorm1d(embedding, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, embedding)."""
        normalized: Tensor = self.normalize(self.project(features))
        return normalized


class Backbone(nn.Module):
    """Entrance, trunk and neck: log-mel segments to embeddings.

    The entrance brings each mel band (natural log, about -18 to 8) to mean 0 and variance 1 over
    batch and frames, with a learned scale and offset. Its statistics are the plain average over
    all batches seen, since the data, unlike activations, do not drift while training.

    One that is not trained is its trunk alone.
    """

    def __init__(self, trunk: Trunk, mels: int, embedding: int, trained: bool = True) -> None:
        super().__init__()
        self.entrance: nn.Module = nn.Identity()
        self.trunk = trunk
        self.neck: nn.Module = nn.Identity()
        if trained:
            self.entrance = nn.BatchNorm1d(mels, momentum=None)
            self.neck = Neck(trunk.width, embedding)

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, mels, frames) → (batch, embedding), or (batch, trunk's width) untrained."""
        embedding: Tensor = self.neck(self.trunk(self.entrance(mels)))
        return embedding


def build_backbone(
    settings: recipe.Backbone, *, mels: int, frames: int, embedding: int
) -> Backbone:
    """A backbone yet to be trained (or, where the settings say so, pretrained).

    Args:
        settings: the backbone's settings; ``kind`` names the trunk.
        mels: bands of a segment.
        frames: frames of a segment.
        embedding: length of an embedding.

    Raises:
        BadInput: a kind that is not registered; pretrained weights that cannot be had.
    """
    if settings.kind not in _TRUNKS:
        raise BadInput(
            f"upstream.backbones: no backbone of kind {settings.kind}; "
            f"there are {', '.join(sorted(_TRUNKS))}"
        )
    trunk = _TRUNKS[settings.kind](settings, mels, frames)
    return Backbone(trunk, mels, embedding, settings.trained)
