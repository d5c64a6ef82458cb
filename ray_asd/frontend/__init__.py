"""Waveform → clips → mel spectrogram → segments."""

from ray_asd.frontend.clips import Span, cut, standardize
from ray_asd.frontend.hear import Heard, Hearing, Missed
from ray_asd.frontend.mel import LogMel
from ray_asd.frontend.segments import segment_frames, segment_starts, segments

__all__ = [
    "Heard",
    "Hearing",
    "LogMel",
    "Missed",
    "Span",
    "cut",
    "segment_frames",
    "segment_starts",
    "segments",
    "standardize",
]
