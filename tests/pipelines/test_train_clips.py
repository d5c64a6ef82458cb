"""What a training worker holds of the features tables, with Ray Train's shards made up."""

import weakref
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import ray.train

from ray_asd import recipe, tables
from ray_asd.pipelines.train_clips import Tables, dataset_name
from ray_asd.upstream import Classes

FAN = Classes(("fan",), (), (("fan", "00"),))
COUNTS = {"source": 9, "target": 2, "held_out": 3}
ABOVE = [
    "upstream.batch=8",
    "upstream.backbones.transformer.front_end={n_fft: 256, hop: 128, mels: bins}",
]


class Shard:
    """A features table's clips of one role, each of as many bands and frames as are told."""

    def __init__(self, bands: int, frames: int, role: str) -> None:
        self.read = 0
        rows = [
            {
                **dict.fromkeys(tables.CLIPS.names),
                "uri": f"{role}{i}.wav",
                "machine_type": "fan",
                "section": "00",
                "attributes": [],
                "start_s": 0.0,
                "frames": frames,
                "mel": np.zeros((bands, frames), "<f2").tobytes(),
            }
            for i in range(COUNTS[role])
        ]
        self._table = pa.Table.from_pylist(rows, tables.FEATURES)

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        self.read += 1
        yield self._table


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> recipe.Recipe:
    """A recipe whose Transformer has a front end of its own; its shards are handed out."""
    made = recipe.load("demo", [*ABOVE, "upstream.backbones.transformer.layers=1"])
    extra = made.model_dump(mode="json")
    extra["upstream"]["backbones"]["again"] = extra["upstream"]["backbones"]["efficientnet"]
    made = recipe.validate(extra, "extra")
    shards = {}
    for front_end, frames in zip(made.front_ends(), (188, 376), strict=True):
        for role in COUNTS:
            name = dataset_name(role, made.features_digest(front_end))
            shards[name] = Shard(front_end.bands, frames, role)
    monkeypatch.setattr(ray.train, "get_dataset_shard", shards.__getitem__)
    return made


def made_for(chosen: recipe.Recipe, held: bool) -> Tables:
    names = [chosen.features_digest(front_end) for front_end in chosen.front_ends()]
    steps = dict(zip(names, (2, 3), strict=True))
    return Tables(FAN, chosen, steps, dict.fromkeys(names, held), rank=0, workers=1)


def test_batches_are_in_the_shape_of_the_backbone_s_own_front_end(chosen: recipe.Recipe) -> None:
    worker = made_for(chosen, held=False)
    for backbone, steps, shape in (
        ("efficientnet", 2, (224, 126)),
        ("transformer", 3, (124, 251)),
    ):
        clips = worker.of(backbone)
        batches = list(clips.epoch(0))
        assert len(batches) == clips.steps == steps
        assert {tuple(batch.mels.shape) for batch in batches} == {(8, *shape)}
        (watched,) = clips.watched
        assert tuple(watched.mels.shape) == (3, *shape)


def test_a_worker_holds_one_table_at_a_time_and_shares_it(chosen: recipe.Recipe) -> None:
    worker = made_for(chosen, held=True)
    first = worker.of("efficientnet")
    list(first.epoch(0))
    assert worker.of("again") is first
    source = ray.train.get_dataset_shard(
        dataset_name("source", chosen.features_digest(chosen.front_end))
    )
    list(first.epoch(1))
    assert source.read == 1
    gone = weakref.ref(first)
    del first
    worker.of("transformer")
    assert gone() is None
