"""A shown clip as it is heard and seen: read once, cut, and compressed for the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from ray_asd.archive import decode
from ray_asd.errors import BadInput, Rejected
from ray_asd.frontend import LogMel, cut, standardize
from ray_asd.frontend.clips import Waveform
from ray_asd.recipe import Recipe

# What MP3 can hold.
_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# A player's loudest sample; MP3 overshoots a little.
_PEAK = 0.9
# Of a picture; more than a page shows of one.
_MOST_COLUMNS, _MOST_BANDS = 320, 112

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """One clip: ``wave`` (samples,) of mean 0 and variance 1, as the system hears it."""

    wave: Waveform
    picture: Picture
    """(bands, columns) power in dB, the mel spectrogram made coarser."""
    duration_s: float


class Missing(Exception):
    """A clip cannot be heard; says why."""


class Listener:
    """Reads clips as the front end of a recipe hears them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._log_mel = LogMel(recipe.front_end)
        self._unreached: dict[str, str] = {}

    def __call__(
        self, uri: str, start_s: float, duration_s: float | None, fingerprint: str | None
    ) -> Sound:
        """The clip at ``start_s`` of the recording ``uri``.

        Args:
            uri: the recording.
            start_s: where the clip starts, seconds.
            duration_s: how long it is; as the recipe cuts recordings if None.
            fingerprint: the recording must be the one that was scored under it; any if None.

        Raises:
            Missing: the recording is not there, has changed, or cannot be read.
        """
        front_end, limits = self.recipe.front_end, self.recipe.clips
        rate = front_end.sample_rate_hz
        # To ask a bucket that does not answer takes many seconds: once is enough.
        place = "/".join(uri.split("/", 3)[:3])
        if place in self._unreached:
            raise Missing(self._unreached[place])
        try:
            waveform = decode(
                uri,
                sample_rate_hz=rate,
                largest_file_bytes=limits.largest_file_bytes,
                longest_recording_s=limits.longest_recording_s,
                fingerprint=fingerprint,
            )
            start = round(start_s * rate)
            if duration_s is None:
                spans = cut(len(waveform), rate, limits)
                length = next((span.length for span in spans if span.start == start), 0)
            else:
                length = round(duration_s * rate)
            clip = waveform[start : start + length]
            if not length or len(clip) < length:
                raise Missing(f"the recording holds no such clip at {start_s:g} s")
            wave = standardize(clip)
            mel = self._log_mel(wave)
        except Rejected as rejected:
            raise Missing(rejected.detail) from None
        except BadInput as error:
            self._unreached[place] = str(error)
            raise Missing(str(error)) from None
        except (OSError, ValueError) as error:
            # A table may hold any text for a uri.
            raise Missing((str(error) or type(error).__name__).splitlines()[0]) from None
        power = np.exp(mel) if front_end.scale == "log" else mel
        return Sound(wave, _coarser(power), length / rate)


def players(sounds: list[Sound], rate_hz: int) -> list[str]:
    """``data:`` URLs of MP3s, all at one loudness (RMS): what differs is how they sound.

    MP3 ends at about 0.46 of the sample rate: what lies above is seen, not heard.
    """
    loudest = max((float(np.abs(sound.wave).max()) for sound in sounds), default=1.0)
    return [_player(sound.wave * np.float32(_PEAK / loudest), rate_hz) for sound in sounds]


def _player(wave: Waveform, rate_hz: int) -> str:
    rate = next((rate for rate in _RATES_HZ if rate >= rate_hz), _RATES_HZ[-1])
    if rate != rate_hz:
        import torch  # noqa: PLC0415, slow to import, and rarely needed here
        from torchaudio.functional import resample  # noqa: PLC0415

        wave = resample(torch.from_numpy(wave), rate_hz, rate).numpy()
    held = io.BytesIO()
    with soundfile.SoundFile(
        held, "w", rate, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0
    ) as file:
        file.write(wave)
    return f"data:audio/mpeg;base64,{base64.b64encode(held.getvalue()).decode()}"


def _coarser(power: npt.NDArray[np.float32]) -> Picture:
    """Mean power of neighbouring bands and frames, in dB."""
    bands, frames = power.shape
    down, across = -(-bands // _MOST_BANDS), -(-frames // _MOST_COLUMNS)
    rows = np.add.reduceat(power, np.arange(0, bands, down), axis=0)
    both = np.add.reduceat(rows, np.arange(0, frames, across), axis=1)
    sizes = np.outer(_sizes(bands, down), _sizes(frames, across))
    picture: Picture = (10 * np.log10(np.maximum(both / sizes, 1e-12))).astype(np.float32)
    return picture


def _sizes(total: int, step: int) -> npt.NDArray[np.int64]:
    return np.diff(np.append(np.arange(0, total, step), total))
