from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.recipe import Masking, Recipe
from ray_asd.upstream import Batch, Classes, Training
from ray_asd.upstream.masking import mask

CPU = torch.device("cpu")


def runs(lost: np.ndarray) -> list[int]:
    """Lengths of the runs of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@given(
    times=st.integers(0, 3),
    widest_time=st.integers(0, 40),
    bands=st.integers(0, 3),
    widest_mels=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_lost_are_whole_bands_no_wider_than_asked_and_the_rest_stays(
    times: int, widest_time: int, bands: int, widest_mels: int, seed: int
) -> None:
    settings = Masking(
        enabled=True,
        time_bands=times,
        widest_time_s=widest_time / 10,
        mel_bands=bands,
        widest_mels=widest_mels,
    )
    rng = np.random.default_rng(seed)
    values = rng.normal(-8, 2, size=(3, 12, 30)).astype(np.float32)
    eye = torch.eye(3)
    batch = Batch(torch.from_numpy(values), eye, eye, eye)
    masked = mask(batch, settings, 10.0, rng)
    assert torch.equal(masked.machine_type, eye)
    np.testing.assert_array_equal(batch.mels.numpy(), values)
    level = values.mean((0, 2))
    for before, after in zip(values, masked.mels.numpy(), strict=True):
        lost = before != after
        np.testing.assert_allclose(
            after[lost], np.broadcast_to(level[:, None], lost.shape)[lost], rtol=1e-5
        )
        whole_frames, whole_mels = lost.all(0), lost.all(1)
        np.testing.assert_array_equal(lost, whole_frames[None] | whole_mels[:, None])
        if not (whole_frames.all() or whole_mels.all()):
            assert sum(runs(whole_frames)) <= times * widest_time
            assert sum(runs(whole_mels)) <= bands * widest_mels
            assert len(runs(whole_frames)) <= times
            assert len(runs(whole_mels)) <= bands


def test_widths_and_places_are_spread_evenly() -> None:
    settings = Masking(enabled=True, time_bands=1, widest_time_s=1.0, mel_bands=0, widest_mels=0)
    batch = Batch(torch.randn(4000, 1, 30), *[torch.zeros(4000, 1)] * 3)
    lost = mask(batch, settings, 10.0, np.random.default_rng(0)).mels != batch.mels
    widths = lost.sum((1, 2))
    assert widths.max() == 10
    assert abs(float(widths.double().mean()) - 5) < 0.2
    assert (lost[:, 0, 12:18].double().mean(0) - 5 / 25.5).abs().max() < 0.04


def test_training_masks_where_the_recipe_says_so_and_validation_never(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    plain, masked, again = (
        Training(
            tiny("upstream.mixup.enabled=false", f"upstream.masking.enabled={enabled}"),
            "transformer",
            three_types,
            1,
            CPU,
        )
        for enabled in ("false", "true", "true")
    )
    assert plain.validate(batch) == masked.validate(batch)
    first = masked.step(batch)
    assert first.loss != plain.step(batch).loss
    assert first == again.step(batch)
