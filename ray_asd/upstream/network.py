"""Backbone and heads, their losses and accuracies.

Two linear heads under cross-entropy (the report's multi-task upstream), or one sub-cluster
AdaCos head for the joint label, from which both heads' likelihoods follow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_asd.recipe import AdaCos, CrossEntropy
from ray_asd.upstream.adacos import SubClusterAdaCos
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
    joint: Tensor | None = None
    """(batch, joint classes), logits; None under cross-entropy"""


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


class JointNetwork(nn.Module):
    """A backbone and a sub-cluster AdaCos head for the joint label.

    The classes of the joint label are apart by machine type and by attributes, so that the sums
    of their likelihoods are those of the machine types and of the attribute values.
    """

    def __init__(
        self, backbone: Backbone, embedding: int, classes: Classes, settings: AdaCos
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.joint = SubClusterAdaCos(settings, embedding, len(classes.joint))
        self._of_type = [
            [i for i, machine_type in enumerate(classes.joint) if machine_type == label]
            for label in range(len(classes.machine_types))
        ]
        self._attribute_values = len(classes.attribute_values)

    def forward(self, mels: Tensor) -> Outputs:
        """(batch, mels, frames) → embeddings and logits."""
        embedding = self.backbone(mels)
        joint = self.joint(embedding)
        machine_type = torch.stack([joint[:, own].logsumexp(1) for own in self._of_type], dim=1)
        return Outputs(embedding, machine_type, joint[:, : self._attribute_values], joint)


def build_network(
    backbone: Backbone, embedding: int, classes: Classes, settings: CrossEntropy | AdaCos
) -> Network | JointNetwork:
    """The network of the recipe's loss.

    A joint label of a single class has no angles to learn: it falls back to the two heads.
    """
    if isinstance(settings, AdaCos) and len(classes.joint) > 1:
        return JointNetwork(backbone, embedding, classes, settings)
    return Network(backbone, embedding, classes)


def losses(outputs: Outputs, batch: Batch, settings: CrossEntropy | AdaCos) -> Losses:
    """What is minimized, and the cross-entropy of both heads apart, all with soft labels.

    Minimized is the weighted sum of both, or the cross-entropy of the joint label.

    The attribute loss is the sum over clips, divided by how many clips have attributes (a mixed
    clip counts by its share), at least 1: a batch without any still has a loss, of 0, so that
    every worker takes part in every reduction of gradients.
    """
    machine_type = functional.cross_entropy(outputs.machine_type.float(), batch.machine_type)
    likelihoods = functional.log_softmax(outputs.attributes.float(), dim=1)
    attributes = -(batch.attributes * likelihoods).sum() / batch.attributes.sum().clamp(min=1)
    if outputs.joint is not None:
        total = functional.cross_entropy(outputs.joint.float(), batch.joint)
    elif isinstance(settings, CrossEntropy):
        total = settings.machine_type * machine_type + settings.attributes * attributes
    else:
        total = machine_type + attributes
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
