"""From a file to a waveform: read once, check, decode, average the channels, resample."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import numpy.typing as npt
import soundfile

from ray_asd.archive import riff, store
from ray_asd.errors import Reason, Rejected

Waveform = npt.NDArray[np.float32]

_WAV = (b"RIFF", b"RF64", b"RIFX")
_FLAC = b"fLaC"
# A resampling filter has rate/gcd × target/gcd taps; past this a mistaken rate eats the memory.
_MOST_TAPS = 1 << 24


def decode(
    uri: str,
    sample_rate_hz: int,
    largest_file_bytes: int,
    longest_recording_s: float,
    fingerprint: str | None = None,
) -> Waveform:
    """One recording as a mono waveform at ``sample_rate_hz``: float32 (samples,), full scale 1.

    Channels are averaged. The file must be the one that was listed under ``fingerprint`` (or
    be the same before and after reading, without one).

    Raises:
        Rejected: ``vanished``, ``unreadable``, ``truncated``, ``not_finite`` or ``too_long``.
    """
    before = _there(uri, fingerprint)
    if before.bytes == 0:
        raise Rejected(Reason.UNREADABLE, "empty file")
    if before.bytes > largest_file_bytes:
        raise Rejected(
            Reason.TOO_LONG, f"{before.bytes} bytes; the recipe allows {largest_file_bytes}"
        )
    try:
        data = store.read_bytes(uri)
    except FileNotFoundError:
        raise Rejected(Reason.VANISHED, "no longer there", may_pass=True) from None
    except OSError as error:
        raise _not_read(error) from None
    _there(uri, before.fingerprint)
    waveform, rate = _waveform(data, longest_recording_s)
    return waveform if rate == sample_rate_hz else _resample(waveform, rate, sample_rate_hz)


def _there(uri: str, fingerprint: str | None) -> store.Entry:
    try:
        entry = store.stat(uri)
    except OSError as error:
        raise _not_read(error) from None
    if entry is None:
        raise Rejected(Reason.VANISHED, "no longer there", may_pass=True)
    if fingerprint not in (None, entry.fingerprint):
        detail = "changed since it was listed; index the archive again"
        raise Rejected(Reason.VANISHED, detail, may_pass=True)
    return entry


def _not_read(error: OSError) -> Rejected:
    """The store did not answer, or refused: nothing is known of the recording itself."""
    detail = f"cannot be read: {error.strerror or error}"
    return Rejected(Reason.UNREADABLE, detail, may_pass=True)


def _waveform(data: bytes, longest_s: float) -> tuple[Waveform, int]:
    """The mono waveform and its sample rate, Hz."""
    if data[:4] == _FLAC:
        return _flac(data, longest_s)
    if data[:4] in _WAV and data[8:12] in (b"WAVE", b""):
        return _wav(data, longest_s)
    raise Rejected(Reason.UNREADABLE, f"neither WAV nor FLAC: {_looks_like(data)}")


def _wav(data: bytes, longest_s: float) -> tuple[Waveform, int]:
    wav = riff.parse(data)
    if wav.encoding == riff.PCM and wav.bits == 16 and wav.little_endian:
        if wav.block_bytes != 2 * wav.channels:
            raise Rejected(
                Reason.UNREADABLE,
                f"{wav.block_bytes} bytes a frame in 16-bit WAV of {wav.channels} channels",
            )
        frames = (wav.end - wav.begin) // wav.block_bytes
        _check_length(frames, wav.sample_rate_hz, longest_s)
        samples = np.frombuffer(data, "<i2", frames * wav.channels, wav.begin)
        return _mono(samples.reshape(frames, wav.channels)) * np.float32(2**-15), wav.sample_rate_hz
    if struct.unpack_from("<I" if wav.little_endian else ">I", data, wav.size_at)[0] == 0:
        # libsndfile believes a streaming writer's 0; the chunk reader knows better.
        sized = bytearray(data)
        order = "<I" if wav.little_endian else ">I"
        struct.pack_into(order, sized, wav.size_at, wav.end - wav.begin)
        data = bytes(sized)
    return _sndfile(io.BytesIO(data), longest_s)


def _flac(data: bytes, longest_s: float) -> tuple[Waveform, int]:
    # STREAMINFO is the first block: 34 bytes after two headers of 4; a 36-bit count of samples.
    if len(data) < 42:
        raise Rejected(Reason.TRUNCATED, f"the file ends in its header, after {len(data)} bytes")
    if int.from_bytes(data[21:26], "big") & (1 << 36) - 1 == 0:
        raise Rejected(
            Reason.UNREADABLE, "the FLAC header does not say how long it is; encode it again"
        )
    stream = io.BytesIO(data)
    try:
        return _sndfile(stream, longest_s)
    except Rejected as rejected:
        # The decoder ran out of bytes, and not into wrong ones.
        if rejected.reason == Reason.UNREADABLE and stream.tell() == len(data):
            raise Rejected(
                Reason.TRUNCATED, f"the file ends before its samples do ({rejected.detail})"
            ) from None
        raise


def _sndfile(stream: io.BytesIO, longest_s: float) -> tuple[Waveform, int]:
    try:
        with soundfile.SoundFile(stream) as file:
            frames, rate = file.frames, file.samplerate
            _check_length(frames, rate, longest_s)
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise Rejected(Reason.UNREADABLE, f"libsndfile: {error.error_string}") from None
    if len(samples) < frames:
        raise Rejected(
            Reason.TRUNCATED, f"the header declares {frames} samples, {len(samples)} are there"
        )
    waveform = _mono(samples)
    wrong = len(waveform) - np.count_nonzero(np.isfinite(waveform))
    if wrong:
        raise Rejected(Reason.NOT_FINITE, f"{wrong} of {len(waveform)} samples are NaN or infinite")
    return waveform, rate


def _mono(samples: npt.NDArray[np.int16] | Waveform) -> Waveform:
    """The mean of the channels: (frames, channels) → float32 (frames,)."""
    if samples.shape[1] == 1:
        return samples[:, 0].astype(np.float32)
    mean: Waveform = samples.mean(axis=1, dtype=np.float32)
    return mean


def _check_length(frames: int, rate: int, longest_s: float) -> None:
    if frames == 0:
        raise Rejected(Reason.UNREADABLE, "no samples")
    if frames > longest_s * rate:
        raise Rejected(Reason.TOO_LONG, f"{frames / rate:.1f} s; the recipe allows {longest_s:g} s")


def _resample(waveform: Waveform, rate: int, target: int) -> Waveform:
    divisor = math.gcd(rate, target)
    if (rate // divisor) * (target // divisor) > _MOST_TAPS:
        raise Rejected(Reason.UNREADABLE, f"a sample rate of {rate} Hz; not one that is recorded")
    # torch takes seconds to import; most archives never need it here.
    import torch  # noqa: PLC0415
    from torchaudio.functional import resample  # noqa: PLC0415

    resampled: Waveform = resample(torch.from_numpy(waveform), rate, target).numpy()
    return resampled


def _looks_like(data: bytes) -> str:
    text = data[:64].decode("utf-8", errors="ignore")
    if text and all(sign.isprintable() or sign.isspace() for sign in text):
        return f"a text file that begins {' '.join(text.split())[:24]!r}"
    return f"it begins with the bytes {data[:4].hex(' ')}"
