from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.errors import BadInput
from ray_asd.upstream import (
    Classes,
    Clip,
    Composer,
    TargetPool,
    clips_of,
    crop_start,
    shuffled,
    steps_per_epoch,
    worker_batch,
)

CLASSES = Classes(("fan",), (), (("fan", "00"),))


def clip(name: str, value: float, frames: int = 40) -> Clip:
    """A clip whose every frame tells the clip (band 0) and the frame (band 1)."""
    mel = np.stack([np.full(frames, value), np.arange(frames)]).astype(np.float16)
    return Clip(name, 0.0, mel, machine_type=0, attributes=-1, plain=0)


def clips(kind: str, count: int, first: int) -> list[Clip]:
    return [clip(f"{kind}{i}", first + i) for i in range(count)]


def composer(target: list[Clip], size: int, rank: int = 0) -> Composer:
    return Composer(CLASSES, TargetPool(target), size=size, length=10, seed=5, rank=rank)


@given(clips=st.integers(0, 10_000), batch=st.integers(2, 256), workers=st.integers(1, 16))
def test_steps_use_every_source_clip_about_once(clips: int, batch: int, workers: int) -> None:
    if batch // workers < 2:
        with pytest.raises(BadInput, match=r"upstream\.batch"):
            steps_per_epoch(clips, batch, workers)
        return
    steps = steps_per_epoch(clips, batch, workers)
    places = worker_batch(batch, workers) - 1
    assert steps >= 1
    assert clips - steps * places < places
    assert steps == 1 or steps * places <= clips


@given(
    names=st.tuples(
        st.integers(0, 2**31), st.integers(0, 1000), st.text(max_size=20), st.floats(0, 7200)
    ),
    length=st.integers(1, 2000),
    more=st.integers(0, 1000),
)
def test_a_crop_lies_within_its_clip_and_is_always_the_same(
    names: tuple[int, int, str, float], length: int, more: int
) -> None:
    starts = {crop_start(*names, frames=length + more, length=length) for _ in range(2)}
    assert len(starts) == 1
    assert 0 <= starts.pop() <= more


def test_crops_are_uniform_and_change_with_epoch_and_repetition() -> None:
    draws = [crop_start(0, e, "a.wav", 0.0, frames=19, length=10) for e in range(5000)]
    counts = np.bincount(draws, minlength=10)
    # chi-square with 9 degrees of freedom: 27.9 is its 0.999 quantile
    assert len(counts) == 10
    assert ((counts - 500) ** 2 / 500).sum() < 27.9
    assert crop_start(0, 0, "a.wav", 0.0, frames=10**6, length=1) != crop_start(
        0, 0, "a.wav", 0.0, frames=10**6, length=1, repetition=1
    )


def test_a_crop_stays_where_it_was_in_runs_that_are_resumed() -> None:
    assert crop_start(0, 3, "s3://b/ä.wav", 10.0, frames=626, length=126) == 243


def test_a_clip_shorter_than_a_segment_is_refused() -> None:
    with pytest.raises(BadInput, match=r"short\.wav: 9 frames"):
        crop_start(0, 0, "short.wav", 0.0, frames=9, length=10)


