"""What data-parallel workers must agree on besides the gradients."""

import hashlib

import torch
from torch import distributed, nn


def average_buffers(module: nn.Module) -> None:
    """Replace each floating-point buffer by its mean over all ranks, in place.

    After it all ranks hold the same BatchNorm statistics. Gradients keep weights equal by
    themselves; statistics stay each rank's own, provided that DistributedDataParallel was told
    ``forward_sync_buffers=False`` (otherwise they are rank 0's alone). Every rank must call it;
    without a process group nothing happens.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    with torch.no_grad():
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        pieces = torch.split(flat, [buffer.numel() for buffer in buffers])
        for buffer, piece in zip(buffers, pieces, strict=True):
            buffer.copy_(piece.view_as(buffer))


def same_on_all_ranks(module: nn.Module) -> bool:
    """Whether all ranks hold the same weights and buffers, to the last bit.

    Every rank must call it, and gets the same answer; True without a process group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return True
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    found = [""] * distributed.get_world_size()
    distributed.all_gather_object(found, digest.hexdigest())
    return len(set(found)) == 1
