"""Masking of frames and of mel bands in training crops (SpecAugment: Park et al. 2019,
arXiv:1904.08779, without time warping).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from ray_asd.recipe import Masking
from ray_asd.upstream.batches import Batch


def mask(batch: Batch, settings: Masking, frames_per_s: float, rng: np.random.Generator) -> Batch:
    """Each clip loses bands of frames and of mels, each band's width and place drawn for it.

    What is lost is set to its mel band's mean over the batch, which the backbone's entrance takes
    to about 0, as SpecAugment's zeros are in normalized spectra.
    """
    clips, mels, frames = batch.mels.shape
    widest = round(settings.widest_time_s * frames_per_s)
    of_frames = _bands(clips, frames, settings.time_bands, widest, rng)
    of_mels = _bands(clips, mels, settings.mel_bands, settings.widest_mels, rng)
    lost = torch.from_numpy(of_mels[:, :, None] | of_frames[:, None, :]).to(batch.mels.device)
    level = batch.mels.mean(dim=(0, 2))[None, :, None]
    return dataclasses.replace(batch, mels=torch.where(lost, level, batch.mels))


def _bands(
    clips: int, length: int, count: int, widest: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """(clips, length), true within each clip's ``count`` bands of 0 to ``widest`` places."""
    widths = rng.integers(min(widest, length), endpoint=True, size=(clips, count))
    starts = rng.integers(length - widths, endpoint=True)
    places = np.arange(length)
    covered = (places >= starts[..., None]) & (places < (starts + widths)[..., None])
    return np.asarray(covered.any(axis=1))
