"""Mixup of normal clips with pseudo-anomalous ones: clips of the other machine types.

Zhang et al. 2018, arXiv:1710.09412, with one λ per clip; the pseudo-anomalous partner is the
report's. Clips are mixed as the front end gave them, that is in log-mel.
"""

from __future__ import annotations

import numpy as np
import torch

from ray_asd.upstream.batches import Batch


def mix(batch: Batch, alpha: float, rng: np.random.Generator) -> Batch:
    """Each clip becomes λ · itself + (1 - λ) · a partner, and its labels alike.

    The partner is drawn among the batch's clips of other machine types; a clip without one stays
    as it is. λ ~ Beta(``alpha``, ``alpha``), drawn for each clip.
    """
    types = batch.machine_type.argmax(1).cpu().numpy()
    partners = np.arange(len(types))
    for machine_type in np.unique(types):
        own = np.flatnonzero(types == machine_type)
        others = np.flatnonzero(types != machine_type)
        if len(others):
            partners[own] = rng.choice(others, size=len(own))
    shares = torch.from_numpy(rng.beta(alpha, alpha, size=len(types)).astype(np.float32))
    return blend(batch, torch.from_numpy(partners), shares)


def blend(batch: Batch, partners: torch.Tensor, shares: torch.Tensor) -> Batch:
    """``shares`` of each clip and the rest of its partner.

    Args:
        batch: the clips.
        partners: (batch,) int64, index of each clip's partner; its own index leaves it unmixed.
        shares: (batch,) float32, λ.
    """
    partners = partners.to(batch.mels.device)
    own = shares.to(batch.mels.device)

    def lerp(values: torch.Tensor) -> torch.Tensor:
        share = own.view(-1, *[1] * (values.ndim - 1))
        return torch.lerp(values[partners], values, share)

    return Batch(
        lerp(batch.mels), lerp(batch.machine_type), lerp(batch.attributes), lerp(batch.plain)
    )
