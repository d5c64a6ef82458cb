import json
import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ray_asd import recipe
from ray_asd.errors import RunFailed
from ray_asd.recipe import Recipe
from ray_asd.upstream import Batch, Classes, Training, save_checkpoint
from ray_asd.upstream.distributed import average_buffers, same_on_all_ranks
from ray_asd.upstream.weights import load_tensors


def test_without_a_process_group_buffers_stay() -> None:
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    before = norm.running_mean.clone()
    average_buffers(norm)
    assert torch.equal(norm.running_mean, before)


def work(rank: int, folder: Path, settings: str, labels: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    classes = Classes.from_dict(json.loads(labels))
    training = Training(
        recipe.validate(json.loads(settings), "test"),
        "transformer",
        classes,
        2,
        torch.device("cpu"),
        wrap=partial(DistributedDataParallel, forward_sync_buffers=False),
        rank=rank,
    )
    draws = torch.Generator().manual_seed(rank)
    values = torch.zeros(4, len(classes.attribute_values))
    plain = torch.zeros(4, len(classes.plain_sections))
    (values if rank == 0 else plain)[:, 0] = 1
    for _ in range(2):
        mels = torch.randn(4, 12, 17, generator=draws) + rank
        training.step(Batch(mels, torch.eye(3)[[0, 1, 2, 0]], values, plain))
    save_checkpoint(training, folder / f"before{rank}")
    assert not same_on_all_ranks(training.network)
    training.agree()
    assert same_on_all_ranks(training.network)
    save_checkpoint(training, folder / f"after{rank}")
    if rank == 1:
        with torch.no_grad():
            next(training.network.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(RunFailed, match="hold different weights"):
        training.agree()
    distributed.destroy_process_group()


def work_alone(rank: int, folder: Path, settings: str, labels: str) -> None:
    work(rank, folder, settings, labels)
    # An interpreter that shuts down beneath gloo's threads aborts now and then, its work done.
    os._exit(0)


@pytest.mark.parametrize("loss", [[], ["upstream.loss={kind: adacos, sub_clusters: 2}"]])
def test_ranks_hold_the_same_weights_and_buffers_though_one_has_no_attributes(
    tiny: Callable[..., Recipe], three_types: Classes, tmp_path: Path, loss: list[str]
) -> None:
    settings, labels = tiny(*loss).model_dump_json(), json.dumps(three_types.to_dict())
    other = multiprocessing.get_context("spawn").Process(
        target=work_alone, args=(1, tmp_path, settings, labels)
    )
    other.start()
    work(0, tmp_path, settings, labels)
    other.join()
    assert other.exitcode == 0
    before, after = (
        [load_tensors(tmp_path / f"{when}{rank}" / "training.safetensors") for rank in (0, 1)]
        for when in ("before", "after")
    )
    mean = "network.backbone.entrance.running_mean"
    assert (before[0][mean] - before[1][mean]).abs().max() > 0.5
    torch.testing.assert_close(after[0][mean], (before[0][mean] + before[1][mean]) / 2)
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])
