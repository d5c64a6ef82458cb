import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ray_asd.archive import decode, store
from ray_asd.errors import Reason, Rejected

RATE = 16000
SOUND = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)


def hear(path: Path, data: bytes | None = None, **limits: Any) -> npt.NDArray[np.float32]:
    if data is not None:
        path.write_bytes(data)
    given = {"largest_file_bytes": 10**6, "longest_recording_s": 10.0, **limits}
    return decode(str(path), RATE, **given)


def encoded(sound: npt.ArrayLike = SOUND, rate: int = RATE, **how: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(sound), rate, **{"format": "WAV", **how})
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return kind + struct.pack("<I", length) + body + b"\0" * (len(body) % 2)


def wav(*chunks: bytes, size: int | None = None, kind: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body) if size is None else size) + body


PCM = np.round(SOUND * 2**15).astype("<i2")
FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
SAMPLES = PCM.tobytes()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"subtype": "PCM_16"}, 2**-15),
        ({"subtype": "PCM_24"}, 2**-23),
        ({"subtype": "PCM_U8"}, 2**-7),
        ({"subtype": "FLOAT"}, 0),
        ({"subtype": "DOUBLE"}, 0),
        ({"subtype": "PCM_16", "format": "WAVEX"}, 2**-15),
        ({"subtype": "PCM_16", "format": "RF64"}, 2**-15),
        ({"subtype": "PCM_24", "format": "RF64"}, 2**-23),
        ({"subtype": "PCM_16", "endian": "BIG"}, 2**-15),
        ({"subtype": "ULAW"}, 0.02),
        ({"format": "FLAC", "subtype": "PCM_16"}, 2**-15),
        ({"format": "FLAC", "subtype": "PCM_24"}, 2**-23),
    ],
)
def test_every_kind_of_file_is_heard(tmp_path: Path, how: dict[str, str], error: float) -> None:
    for channels in (1, 2):
        # The second channel at half the level: their mean is at three quarters.
        sound = np.stack([SOUND / (n + 1) for n in range(channels)], axis=1)
        heard = hear(tmp_path / "a.wav", encoded(sound, **how))
        assert heard.dtype == np.float32
        np.testing.assert_allclose(heard, sound.mean(axis=1), atol=error + 1e-7)


def test_16_bit_is_decoded_as_libsndfile_does(tmp_path: Path) -> None:
    data = encoded(subtype="PCM_16")
    expected = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    assert np.array_equal(hear(tmp_path / "a.wav", data), expected)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_another_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    heard = hear(tmp_path / "a.wav", encoded(tone, rate, subtype="FLOAT"))
    assert len(heard) == RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(heard[200:-200], expected[200:-200], atol=5e-3)


def test_chunks_before_and_after_the_samples_are_skipped(tmp_path: Path) -> None:
    odd = chunk(b"LIST", b"odd")
    for parts in ([odd, FORMAT], [FORMAT, odd]):
        heard = hear(tmp_path / "a.wav", wav(*parts, chunk(b"data", SAMPLES), odd))
        assert np.array_equal(heard, PCM / np.float32(2**15))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_streamed_file_reaches_to_its_end(tmp_path: Path, size: int, subtype: str) -> None:
    data = bytearray(encoded(subtype=subtype))
    struct.pack_into("<I", data, 4, size)
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    assert len(hear(tmp_path / "a.wav", bytes(data))) == len(SOUND)


