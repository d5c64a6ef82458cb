"""A recording's waveform → clips, each standardized by itself."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_asd.errors import Reason, Rejected
from ray_asd.recipe import Clips

Waveform = npt.NDArray[np.float32]


class Span(NamedTuple):
    """Where a clip lies in its recording, in samples."""

    start: int
    length: int


def cut(samples: int, rate_hz: int, settings: Clips) -> list[Span]:
    """Cut a recording of ``samples`` samples into clips.

    Up to ``longest_s`` a recording is one clip. A longer one is cut into clips of ``cut_s``, one
    after the other; the last one ends at the end, and so may overlap the one before it.

    Raises:
        Rejected: ``too_short`` where the recording does not hold one segment.

    >>> from ray_asd import recipe
    >>> [s.start / 16000 for s in cut(25 * 16000, 16000, recipe.load("first_shot").clips)]
    [0.0, 10.0, 15.0]
    """
    if samples < round(settings.segment_s * rate_hz):
        raise Rejected(
            Reason.TOO_SHORT,
            f"{samples / rate_hz:.3f} s long; the shortest that can be scored is "
            f"{settings.segment_s:g} s",
        )
    if samples <= round(settings.longest_s * rate_hz):
        return [Span(0, samples)]
    length = round(settings.cut_s * rate_hz)
    count = math.ceil(samples / length)
    return [Span(min(i * length, samples - length), length) for i in range(count)]


def standardize(clip: Waveform) -> Waveform:
    """Shift and scale a clip ``(samples,)`` to mean 0 and variance 1 (the report's waveform step).

    The sums are float64: float32 sums over 10 s of audio lose the mean of a quiet clip.

    Raises:
        Rejected: ``not_finite`` for a NaN or an infinity, ``silent`` for a constant clip.

    >>> standardize(np.array([1, 3], np.float32)).tolist()
    [-1.0, 1.0]
    """
    mean = clip.mean(dtype=np.float64)
    centred = clip - np.float32(mean)
    variance = float(np.einsum("i,i->", centred, centred, dtype=np.float64)) / len(clip)
    if not math.isfinite(variance):
        raise Rejected(Reason.NOT_FINITE, "a sample is NaN, infinite or too large to square")
    # What is left of a constant after its mean in float32 is taken away is rounding.
    if math.sqrt(variance) <= 4 * np.finfo(np.float32).eps * max(abs(mean), 1e-30):
        raise Rejected(Reason.SILENT, f"every sample is {mean:g}; nothing to hear")
    centred *= np.float32(1.0 / math.sqrt(variance))
    return centred
