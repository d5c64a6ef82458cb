import math
import pickle
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from ray_asd.recipe import Recipe
from ray_asd.upstream import (
    Batch,
    Classes,
    Composer,
    DivergedError,
    TargetPool,
    Training,
    average,
    clips_of,
)
from ray_asd.upstream import training as training_module

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_it_learns_separable_machines(
    tiny: Callable[..., Recipe], features: Callable[..., pa.Table], three_types: Classes
) -> None:
    recipe = tiny("upstream.learning_rate=0.01", "upstream.mixup.alpha=0.2")
    kinds = [("fan", {"m": "a"}), ("fan", {"m": "b"}), ("gearbox", {}), ("valve", {"v": "1"})]
    source, target, held_out = (
        list(
            clips_of(
                features([(*kind, domain) for kind in kinds for _ in range(count)], seed=seed),
                three_types,
                mels=12,
            )
        )
        for seed, (domain, count) in enumerate([("source", 12), ("target", 1), ("source", 6)])
    )
    composer = Composer(three_types, TargetPool(target), size=16, length=17, seed=0)
    training = Training(recipe, "transformer", three_types, 60, CPU)
    unseen = composer.crops([(clip, 0) for clip in held_out], epoch=0)
    before = average([training.validate(unseen)])
    lines = [
        average([training.step(batch) for batch in composer.epoch(source, epoch, steps=3)])
        for epoch in range(20)
    ]
    after = average([training.validate(unseen)])
    assert lines[-1]["loss"] < lines[0]["loss"]
    for figure in ("loss_machine_type", "loss_attributes"):
        assert after[figure] < 0.6 * before[figure]
    # chance: a half and a third, by always naming the commonest
    assert after["accuracy_machine_type"] > 0.9
    assert after["accuracy_attributes"] > 0.8


def test_each_backbone_trains_on_its_own_front_end_with_mixup_and_masking(
    tiny: Callable[..., Recipe], three_types: Classes
) -> None:
    recipe = tiny(
        "upstream.backbones.efficientnet.front_end={n_fft: 256, hop: 128, mels: bins}",
        "upstream.backbones.transformer.front_end={n_fft: 4096, hop: 512}",
        "upstream.masking.enabled=true",
        "upstream.masking.widest_mels=4",
        "upstream.mixup.alpha=5.0",
    )
    for backbone, shape in (("efficientnet", (124, 33)), ("transformer", (12, 9))):
        training = Training(recipe, backbone, three_types, 2, CPU)
        labels = torch.eye(4)[[0, 1, 2, 3]]
        mels = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        batch = Batch(mels, labels[:, :3].clone(), labels[:, :3].clone(), labels[:, 3:].clone())
        batch.machine_type[3, 1] = 1
        before = training.network.backbone.trunk.state_dict()
        weights = {name: tensor.clone() for name, tensor in before.items()}
        steps = [training.step(batch) for _ in range(2)]
        assert all(math.isfinite(step.loss) for step in steps)
        assert steps[0].loss != training.validate(batch).loss
        after = training.network.backbone.trunk.state_dict()
        assert any(not torch.equal(after[name], weights[name]) for name in weights)