@given(count=st.integers(0, 60), room=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_a_shuffled_stream_loses_nothing_and_holds_no_more_than_its_room(
    count: int, room: int, seed: int
) -> None:
    taken = 0

    def stream() -> Iterator[Clip]:
        nonlocal taken
        for one in clips("s", count, first=0):
            taken += 1
            yield one

    given = []
    for one in shuffled(stream(), room, np.random.default_rng(seed)):
        assert taken - len(given) <= room + 1
        given.append(one.uri)
    assert sorted(given) == sorted(one.uri for one in clips("s", count, first=0))
    again = shuffled(clips("s", count, first=0), room, np.random.default_rng(seed))
    assert given == [one.uri for one in again]


def test_a_shuffled_stream_is_in_another_order_and_lets_the_table_s_memory_go() -> None:
    source = clips("s", 200, first=0)
    given = list(shuffled(source, 50, np.random.default_rng(0)))
    moved = [abs(i - int(one.uri[1:])) for i, one in enumerate(given)]
    assert 20 < np.mean(moved) < 100
    assert not any(
        np.shares_memory(one.mel, other.mel) for one in given[:5] for other in source[:200]
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("targets", [1, 3, 10])
@pytest.mark.parametrize("sources", [9, 100])
def test_every_batch_of_every_worker_holds_a_target_clip(
    workers: int, targets: int, sources: int
) -> None:
    source, target = clips("s", sources, first=100), clips("t", targets, first=500)
    batch = 32
    share = sources // workers
    steps = steps_per_epoch(share, batch, workers)
    size = worker_batch(batch, workers)
    seen: list[set[float]] = []
    for rank in range(workers):
        own = composer(target, size, rank)
        made = list(own.epoch(source[rank::workers][:share], epoch=0, steps=steps))
        assert len(made) == steps
        for one in made:
            values = one.mels[:, 0, 0]
            assert len(one) == size
            assert int((values >= 500).sum()) == 1
        heard = torch.cat([one.mels[:, 0, 0] for one in made])
        seen.append(set(heard[heard < 500].tolist()))
    assert sum(len(values) for values in seen) == len(set.union(*seen))
    used = min(share, steps * (size - 1))
    assert all(len(values) == used for values in seen)


def test_target_clips_are_drawn_evenly_and_cropped_anew() -> None:
    made = list(composer(clips("t", 4, 500), 3).epoch(clips("s", 800, 0), epoch=0, steps=400))
    target = torch.stack([one.mels[-1, :, 0] for one in made])
    counts = torch.bincount(target[:, 0].long() - 500, minlength=4)
    assert (counts > 60).all()
    assert len(target[:, 1].unique()) > 20


def test_too_few_source_clips_are_repeated_with_other_crops() -> None:
    batch = composer(clips("t", 1, 500), 17).compose(clips("s", 4, 100), epoch=0, step=0)
    source = batch.mels[:16]
    assert torch.bincount(source[:, 0, 0].long())[100:104].tolist() == [4, 4, 4, 4]
    of_first = source[source[:, 0, 0] == 100][:, 1, 0]
    assert len(of_first.unique()) > 1


def test_a_stream_that_ends_early_still_fills_every_step_with_new_crops() -> None:
    made = list(composer(clips("t", 1, 500), 5).epoch(clips("s", 6, 100), epoch=0, steps=4))
    assert [len(one) for one in made] == [5] * 4
    assert not torch.equal(made[2].mels[:4], made[3].mels[:4])


def test_only_one_batch_of_the_stream_is_read_at_a_time() -> None:
    read = 0

    def stream() -> Iterator[Clip]:
        nonlocal read
        for one in clips("s", 100, 0):
            read += 1
            yield one

    batches = composer(clips("t", 2, 500), 8).epoch(stream(), epoch=0, steps=10)
    for count, _ in enumerate(islice(batches, 3), start=1):
        assert read == 7 * count


def test_without_target_clips_a_batch_is_all_source_and_the_reverse() -> None:
    source, target = clips("s", 6, 100), clips("t", 2, 500)
    all_source = composer([], 6).compose(source, epoch=0, step=0).mels[:, 0, 0]
    assert sorted(all_source.tolist()) == list(range(100, 106))
    assert (composer(target, 6).compose([], epoch=0, step=0).mels[:, 0, 0] >= 500).all()
    with pytest.raises(BadInput, match="no training clip"):
        composer([], 6).compose([], epoch=0, step=0)


def test_batches_follow_from_seed_epoch_and_rank() -> None:
    def mels(epoch: int, rank: int) -> torch.Tensor:
        one = composer(clips("t", 50, 500), 8, rank).compose(clips("s", 7, 0), epoch, 0)
        return one.mels

    assert torch.equal(mels(0, 0), mels(0, 0))
    assert not torch.equal(mels(0, 0), mels(1, 0))
    assert not torch.equal(mels(0, 0)[-1], mels(0, 1)[-1])
    assert torch.equal(mels(0, 0)[:-1], mels(0, 1)[:-1])


def test_clips_are_views_of_the_table_with_their_labels(
    features: Callable[..., pa.Table], three_types: Classes
) -> None:
    table = features(
        [("fan", {"m": "b"}, "source"), ("gearbox", {}, "target"), ("valve", {"v": "1"}, "source")]
    )
    made = list(clips_of(table, three_types, mels=12))
    assert [(one.machine_type, one.attributes) for one in made] == [(0, 1), (1, -1), (2, 2)]
    data = table.column("mel").chunk(0).buffers()[2]
    for one, scalar in zip(made, table.column("mel"), strict=True):
        assert one.mel.shape == (12, 40)
        assert one.mel.tobytes() == scalar.as_py()
        assert 0 <= one.mel.ctypes.data - data.address < data.size
        assert not one.mel.flags.owndata
    pieces = pa.concat_tables([table.slice(1), table.slice(0, 1)])
    mel = table.schema.get_field_index("mel")
    narrow = table.set_column(mel, "mel", table.column("mel").cast(pa.binary()))
    again = [
        clip for t in (table.slice(2), pieces, narrow) for clip in clips_of(t, three_types, 12)
    ]
    expected = [made[i].mel.tobytes() for i in (2, 1, 2, 0, 0, 1, 2)]
    assert [one.mel.tobytes() for one in again] == expected
    with pytest.raises(BadInput, match=r"fan/source/0000\.wav.*13 bands × 40 frames"):
        list(clips_of(table, three_types, mels=13))
    with pytest.raises(BadInput, match="column mel is missing"):
        list(clips_of(table.drop_columns(["mel"]), three_types, mels=12))
