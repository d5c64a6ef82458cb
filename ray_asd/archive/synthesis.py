"""What machine sounds are made of: turning shafts, noises, impacts, a room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

RATE_HZ = 16000

Signal = npt.NDArray[np.float32]
Series = npt.NDArray[np.float64]

_TABLE = 1 << 14  # points of one turn: four a sample at 1 Hz, so that rounding is inaudible


@dataclass(frozen=True)
class Stage:
    """One clip to fill: its length and the chance that decides it."""

    rng: np.random.Generator
    samples: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / RATE_HZ

    def wander(self, step_s: float, spread: float) -> Series:
        """A slow random course around 0 with a new point each ``step_s``: (samples,)."""
        points = self.rng.normal(0, spread, int(self.duration_s / step_s) + 2)
        at = np.arange(self.samples) / (step_s * RATE_HZ)
        return np.interp(at, np.arange(len(points)), points)

    def angle(self, turns_per_s: float, jitter: float = 0.003) -> Series:
        """Angle of a shaft in turns, its speed wandering by the share ``jitter``: (samples,)."""
        speed = turns_per_s * (1 + self.wander(0.5, jitter))
        return np.asarray(np.cumsum(speed) / RATE_HZ + self.rng.random())

    def noise(self, hz: list[float], db: list[float]) -> Signal:
        """Noise whose spectrum goes through the points (``hz``, ``db``); standard deviation 1."""
        white = fft.rfft(self.rng.standard_normal(self.samples, dtype=np.float32))
        return unit(fft.irfft(white * curve(self.samples, hz, db), self.samples))

    def db(self, spread: float, mean: float = 0.0) -> float:
        """A random gain, given and spread in decibels, as a factor."""
        return float(10 ** (self.rng.normal(mean, spread) / 20))


def curve(samples: int, hz: list[float], db: list[float]) -> Signal:
    """The gain at each frequency of a real FFT, straight in log f and dB: (samples // 2 + 1,)."""
    at = np.maximum(fft.rfftfreq(samples, 1 / RATE_HZ), 1.0)
    gain: Signal = (10 ** (np.interp(np.log(at), np.log(hz), db) / 20)).astype(np.float32)
    return gain


def one_turn(orders: npt.NDArray[np.int64], values: npt.NDArray[np.complex128]) -> Signal:
    """The sound of one turn from the complex amplitudes of its orders: (table,)."""
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    np.add.at(spectrum, orders, values)
    shape: Signal = (np.fft.irfft(spectrum, _TABLE) * (_TABLE / 2)).astype(np.float32)
    return shape


def turned(shape: Signal, angle: Series) -> Signal:
    """``shape`` of one turn, heard at ``angle``: (samples,)."""
    heard: Signal = shape[(angle * _TABLE).astype(np.int64) & (_TABLE - 1)]
    return heard


def impacts(stage: Stage, at_s: Series, strength: Series, hz: float, decay_s: float) -> Signal:
    """Blows that each ring at ``hz`` and die away within ``decay_s``: (samples,)."""
    t = np.arange(int(6 * decay_s * RATE_HZ)) / RATE_HZ
    ring = (np.exp(-t / decay_s) * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    sound = np.zeros(stage.samples + len(ring), dtype=np.float32)
    for start, force in zip((at_s * RATE_HZ).astype(np.int64), strength, strict=True):
        if 0 <= start < stage.samples:
            sound[start : start + len(ring)] += np.float32(force) * ring
    return sound[: stage.samples]


def crossings(angle: Series) -> Series:
    """The times at which a shaft completes a turn, seconds."""
    return np.asarray((np.flatnonzero(np.diff(np.floor(angle))) + 1) / RATE_HZ)


def unit(sound: Signal) -> Signal:
    """``sound`` at standard deviation 1."""
    scaled: Signal = sound / np.sqrt(np.mean(np.square(sound)))
    return scaled


def in_room(stage: Stage, sound: Signal, spread_db: float) -> Signal:
    """``sound`` as a room and a microphone colour it: a random smooth response."""
    hz = np.geomspace(50, RATE_HZ / 2, 9)
    response = curve(stage.samples, list(hz), list(stage.rng.normal(0, spread_db, len(hz))))
    heard: Signal = fft.irfft(fft.rfft(sound) * response, stage.samples)
    return heard
