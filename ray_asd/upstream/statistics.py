"""Mean and standard deviation of each mel band over time, as an embedding: nothing is learned.

It keeps what telling machine types apart does not need, and so helps where a machine type has
no attributes to learn from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ray_asd.recipe import Statistics
from ray_asd.upstream.trunk import Trunk


class StatisticsTrunk(Trunk):
    """(batch, mels, frames) → the bands' means, then their standard deviations."""

    def __init__(self, settings: Statistics, mels: int, frames: int) -> None:
        super().__init__()
        self.width = 2 * mels

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, mels, frames) → (batch, 2 · mels), in the unit of the mels."""
        deviation, mean = torch.std_mean(mels, dim=2, correction=0)
        return torch.cat([mean, deviation], dim=1)
