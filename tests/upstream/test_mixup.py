from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.upstream import Batch, Classes
from ray_asd.upstream.mixup import blend, mix


@given(
    types=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    alpha=st.floats(0.01, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_sum_to_one_and_say_what_was_mixed(
    types: list[int], alpha: float, seed: int
) -> None:
    one_hot = torch.eye(3)[types]
    # The mel of a clip is its own label, so that both must come out mixed alike.
    batch = Batch(one_hot[:, :, None].repeat(1, 1, 4), one_hot, torch.zeros(len(types), 0), one_hot)
    mixed = mix(batch, alpha, np.random.default_rng(seed))
    torch.testing.assert_close(mixed.machine_type.sum(1), torch.ones(len(types)))
    assert torch.equal(mixed.mels[:, :, 0], mixed.machine_type)
    assert torch.equal(mixed.joint, mixed.machine_type)
    assert ((mixed.machine_type > 0).sum(1) <= 2).all()
    if len(set(types)) == 1:
        assert torch.equal(mixed.machine_type, one_hot)


def test_lambda_at_its_limits_is_the_clip_or_its_partner(
    three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    batch = random_batch(three_types, [0, 1, 2], [1, -1, 2])
    partners = torch.tensor([1, 2, 0])
    own = blend(batch, partners, torch.ones(3))
    other = blend(batch, partners, torch.zeros(3))
    for name in ("mels", "machine_type", "attributes", "plain"):
        assert torch.equal(getattr(own, name), getattr(batch, name))
        assert torch.equal(getattr(other, name), getattr(batch, name)[partners])
    half = blend(batch, partners, torch.full((3,), 0.5))
    assert half.attributes.sum(1).tolist() == [0.5, 0.5, 1.0]
    assert half.joint.sum(1).tolist() == [1.0, 1.0, 1.0]


def test_partners_are_of_other_machine_types_and_lambda_is_beta() -> None:
    types = [0] * 1000 + [1] * 1000 + [2] * 1000
    one_hot = torch.eye(3)[types]
    batch = Batch(torch.zeros(3000, 1, 1), one_hot, torch.zeros(3000, 0), one_hot)
    mixed = mix(batch, 0.2, np.random.default_rng(0)).machine_type
    shares = mixed[torch.arange(3000), types]
    assert abs(float(shares.mean()) - 0.5) < 0.03
    # variance of Beta(α, α) = 1 / (4 (2α + 1))
    assert abs(float(shares.var()) - 1 / 5.6) < 0.01
    of_fans = mixed[:1000]
    both = (of_fans[:, 1] > of_fans[:, 2]).float().mean()
    assert 0.4 < both < 0.6
