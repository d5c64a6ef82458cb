"""A row of the manifest → its clips' mel spectrograms, or why there are none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_asd.archive import decode
from ray_asd.errors import Reason, Rejected
from ray_asd.frontend.clips import Waveform, cut, standardize
from ray_asd.frontend.mel import LogMel, Mel
from ray_asd.recipe import FrontEnd, Recipe


@dataclass(frozen=True)
class Heard:
    """One clip of a recording."""

    start_s: float
    duration_s: float
    mels: dict[FrontEnd, Mel]
    """By each front end, ``(bands, frames)``."""


@dataclass(frozen=True)
class Missed:
    """A clip that cannot be scored; at 0 s and 0 s long where it is the whole recording."""

    start_s: float
    duration_s: float
    reason: Reason
    detail: str
    may_pass: bool = False
    """Whether a later run should try again."""


class Hearing:
    """Decodes a recording, cuts it into clips, and makes each clip's mel spectrograms.

    Args:
        recipe: the system's settings.
        front_ends: by which of its front ends; by all that its backbones have if None.
    """

    def __init__(self, recipe: Recipe, front_ends: Iterable[FrontEnd] | None = None) -> None:
        self._recipe = recipe
        wanted = recipe.front_ends() if front_ends is None else front_ends
        self._log_mels = {front_end: LogMel(front_end) for front_end in wanted}

    def __call__(self, recording: dict[str, Any]) -> Iterator[Heard | Missed]:
        """Yield every clip of ``recording``, a row of the manifest.

        Nothing is raised for a bad recording: one that cannot be read yields a single
        rejection at 0 s, a bad clip a rejection at its own start.
        """
        rate = self._recipe.front_end.sample_rate_hz
        try:
            waveform = self._decoded(recording)
            spans = cut(len(waveform), rate, self._recipe.clips)
        except Rejected as rejected:
            yield Missed(0.0, 0.0, rejected.reason, rejected.detail, rejected.may_pass)
            return
        for start, length in spans:
            start_s, duration_s = start / rate, length / rate
            try:
                mels = self.mels(standardize(waveform[start : start + length]))
            except Rejected as rejected:
                yield Missed(start_s, duration_s, rejected.reason, rejected.detail)
            else:
                yield Heard(start_s, duration_s, mels)

    def mixed(self, source: dict[str, Any], target: dict[str, Any], share: float) -> Heard | Missed:
        """One clip that is ``share`` · source + (1 − share) · target, both standardized.

        It is as long as the shorter of the two, and standardized again, as every clip is. Both
        are clips that were heard: rows with ``uri``, ``fingerprint``, ``start_s`` and
        ``duration_s``.
        """
        try:
            first, second = (self._clip(clip) for clip in (source, target))
            length = min(len(first), len(second))
            mix = np.float32(share) * first[:length] + np.float32(1 - share) * second[:length]
            mels = self.mels(standardize(mix))
        except Rejected as rejected:
            return Missed(0.0, 0.0, rejected.reason, rejected.detail, rejected.may_pass)
        return Heard(0.0, length / self._recipe.front_end.sample_rate_hz, mels)

    def mels(self, clip: Waveform) -> dict[FrontEnd, Mel]:
        """Spectrograms of a standardized clip ``(samples,)``, by front end.

        Raises:
            Rejected: ``not_finite`` where one is not.
        """
        return {front_end: log_mel(clip) for front_end, log_mel in self._log_mels.items()}

    def _clip(self, clip: dict[str, Any]) -> Waveform:
        rate = self._recipe.front_end.sample_rate_hz
        start, length = round(clip["start_s"] * rate), round(clip["duration_s"] * rate)
        return standardize(self._decoded(clip)[start : start + length])

    def _decoded(self, recording: dict[str, Any]) -> Waveform:
        limits = self._recipe.clips
        return decode(
            recording["uri"],
            sample_rate_hz=self._recipe.front_end.sample_rate_hz,
            largest_file_bytes=limits.largest_file_bytes,
            longest_recording_s=limits.longest_recording_s,
            fingerprint=recording["fingerprint"],
        )