NOT_FINITE = SOUND.copy()
NOT_FINITE[[5, 7]] = np.nan, np.inf
WAV = encoded(subtype="PCM_16")
FLAC = encoded(format="FLAC", subtype="PCM_16")
ENDLESS_FLAC = FLAC[:21] + bytes([FLAC[21] & 0xF0, 0, 0, 0, 0]) + FLAC[26:]


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", Reason.UNREADABLE, "empty file"),
        (b"Not a sound,\nbut a note.", Reason.UNREADABLE, "a text file that begins 'Not a"),
        (b"OggS\0\2\0\0", Reason.UNREADABLE, "neither WAV nor FLAC: it begins with the bytes 4f"),
        (WAV[:-1000], Reason.TRUNCATED, "16000 bytes of samples, 15000 are there"),
        (WAV[:44], Reason.TRUNCATED, "0 are there"),
        (WAV[:30], Reason.TRUNCATED, "'fmt '"),
        (WAV[:8], Reason.TRUNCATED, "after 8 bytes"),
        (encoded(subtype="PCM_24")[:-1], Reason.TRUNCATED, "bytes of samples"),
        (encoded(format="RF64", subtype="PCM_16")[:-10], Reason.TRUNCATED, "bytes of samples"),
        (FLAC[:-100], Reason.TRUNCATED, "the file ends before its samples"),
        (FLAC[: len(FLAC) // 2], Reason.TRUNCATED, "the file ends before its samples"),
        (FLAC[:20], Reason.TRUNCATED, "header"),
        (ENDLESS_FLAC, Reason.UNREADABLE, "how long"),
        (wav(FORMAT), Reason.UNREADABLE, "without a data chunk"),
        (wav(chunk(b"data", SAMPLES)), Reason.UNREADABLE, "without a format chunk"),
        (wav(FORMAT, chunk(b"data", b"")), Reason.UNREADABLE, "no samples"),
        (wav(FORMAT, chunk(b"data", b""), chunk(b"LIST", b"abcd")), Reason.UNREADABLE, "no samp"),
        (wav(chunk(b"fmt ", bytes(16)), chunk(b"data", SAMPLES)), Reason.UNREADABLE, "0 channels"),
        (encoded(NOT_FINITE, subtype="FLOAT"), Reason.NOT_FINITE, "2 of 8000 samples"),
        (encoded(SOUND, 7919), Reason.UNREADABLE, "7919 Hz"),
        (encoded(np.zeros(11 * RATE)), Reason.TOO_LONG, "11.0 s; the recipe allows 10 s"),
        (encoded(np.zeros(11 * RATE), format="FLAC"), Reason.TOO_LONG, "11.0 s"),
        (bytes(10**6 + 1), Reason.TOO_LONG, "1000001 bytes; the recipe allows 1000000"),
    ],
)
def test_a_bad_recording_is_rejected(
    tmp_path: Path, data: bytes, reason: Reason, says: str
) -> None:
    with pytest.raises(Rejected) as rejected:
        hear(tmp_path / "a.wav", data)
    assert rejected.value.reason == reason
    assert says in rejected.value.detail


def test_a_broken_flac_is_not_called_truncated(tmp_path: Path) -> None:
    long = encoded(np.tile(SOUND, 10), format="FLAC", subtype="PCM_16")
    broken = long[:4000] + bytes(200) + long[4200:]
    with pytest.raises(Rejected) as rejected:
        hear(tmp_path / "a.flac", broken)
    assert rejected.value.reason == Reason.UNREADABLE


def test_a_recording_that_changed_has_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(WAV)
    entry = store.stat(str(file))
    assert entry is not None
    listed = entry.fingerprint
    assert len(hear(file, fingerprint=listed)) == len(SOUND)

    os.utime(file, ns=(1, 1))
    with pytest.raises(Rejected, match="changed since") as rejected:
        hear(file, fingerprint=listed)
    assert rejected.value.reason == Reason.VANISHED

    def grow(uri: str, read: Any = store.read_bytes) -> bytes:
        data: bytes = read(uri)
        with open(uri, "ab") as growing:
            growing.write(b"more")
        return data

    with monkeypatch.context() as recording:
        recording.setattr(store, "read_bytes", grow)
        with pytest.raises(Rejected, match="changed since"):
            hear(file)
    file.unlink()
    with pytest.raises(Rejected, match="no longer there"):
        hear(file)


def test_real_recordings_decode_as_libsndfile_reads_them(real_recordings: Path) -> None:
    for machine_type in ("ToyCar", "drone", "valve"):
        file = sorted((real_recordings / machine_type / "train").glob("*.flac"))[0]
        expected, rate = soundfile.read(file, dtype="float32")
        assert rate == RATE
        heard = hear(file, longest_recording_s=60.0)
        assert np.array_equal(heard, expected)
