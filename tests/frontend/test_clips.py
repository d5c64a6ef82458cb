from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd import recipe
from ray_asd.errors import Reason, Rejected
from ray_asd.frontend import cut, standardize

CLIPS = recipe.load("first_shot").clips
RATE = 16_000


@given(samples=st.integers(2 * RATE, 100 * RATE))
def test_clips_cover_the_recording_and_nothing_else(samples: int) -> None:
    spans = cut(samples, RATE, CLIPS)
    assert spans[0].start == 0
    assert spans[-1].start + spans[-1].length == samples
    for before, after in pairwise(spans):
        assert before.start < after.start <= before.start + before.length
    if samples > 20 * RATE:
        assert {span.length for span in spans} == {10 * RATE}
    else:
        assert len(spans) == 1


def test_a_recording_shorter_than_a_segment_is_too_short() -> None:
    assert cut(2 * RATE, RATE, CLIPS) == [(0, 2 * RATE)]
    with pytest.raises(Rejected, match=r"2 s") as caught:
        cut(2 * RATE - 1, RATE, CLIPS)
    assert caught.value.reason is Reason.TOO_SHORT


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (0.9, 1e-3), (-0.5, 3e-5)])
def test_standardized_to_mean_0_and_variance_1(offset: float, scale: float) -> None:
    noise = np.random.default_rng(0).standard_normal(160_000)
    clip = standardize((offset + scale * noise).astype(np.float32))
    assert clip.dtype == np.float32
    assert abs(clip.mean(dtype=np.float64)) < 1e-3
    assert abs(clip.std(dtype=np.float64) - 1) < 1e-3


@pytest.mark.parametrize("level", [0.0, 0.1, -1.0, 1 / 32768])
def test_a_constant_clip_is_silent(level: float) -> None:
    with pytest.raises(Rejected) as caught:
        standardize(np.full(32_000, level, dtype=np.float32))
    assert caught.value.reason is Reason.SILENT


def test_one_least_significant_bit_of_sound_is_not_silent() -> None:
    clip = np.zeros(32_000, dtype=np.float32)
    clip[1000] = 1 / 32768
    assert np.isfinite(standardize(clip)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite(bad: float) -> None:
    clip = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    clip[[5, 6]] = bad
    with np.errstate(invalid="ignore"), pytest.raises(Rejected) as caught:
        standardize(clip)
    assert caught.value.reason is Reason.NOT_FINITE
