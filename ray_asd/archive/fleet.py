"""A synthetic fleet in the DCASE 2023 layout: something to learn from without any recordings."""

from __future__ import annotations

import io
import itertools
import wave
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ray_asd.archive import store
from ray_asd.archive.machines import MACHINES, Condition
from ray_asd.archive.synthesis import RATE_HZ, Signal, Stage, in_room, one_turn, turned, unit
from ray_asd.errors import BadInput

SECTION = "00"


@dataclass(frozen=True)
class Take:
    """One clip of the fleet, before it sounds."""

    machine_type: str
    split: str
    domain: str
    label: str
    number: int

    def rng(self, seed: int) -> np.random.Generator:
        """The chance of this clip alone: no other clip, nor their number, changes it."""
        name = f"{self.machine_type}/{self.split}/{self.domain}/{self.label}"
        return np.random.default_rng([seed, zlib.crc32(name.encode()), self.number])


def synthesize(
    root: str,
    *,
    machine_types: Sequence[str] = tuple(MACHINES),
    train_source: int = 100,
    train_target: int = 10,
    test_per_cell: int = 25,
    duration_s: float = 6.0,
    seed: int = 0,
    without_attributes: Collection[str] = (),
) -> int:
    """Write the recordings of a fleet under ``root``; returns how many.

    Each machine type has one section with ``train_source`` and ``train_target`` normal training
    clips, and ``test_per_cell`` test clips for each of normal and anomaly, source and target.
    Names and ``attributes_00.csv`` tell the attributes, but for ``without_attributes``. 16-bit
    WAV, 16 kHz, mono. The same seed writes the same bytes; another number of clips, the same
    first clips.

    Raises:
        BadInput: an unknown machine type.
    """
    for machine_type in (*machine_types, *without_attributes):
        if machine_type not in MACHINES:
            raise BadInput(
                f"there is no synthetic machine type {machine_type!r}; "
                f"there are {', '.join(MACHINES)}"
            )
    written = 0
    for machine_type in machine_types:
        folder = store.join(root, machine_type)
        for split in ("train", "test"):
            store.make_dir(store.join(folder, split))
        table = ["file_name"]
        for take in _takes(machine_type, train_source, train_target, test_per_cell):
            rng = take.rng(seed)
            condition = _condition(take, rng)
            told = {} if machine_type in without_attributes else condition
            file = _file_name(take, told)
            sound = perform(take, condition, rng, duration_s)
            _write(store.join(folder, take.split, file), _wav(sound))
            table.append(",".join([f"{machine_type}/{take.split}/{file}", *_cells(told)]))
            written += 1
        columns = max(line.count(",") for line in table) // 2
        table[0] += "".join(f",d{n}p,d{n}v" for n in range(1, columns + 1))
        _write(store.join(folder, f"attributes_{SECTION}.csv"), "\n".join([*table, ""]).encode())
    return written


def perform(
    take: Take, condition: Condition, rng: np.random.Generator, duration_s: float
) -> Signal:
    """The clip as a microphone hears it: the machine in a room, in its domain's background."""
    stage = Stage(rng, round(duration_s * RATE_HZ))
    severity = rng.uniform(0.4, 1.0) if take.label == "anomaly" else 0.0
    machine = MACHINES[take.machine_type].sound(stage, condition, severity)
    loudness = np.sqrt(np.mean(np.square(machine)))
    surroundings = _workshop if take.domain == "source" else _hall
    heard = in_room(stage, machine / loudness, spread_db=3.0) + surroundings(stage)
    return heard


def _workshop(stage: Stage) -> Signal:
    """The source domain's background: a quiet room's low rumble."""
    tilt = stage.rng.uniform(3, 6)  # dB an octave
    return stage.noise([30, 8000], [0, -8 * tilt]) * np.float32(stage.db(4, -8))


def _hall(stage: Stage) -> Signal:
    """The target domain's background: a brighter noise floor, and another machine's hum."""
    tilt = stage.rng.uniform(1.5, 5.5)
    floor = stage.noise([30, 8000], [0, -8 * tilt]) * np.float32(stage.db(4, -5))
    orders = np.arange(1, 13)
    phases = np.exp(2j * np.pi * stage.rng.random(12))
    hum = unit(turned(one_turn(orders, phases / orders), stage.angle(stage.rng.uniform(48, 52))))
    return floor + hum * np.float32(stage.db(4, -14))


def _takes(
    machine_type: str, train_source: int, train_target: int, test_per_cell: int
) -> Iterator[Take]:
    for domain, count in (("source", train_source), ("target", train_target)):
        for number in range(count):
            yield Take(machine_type, "train", domain, "normal", number)
    for domain, label in itertools.product(("source", "target"), ("normal", "anomaly")):
        for number in range(test_per_cell):
            yield Take(machine_type, "test", domain, label, number)


def _condition(take: Take, rng: np.random.Generator) -> Condition:
    machine = MACHINES[take.machine_type]
    conditions = machine.source if take.domain == "source" else machine.target
    return conditions[int(rng.integers(len(conditions)))]


def _file_name(take: Take, told: Condition) -> str:
    tail = "_".join(itertools.chain.from_iterable(told.items())) or "noAttribute"
    clip = f"{take.domain}_{take.split}_{take.label}_{take.number:04d}"
    return f"section_{SECTION}_{clip}_{tail}.wav"


def _cells(told: Condition) -> list[str]:
    return list(itertools.chain.from_iterable(told.items())) or ["noAttribute", ""]


def _wav(sound: Signal) -> bytes:
    # A peak of a third of full scale, as a person would set the recorder.
    scale = 32767 / 3 / np.abs(sound).max()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.round(sound * scale).astype("<i2").tobytes())
    return buffer.getvalue()


def _write(uri: str, data: bytes) -> None:
    filesystem, path = store.resolve(uri)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)
