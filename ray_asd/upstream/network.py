"""Backbone and both heads, their losses and accuracies (the report's multi-task upstream)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from ray_asd.recipe import LossWeights
from ray_asd.upstream.backbones import Backbone
from ray_asd.upstream.batches import Batch
from ray_asd.upstream.classes import Classes


class Outputs(NamedTuple):
    """What the network says of a batch."""

    embedding: Tensor
    """(batch, embedding)"""
    machine_type: Tensor
    """(batch, machine types), logits"""
    attributes: Tensor
    """(batch, attribute classes), logits"""


class Losses(NamedTuple):
    """Scalars, with gradients."""

    total: Tensor
    machine_type: Tensor
    attributes: Tensor


class Network(nn.Module):
    """A backbone, a head for the machine type, and one for the joint attribute values."""

    def __init__(self, backbone: Backbone, embedding: int, classes: Classes) -> None:
        super().__init__()
        self.backbone = backbone
        self.machine_type = nn.Linear(embedding, len(classes.machine_types))
        self.attributes = (
            nn.Linear(embedding, len(classes.attribute_values))
            if classes.attribute_values
            else None
        )

    def forward(self, mels: Tensor) -> Outputs:
        """(batch, mels, frames) → embeddings and logits."""
        embedding = self.backbone(mels)
        return Outputs(
            embedding,
            self.machine_type(embedding),
            embedding[:, :0] if self.attributes is None else self.attributes(embedding),
        )


def losses(outputs: Outputs, batch: Batch, weights: LossWeights) -> Losses:
    """Cross-entropy of both heads with soft labels, apart and summed by their weights.

    The attribute loss is the sum over clips, divided by how many clips have attributes (a mixed
    clip counts by its share), at least 1: a batch without any still has a loss, of 0, so that
    every worker takes part in every reduction of gradients.
    """
    machine_type = functional.cross_entropy(outputs.machine_type.float(), batch.machine_type)
    likelihoods = functional.log_softmax(outputs.attributes.float(), dim=1)
    attributes = -(batch.attributes * likelihoods).sum() / batch.attributes.sum().clamp(min=1)
    total = weights.machine_type * machine_type + weights.attributes * attributes
    return Losses(total, machine_type, attributes)


class Hits(NamedTuple):
    """How often each head is right, as scalars; a mixed clip is what most of it is."""

    machine_type: Tensor
    attributes: Tensor
    attributed: Tensor
    """clips of which most has attributes: those that ``attributes`` is counted over"""


def hits(outputs: Outputs, batch: Batch) -> Hits:
    """Count correct clips per head."""
    right_type = outputs.machine_type.argmax(1) == batch.machine_type.argmax(1)
    attributed = batch.attributes.sum(1) > 0.5
    if outputs.attributes.shape[1] == 0:
        return Hits(right_type.sum(), attributed.sum(), attributed.sum())
    right_value = outputs.attributes.argmax(1) == batch.attributes.argmax(1)
    return Hits(right_type.sum(), (right_value & attributed).sum(), attributed.sum())
