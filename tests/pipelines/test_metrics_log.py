import json
import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from ray_asd.pipelines import metrics_log


def line(backbone: str, epoch: int, loss: float) -> dict:
    return {"backbone": backbone, "epoch": epoch, "loss": loss}


def test_a_resumed_training_replaces_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    out = str(tmp_path)
    first = [line("a", epoch, 1.0) for epoch in (1, 2, 3)] + [line("b", 1, 1.0)]
    metrics_log._write(first, out)
    # another driver, whose workers started anew once themselves
    metrics_log._write([line("a", epoch, 2.0) for epoch in (2, 3, 2, 3, 4)], out)
    found = [json.loads(text) for text in (tmp_path / "a" / "metrics.jsonl").open()]
    assert [(row["epoch"], row["loss"]) for row in found] == [(1, 1), (2, 2), (3, 2), (4, 2)]
    assert metrics_log.last_lines(out, ["a", "b", "c"]) == [line("a", 4, 2.0), line("b", 1, 1.0)]


def test_epochs_after_those_of_a_training_begun_anew_are_forgotten(tmp_path: Path) -> None:
    metrics_log._write([line("a", epoch, 1.0) for epoch in (1, 2, 3)], str(tmp_path))
    metrics_log._write([line("a", 1, 2.0)], str(tmp_path))
    assert metrics_log.last_lines(str(tmp_path), ["a"]) == [line("a", 1, 2.0)]


def test_tensorboard_finds_every_number_by_epoch(tmp_path: Path) -> None:
    lines = [{**line("a", epoch, 1 / epoch), "at": 7.0, "accuracy": None} for epoch in (1, 2)]
    metrics_log._write(lines[:1], str(tmp_path))
    before = (tmp_path / "a" / metrics_log.EVENTS).read_bytes()
    metrics_log._write(lines, str(tmp_path))
    log = (tmp_path / "a" / metrics_log.EVENTS).read_bytes()
    found = [
        (value.tag, event.step, event.wall_time, value.simple_value)
        for event in events(log)
        for value in event.summary.value
    ]
    assert found == [("loss", 1, 7.0, 1.0), ("loss", 2, 7.0, 0.5)]
    first = len(before) - len(log)
    assert list(events(log[:first])) == list(events(log))[:-1]


def events(log: bytes) -> list[Event]:
    """The records of a TensorBoard log: length, its checksum, the event, its checksum."""
    found, place = [], 0
    while place < len(log):
        (length,) = struct.unpack_from("<Q", log, place)
        found.append(Event.FromString(log[place + 12 : place + 12 + length]))
        place += 16 + length
    return found
