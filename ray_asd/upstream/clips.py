"""Clips as training sees them: a view of the mel tensor, and its labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_asd import tables
from ray_asd.errors import BadInput
from ray_asd.upstream.classes import Classes
from ray_asd.upstream.randomness import stable_hash

_MEL = np.dtype("<f2")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One clip of the features table."""

    uri: str
    start_s: float
    mel: npt.NDArray[np.float16]
    """(mels, frames), natural log; a read-only view of the table's memory"""
    machine_type: int
    attributes: int
    """index of the attribute class, -1 for none"""
    plain: int
    """index of the plain section, -1 for a clip with attributes"""

    def copy(self) -> Clip:
        """The same clip in memory of its own, so that the table's can be let go."""
        return replace(self, mel=self.mel.copy())


def shuffled(clips: Iterable[Clip], room: int, rng: np.random.Generator) -> Iterator[Clip]:
    """The clips in a random order, of which at most ``room`` are held, as copies.

    A clip leaves, on average, ``room`` places after it came: near neighbours in the stream are
    parted, far ones never meet.
    """
    held: list[Clip] = []
    for clip in clips:
        if len(held) < room:
            held.append(clip.copy())
            continue
        place = int(rng.integers(room))
        yield held[place]
        held[place] = clip.copy()
    yield from (held[i] for i in rng.permutation(len(held)))


def clips_of(features: pa.Table | pa.RecordBatch, classes: Classes, mels: int) -> Iterator[Clip]:
    """The clips of (a piece of) a features table, one by one, without copying their mels.

    A clip keeps the memory of the piece it came from alive.

    Raises:
        BadInput: another schema, a mel of another size, an unknown machine type.
    """
    tables.validate(features.schema, tables.FEATURES, "features table")
    names = ("uri", "start_s", "machine_type", "section", "attributes", "frames")
    columns = (features.column(name) for name in names)
    for uri, start_s, machine_type, section, attributes, frames, values in zip(
        *columns, _mels(features.column("mel")), strict=True
    ):
        if values.size != mels * frames.as_py():
            raise BadInput(
                f"features table: {uri.as_py()}: a mel of {values.size} values, and should be "
                f"{mels} bands × {frames.as_py()} frames; make the features anew"
            )
        labels = classes.labels(machine_type.as_py(), section.as_py(), attributes.as_py())
        yield Clip(
            uri=uri.as_py(),
            start_s=start_s.as_py(),
            mel=values.reshape(mels, -1),
            machine_type=labels.machine_type,
            attributes=labels.attributes,
            plain=labels.plain,
        )


def _mels(column: pa.Array | pa.ChunkedArray) -> Iterator[npt.NDArray[np.float16]]:
    # Not by the column's scalars: each copies its value.
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        _, offsets, data = chunk.buffers()
        wide = pa.types.is_large_binary(chunk.type)
        bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)
        for i in range(chunk.offset, chunk.offset + len(chunk)):
            low, high = bounds[i : i + 2]
            yield np.frombuffer(data, _MEL, (high - low) // _MEL.itemsize, low)


def crop_start(
    seed: int,
    epoch: int,
    uri: str,
    start_s: float,
    *,
    frames: int,
    length: int,
    repetition: int = 0,
) -> int:
    """First frame of a clip's random crop: uniform over 0 … ``frames - length``.

    It follows from the arguments alone, so that any worker draws the same. ``repetition`` tells
    apart the crops of a clip that is used more than once in an epoch.

    Raises:
        BadInput: the clip is shorter than the crop.
    """
    if frames < length:
        raise BadInput(
            f"features table: {uri}: {frames} frames, and a segment has {length}; "
            f"leave recordings shorter than a segment out of the features"
        )
    draw = stable_hash("crop", seed, epoch, uri, start_s, repetition)
    return draw % (frames - length + 1)
