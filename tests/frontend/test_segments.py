import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd import recipe
from ray_asd.frontend import LogMel, segment_frames, segment_starts, segments

RECIPE = recipe.load("first_shot")
LENGTH = segment_frames(RECIPE.front_end, RECIPE.clips)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (2.0, [0] * 10),
        (5.0, [0, 21, 42, 62, 83, 104, 125, 145, 166, 187]),
        (6.0, [0, 28, 56, 83, 111, 139, 167, 194, 222, 250]),
        (10.0, [0, 56, 111, 167, 222, 278, 333, 389, 444, 500]),
        (12.0, [0, 69, 139, 208, 278, 347, 417, 486, 556, 625]),
        (18.0, [0, 111, 222, 333, 444, 556, 667, 778, 889, 1000]),
    ],
)
def test_starts_of_the_lengths_that_machines_come_in(seconds: float, starts: list[int]) -> None:
    frames = LogMel(RECIPE.front_end).frames(round(16_000 * seconds))
    assert LENGTH == 126
    assert segment_starts(frames, LENGTH, 10) == starts


@given(room=st.integers(0, 5000), count=st.integers(1, 64))
def test_even_from_the_start_to_the_end(room: int, count: int) -> None:
    starts = segment_starts(LENGTH + room, LENGTH, count)
    assert len(starts) == count
    assert starts[0] == 0
    assert count == 1 or starts[-1] == room
    steps = np.diff(starts)
    assert count <= 2 or steps.max() - steps.min() <= 1


def test_segments_are_slices_and_cover_a_clip_of_20_s() -> None:
    mel = np.random.default_rng(0).standard_normal((224, 1251)).astype(np.float32)
    pieces, starts = segments(mel, LENGTH, 10)
    assert pieces.shape == (10, 224, 126)
    for piece, start in zip(pieces, starts, strict=True):
        np.testing.assert_array_equal(piece, mel[:, start : start + 126])
    assert np.diff(starts).max() <= LENGTH


def test_a_clip_shorter_than_a_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="no segment"):
        segment_starts(125, 126, 10)
