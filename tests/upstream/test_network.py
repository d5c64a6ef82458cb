from collections.abc import Callable

import pytest
import torch

from ray_asd.recipe import CrossEntropy, Recipe
from ray_asd.upstream import Batch, Classes, build_backbone
from ray_asd.upstream.network import Network, Outputs, hits, losses

WEIGHTS = CrossEntropy(kind="cross_entropy", machine_type=1.0, attributes=0.5)


def network_of(recipe: Recipe, classes: Classes) -> Network:
    torch.manual_seed(0)
    backbone = build_backbone(
        recipe.upstream.backbones["transformer"], mels=12, frames=17, embedding=8
    )
    return Network(backbone, 8, classes)


def test_losses_are_the_hand_computed_ones(three_types: Classes) -> None:
    outputs = Outputs(
        torch.zeros(3, 8),
        torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([[1.0, 0.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    batch = Batch(
        torch.zeros(3, 12, 17),
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]]),
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.75]]),
        torch.tensor([[0.0], [1.0], [0.25]]),
    )
    e = torch.e
    rows = [
        -torch.log(torch.tensor(e**2 / (e**2 + 2))),
        torch.log(torch.tensor(3.0)),
        torch.log(torch.tensor(2 + e)) - 0.75,
    ]
    value_rows = [-torch.log(torch.tensor(e / (e + 2))), 0.75 * torch.log(torch.tensor(3.0))]
    loss = losses(outputs, batch, WEIGHTS)
    torch.testing.assert_close(loss.machine_type, torch.stack(rows).mean())
    torch.testing.assert_close(loss.attributes, torch.stack(value_rows).sum() / 1.75)
    torch.testing.assert_close(loss.total, loss.machine_type + 0.5 * loss.attributes)
    assert [int(count) for count in hits(outputs, batch)] == [2, 1, 2]


def test_clips_without_attributes_leave_the_attribute_head_alone(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    network = network_of(tiny(), three_types)
    batch = random_batch(three_types, [0, 1, 1, 2], [-1, -1, -1, -1])
    loss = losses(network(batch.mels), batch, WEIGHTS)
    assert loss.attributes == 0
    loss.total.backward()
    assert network.attributes is not None
    for parameter in network.attributes.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert network.machine_type.weight.grad is not None
    assert network.machine_type.weight.grad.any()


@pytest.mark.parametrize("without", [1, 3])
def test_the_attribute_loss_is_that_of_the_clips_with_attributes_alone(
    tiny: Callable[..., Recipe],
    three_types: Classes,
    random_batch: Callable[..., Batch],
    without: int,
) -> None:
    network = network_of(tiny(), three_types).eval()
    batch = random_batch(three_types, [0, 2] + [1] * without, [1, 2] + [-1] * without)
    outputs = network(batch.mels)
    attributed = Batch(
        batch.mels[:2], batch.machine_type[:2], batch.attributes[:2], batch.plain[:2]
    )
    alone = Outputs(outputs.embedding[:2], outputs.machine_type[:2], outputs.attributes[:2])
    torch.testing.assert_close(
        losses(outputs, batch, WEIGHTS).attributes, losses(alone, attributed, WEIGHTS).attributes
    )


def test_a_manifest_without_any_attribute_has_a_loss_of_zero_with_a_gradient(
    tiny: Callable[..., Recipe], random_batch: Callable[..., Batch]
) -> None:
    classes = Classes(("fan", "valve"), (), (("fan", "00"), ("valve", "00")))
    network = network_of(tiny(), classes)
    batch = random_batch(classes, [0, 1, 1], [-1, -1, -1])
    outputs = network(batch.mels)
    loss = losses(outputs, batch, WEIGHTS)
    assert loss.attributes == 0
    assert loss.attributes.requires_grad
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert hits(outputs, batch).attributed == 0
