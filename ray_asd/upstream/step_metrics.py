"""What a training or validation step reports, and its average over an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """One batch: losses (nats per clip) and clips that each head got right."""

    loss: float
    """the weighted sum that is minimized"""
    loss_machine_type: float
    loss_attributes: float
    clips: int
    right_machine_type: int
    attributed: int
    """clips with attributes"""
    right_attributes: int
    learning_rate: float
    gradient_norm: float | None = None
    """before clipping; none in validation"""


def average(steps: Iterable[StepMetrics]) -> dict[str, float | None]:
    """An epoch's line: losses per clip, accuracy per head, the last learning rate.

    Losses are averaged over clips, the attribute loss over clips with attributes; what there is
    nothing to average over is None.
    """
    taken = list(steps)
    clips = sum(step.clips for step in taken)
    attributed = sum(step.attributed for step in taken)
    return {
        "loss": _ratio(sum(step.loss * step.clips for step in taken), clips),
        "loss_machine_type": _ratio(
            sum(step.loss_machine_type * step.clips for step in taken), clips
        ),
        "loss_attributes": _ratio(
            sum(step.loss_attributes * step.attributed for step in taken), attributed
        ),
        "accuracy_machine_type": _ratio(sum(step.right_machine_type for step in taken), clips),
        "accuracy_attributes": _ratio(sum(step.right_attributes for step in taken), attributed),
        "learning_rate": taken[-1].learning_rate if taken else None,
    }


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