def test_masked_times_are_as_long_in_seconds_by_every_front_end(
    tiny: Callable[..., Recipe], three_types: Classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(
        training_module, "mask", lambda batch, _, per_s, __: told.append(per_s) or batch
    )
    recipe = tiny(
        "upstream.backbones.transformer.front_end={hop: 128}", "upstream.masking.enabled=true"
    )
    for backbone, frames in (("transformer", 33), ("efficientnet", 17)):
        batch = Batch(torch.randn(3, 12, frames), torch.eye(3), torch.eye(3), torch.zeros(3, 1))
        Training(recipe, backbone, three_types, 1, CPU).step(batch)
    assert told == [125.0, 62.5]


def test_the_schedule_is_one_cycle_over_exactly_the_steps_that_run(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny(), "transformer", three_types, 10, CPU)
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    rates = [training.step(batch).learning_rate for _ in range(10)]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    expected = OneCycleLR(optimizer, max_lr=1e-3, total_steps=10)
    for rate in rates:
        assert rate == pytest.approx(expected.get_last_lr()[0])
        optimizer.step()
        expected.step()
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 1e-7
    with pytest.raises(RuntimeError, match="all 10 steps"):
        training.step(batch)


def test_norms_biases_and_positions_are_not_decayed(
    tiny: Callable[..., Recipe], three_types: Classes
) -> None:
    training = Training(tiny(), "transformer", three_types, 1, CPU)
    names = {id(p): name for name, p in training.network.named_parameters()}
    decayed, plain = (
        {names[id(p)] for p in group["params"]} for group in training.optimizer.param_groups
    )
    assert [g["weight_decay"] for g in training.optimizer.param_groups] == [1e-2, 0.0]
    assert decayed | plain == set(names.values())
    assert {"backbone.trunk.positions", "backbone.trunk.header"} <= plain
    assert all(name.endswith(("weight",)) for name in decayed)
    assert not any("norm" in name or "entrance" in name or "bias" in name for name in decayed)


def test_a_diverging_loss_stops_and_leaves_the_weights(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny("upstream.mixup.enabled=false"), "transformer", three_types, 5, CPU)
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    training.step(batch)
    before = {name: p.clone() for name, p in training.network.named_parameters()}
    broken = Batch(batch.mels * float("nan"), batch.machine_type, batch.attributes, batch.plain)
    with pytest.raises(DivergedError, match=r"transformer diverged at step 1.*lower") as caught:
        training.step(broken)
    assert all(torch.equal(p, before[name]) for name, p in training.network.named_parameters())
    assert training.steps == 1
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301, as between processes
    assert str(again) == str(caught.value)


def test_validation_changes_nothing(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny(), "transformer", three_types, 5, CPU)
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    training.step(batch)
    before = {name: t.clone() for name, t in training.network.state_dict().items()}
    assert training.validate(batch) == training.validate(batch)
    assert all(torch.equal(t, before[name]) for name, t in training.network.state_dict().items())


def test_an_untrained_system_needs_no_schedule(
    tiny: Callable[..., Recipe], three_types: Classes, random_batch: Callable[..., Batch]
) -> None:
    training = Training(tiny("upstream.epochs=0"), "transformer", three_types, 0, CPU)
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    assert training.validate(batch).loss > 0
    with pytest.raises(RuntimeError, match="all 0 steps"):
        training.step(batch)


@pytest.mark.parametrize("backbone", ["efficientnet", "transformer"])
def test_a_single_machine_type_without_attributes_trains(
    tiny: Callable[..., Recipe], random_batch: Callable[..., Batch], backbone: str
) -> None:
    classes = Classes(("fan",), (), (("fan", "00"),))
    training = Training(tiny(), backbone, classes, 1, CPU)
    metrics = training.step(random_batch(classes, [0, 0, 0], [-1, -1, -1]))
    assert (metrics.loss, metrics.right_machine_type, metrics.attributed) == (0.0, 3, 0)
    assert average([metrics])["loss_attributes"] is None


def test_the_seed_decides_the_weights_and_leaves_the_stream_alone(
    tiny: Callable[..., Recipe], three_types: Classes
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    heads = [
        Training(tiny(f"seed={seed}"), "transformer", three_types, 1, CPU).network.machine_type
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


@pytest.mark.parametrize(
    ("backbone", "native", "half"),
    [("transformer", True, True), ("transformer", False, False), ("efficientnet", True, False)],
)
def test_a_processor_trains_in_bf16_where_it_helps(
    tiny: Callable[..., Recipe],
    three_types: Classes,
    random_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    backbone: str,
    native: bool,
    half: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    recipe = tiny("upstream.backbones.transformer.dropout=0.0")
    batch = random_batch(three_types, [0, 1, 2], [0, -1, 2])
    losses = {
        bf16: Training(recipe, backbone, three_types, 1, CPU, bf16=bf16).step(batch).loss
        for bf16 in (None, False, True)
    }
    assert losses[None] == losses[half] != losses[not half]


@GPU
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("backbone", ["efficientnet", "transformer"])
def test_a_step_on_a_gpu_is_that_on_the_cpu(
    tiny: Callable[..., Recipe],
    three_types: Classes,
    random_batch: Callable[..., Batch],
    backbone: str,
    bf16: bool,
) -> None:
    recipe = tiny("upstream.backbones.transformer.dropout=0.0")
    batch = random_batch(three_types, [0, 1, 2] * 8, [0, -1, 2] * 8)
    here = Training(recipe, backbone, three_types, 2, CPU).step(batch)
    there = Training(recipe, backbone, three_types, 2, torch.device("cuda"), bf16=bf16).step(batch)
    assert there.loss == pytest.approx(here.loss, rel=0.05 if bf16 else 1e-3)
