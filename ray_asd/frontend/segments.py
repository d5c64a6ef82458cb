"""A clip's mel spectrogram → overlapping segments, as slices of it."""

import numpy as np
import numpy.typing as npt

from ray_asd.recipe import Clips, FrontEnd


def segment_frames(front_end: FrontEnd, clips: Clips) -> int:
    """Frames of one segment: 126 for 2.0 s at a hop of 16 ms."""
    return 1 + round(clips.segment_s * front_end.sample_rate_hz) // front_end.hop


def segment_starts(frames: int, length: int, count: int) -> list[int]:
    """Start frames of ``count`` segments of ``length`` frames in a clip of ``frames`` frames.

    Evenly spaced, the first at the start, the last ending at the end, each rounded to a frame.
    Always ``count`` of them: in a clip that has fewer places some repeat, so that every clip
    gives a tensor of one shape.

    >>> segment_starts(626, 126, 10)[:4], segment_starts(626, 126, 10)[-1]
    ([0, 56, 111, 167], 500)
    """
    if frames < length:
        raise ValueError(f"a clip of {frames} frames holds no segment of {length}")
    room = frames - length
    if count == 1:
        return [0]
    return [(2 * i * room + count - 1) // (2 * (count - 1)) for i in range(count)]


def segments(
    mel: npt.NDArray[np.float32], length: int, count: int
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Segments ``(count, bands, length)`` of a spectrogram ``(bands, frames)``, and their starts.

    The segments are one new array; the starts are in frames.

    >>> pieces, starts = segments(np.zeros((224, 626), np.float32), 126, 10)
    >>> pieces.shape, starts[:2]
    ((10, 224, 126), [0, 56])
    """
    starts = segment_starts(mel.shape[1], length, count)
    return np.stack([mel[:, start : start + length] for start in starts]), starts
