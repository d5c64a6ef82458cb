import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ray_asd.errors import BadInput
from ray_asd.recipe import Recipe
from ray_asd.upstream import Batch, Classes, Training, load_checkpoint, save_checkpoint, state

CPU = torch.device("cpu")
FAN = Classes(("fan",), (), (("fan", "00"),))


@pytest.fixture
def batches(three_types: Classes, random_batch: Callable[..., Batch]) -> list[Batch]:
    one = random_batch(three_types, [0, 1, 2, 0], [0, -1, 2, 1])
    return [Batch(one.mels + i, one.machine_type, one.attributes, one.plain) for i in range(6)]


@pytest.mark.parametrize("backbone", ["efficientnet", "transformer"])
def test_a_resumed_training_goes_on_bit_by_bit(
    tiny: Callable[..., Recipe],
    three_types: Classes,
    batches: list[Batch],
    tmp_path: Path,
    backbone: str,
) -> None:
    straight = Training(tiny(), backbone, three_types, 6, CPU)
    figures = [straight.step(batch) for batch in batches]
    first = Training(tiny(), backbone, three_types, 6, CPU)
    for batch in batches[:3]:
        first.step(batch)
    save_checkpoint(first, tmp_path)
    # A fresh one of the same seed would start with the same weights, so spoil them.
    second = Training(tiny(), backbone, three_types, 6, CPU)
    with torch.no_grad():
        for tensor in second.network.state_dict().values():
            tensor.zero_()
    load_checkpoint(second, tmp_path)
    assert second.steps == 3
    assert [second.step(batch) for batch in batches[3:]] == figures[3:]
    tensors, meta = state(straight)
    resumed, resumed_meta = state(second)
    assert tensors.keys() == resumed.keys()
    assert all(torch.equal(tensors[name], resumed[name]) for name in tensors)
    assert json.loads(json.dumps(meta)) == json.loads(json.dumps(resumed_meta))


def test_an_untrained_state_comes_back(
    tiny: Callable[..., Recipe], three_types: Classes, tmp_path: Path
) -> None:
    training = Training(tiny(), "transformer", three_types, 0, CPU)
    save_checkpoint(training, tmp_path)
    load_checkpoint(training, tmp_path)
    assert training.steps == 0


def test_a_checkpoint_of_another_training_is_refused(
    tiny: Callable[..., Recipe], three_types: Classes, tmp_path: Path
) -> None:
    save_checkpoint(Training(tiny(), "transformer", three_types, 6, CPU), tmp_path)
    others = [
        (Training(tiny(), "transformer", three_types, 7, CPU), "total_steps"),
        (Training(tiny(), "transformer", FAN, 6, CPU), "classes"),
        (Training(tiny("upstream.mixup.enabled=false"), "transformer", three_types, 6, CPU),
         r"upstream\.mixup"),
        (Training(tiny(), "efficientnet", three_types, 6, CPU), "backbone"),
        (Training(tiny("upstream.backbones.transformer.front_end={n_fft: 4096}"), "transformer",
                  three_types, 6, CPU), r"upstream\.backbones\.transformer"),
    ]  # fmt: skip
    for other, changed in others:
        with pytest.raises(BadInput, match=changed):
            load_checkpoint(other, tmp_path)
    load_checkpoint(
        Training(tiny("upstream.checkpoint_epochs=1"), "transformer", three_types, 6, CPU), tmp_path
    )


def test_a_checkpoint_that_is_not_whole_is_refused(
    tiny: Callable[..., Recipe], three_types: Classes, tmp_path: Path
) -> None:
    training = Training(tiny(), "transformer", three_types, 6, CPU)
    with pytest.raises(BadInput, match=r"training\.json"):
        load_checkpoint(training, tmp_path)
    save_checkpoint(training, tmp_path)
    tensors = tmp_path / "training.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"training\.safetensors: not a whole safetensors file"):
        load_checkpoint(training, tmp_path)
    tensors.unlink()
    with pytest.raises(BadInput, match=r"training\.safetensors: cannot be read"):
        load_checkpoint(training, tmp_path)
