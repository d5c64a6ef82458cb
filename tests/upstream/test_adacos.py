import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from ray_asd.recipe import AdaCos, Recipe
from ray_asd.upstream import Batch, Classes, Training
from ray_asd.upstream.adacos import SubClusterAdaCos
from ray_asd.upstream.network import JointNetwork, Network

CPU = torch.device("cpu")
ADACOS = "upstream.loss={kind: adacos, sub_clusters: 4}"


def test_a_class_has_the_summed_likelihood_of_its_sub_clusters() -> None:
    torch.manual_seed(0)
    head = SubClusterAdaCos(AdaCos(kind="adacos", sub_clusters=3), embedding=5, classes=4)
    embedding = torch.randn(7, 5) * 10
    # Formula (4) of AdaCos, with C·S for C
    scale = math.sqrt(2) * math.log(4 * 3 - 1)
    cosines = functional.cosine_similarity(
        embedding[:, None], head.centres.reshape(12, 5)[None], dim=2
    )
    expected = (scale * cosines).softmax(1).reshape(7, 4, 3).sum(2)
    torch.testing.assert_close(head(embedding).softmax(1), expected)
    torch.testing.assert_close(head(embedding * 1e-3), head(embedding))


def test_with_one_sub_cluster_two_classes_and_no_room_the_logits_are_scaled_cosines() -> None:
    head = SubClusterAdaCos(AdaCos(kind="adacos", sub_clusters=1), embedding=2, classes=3)
    with torch.no_grad():
        head.centres.copy_(torch.tensor([[[1.0, 0]], [[0, 2.0]], [[-3.0, 0]]]))
    logits = head(torch.tensor([[5.0, 0]])) / (math.sqrt(2) * math.log(2))
    torch.testing.assert_close(logits, torch.tensor([[1.0, 0, -1.0]]))


def test_both_heads_likelihoods_are_sums_of_the_joint_ones(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny(ADACOS), "transformer", three_types, 1, CPU)
    outputs = training.network.eval()(random_batch(three_types, [0, 1, 2], [0, -1, 2]).mels)
    joint = outputs.joint.softmax(1)
    # fan m=a, fan m=b, valve v=1, gearbox
    expected = torch.stack([joint[:, 0] + joint[:, 1], joint[:, 3], joint[:, 2]], dim=1)
    torch.testing.assert_close(outputs.machine_type.softmax(1), expected)
    with_attributes = joint[:, :3] / joint[:, :3].sum(1, keepdim=True)
    torch.testing.assert_close(outputs.attributes.softmax(1), with_attributes)


@pytest.mark.parametrize(("rate", "bf16"), [(0.003, False), (0.003, True), (0.3, False)])
def test_it_stays_finite_over_many_steps_of_mixup_and_learns_at_a_fair_rate(
    tiny: Callable[..., Recipe],
    three_types: Classes,
    random_batch: Callable[..., Batch],
    rate: float,
    bf16: bool,
) -> None:
    recipe = tiny(ADACOS, f"upstream.learning_rate={rate}")
    training = Training(recipe, "transformer", three_types, 300, CPU, bf16=bf16)
    assert isinstance(training.network, JointNetwork)
    scale = training.network.joint.scale
    batch = random_batch(three_types, [0, 0, 1, 2] * 4, [0, 1, -1, 2] * 4)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(300):
        noise = torch.from_numpy(rng.normal(size=batch.mels.shape).astype(np.float32))
        noisy = Batch(batch.mels + noise / 10, batch.machine_type, batch.attributes, batch.plain)
        step = training.step(noisy)
        losses.append(step.loss)
        assert step.gradient_norm is not None
        assert math.isfinite(step.gradient_norm)
    assert np.isfinite(losses).all()
    assert training.network.joint.scale == scale
    assert all(torch.isfinite(p).all() for p in training.network.parameters())
    if rate < 0.1:
        assert training.validate(batch).loss < 0.5 * losses[0]


def test_its_centres_are_trained_and_not_decayed(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny(ADACOS), "transformer", three_types, 2, CPU)
    centres = training.network.joint.centres
    before = centres.clone()
    training.step(random_batch(three_types, [0, 1, 2], [0, -1, 2]))
    assert not torch.equal(centres, before)
    assert any(p is centres for p in training.optimizer.param_groups[1]["params"])
    assert training.optimizer.param_groups[1]["weight_decay"] == 0


def test_a_single_class_falls_back_to_cross_entropy(
    tiny: Callable[..., Recipe], random_batch: Callable[..., Batch]
) -> None:
    classes = Classes(("fan",), (), (("fan", "00"),))
    training = Training(tiny(ADACOS), "transformer", classes, 1, CPU)
    assert isinstance(training.network, Network)
    assert training.step(random_batch(classes, [0, 0], [-1, -1])).loss == 0.0
    two = Classes(("fan",), (), (("fan", "00"), ("fan", "01")))
    assert isinstance(Training(tiny(ADACOS), "transformer", two, 1, CPU).network, JointNetwork)
