"""What data-parallel workers must agree on besides the gradients."""

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
