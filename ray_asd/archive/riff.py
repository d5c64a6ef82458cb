"""The chunks of a WAV file: what its header declares, and what is really there.

libsndfile silently shortens a file whose end is missing; whoever must know reads the chunks.
After the RIFF/WAVE specification (Microsoft, 1991; WAVE_FORMAT_EXTENSIBLE, 2001) and RF64
(EBU Tech 3306).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ray_asd.errors import Reason, Rejected

PCM = 1
_EXTENSIBLE = 0xFFFE
_UNTOLD = 0xFFFFFFFF  # a size that a streaming writer never learnt, or that stands in ds64


@dataclass(frozen=True)
class Wav:
    """The format of a WAV file and where its samples lie."""

    encoding: int
    """Format tag: 1 integer PCM, 3 float, others compressed."""
    channels: int
    sample_rate_hz: int
    block_bytes: int
    """Bytes of one frame, which is a sample of each channel."""
    bits: int
    little_endian: bool
    size_at: int
    """Where the size of the data chunk stands in the file."""
    begin: int
    end: int
    """The samples are bytes ``begin`` to ``end`` of the file."""


def parse(data: bytes) -> Wav:
    """Read the chunks of a whole WAV file, up to its samples.

    A data chunk of unknown size, as streaming writers leave it (0 or 0xFFFFFFFF), reaches to the
    end of the file.

    Raises:
        Rejected: ``truncated`` where the file ends before a chunk does, ``unreadable`` where it
            has no format or no samples.
    """
    order = ">" if data[:4] == b"RIFX" else "<"
    place, wide, head = 12, None, b""
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], struct.unpack_from(f"{order}I", data, place + 4)[0]
        begin = place + 8
        if kind == b"data":
            end = _end(data, begin, size, wide, order)
            return _wav(head, order, place + 4, begin, end)
        if begin + size > len(data):
            raise Rejected(
                Reason.TRUNCATED,
                f"the file ends in its {kind.decode('latin-1')!r} chunk, before any samples",
            )
        if kind == b"fmt ":
            head = data[begin : begin + size]
        elif kind == b"ds64" and size >= 16:
            wide = struct.unpack_from(f"{order}Q", data, begin + 8)[0]
        place = begin + size + size % 2  # chunks begin at even bytes
    declared = struct.unpack_from(f"{order}I", data, 4)[0] if len(data) >= 8 else _UNTOLD
    if declared + 8 <= len(data):
        raise Rejected(Reason.UNREADABLE, "a WAV file without a data chunk")
    raise Rejected(Reason.TRUNCATED, f"the file ends after {len(data)} bytes, before any samples")


def _end(data: bytes, begin: int, size: int, wide: int | None, order: str) -> int:
    there = len(data) - begin
    # A file that knows its own length and says that it has no samples has none.
    whole = struct.unpack_from(f"{order}I", data, 4)[0] + 8 == len(data)
    declared = wide if size == _UNTOLD and wide else size
    if declared == _UNTOLD or (declared == 0 and not whole):
        return len(data)
    if declared > there:
        raise Rejected(
            Reason.TRUNCATED, f"the header declares {declared} bytes of samples, {there} are there"
        )
    return begin + declared


def _wav(head: bytes, order: str, size_at: int, begin: int, end: int) -> Wav:
    if len(head) < 16:
        raise Rejected(Reason.UNREADABLE, "a WAV file without a format chunk before its samples")
    encoding, channels, rate, _, block, bits = struct.unpack_from(f"{order}HHIIHH", head)
    if encoding == _EXTENSIBLE and len(head) >= 26:
        encoding = struct.unpack_from(f"{order}H", head, 24)[0]
    if not (channels and rate and block):
        raise Rejected(
            Reason.UNREADABLE,
            f"a WAV file of {channels} channels, {rate} Hz and {block} bytes a frame",
        )
    return Wav(encoding, channels, rate, block, bits, order == "<", size_at, begin, end)
