"""AdamW and the one-cycle schedule (Loshchilov and Hutter 2019; Smith and Topin 2018)."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from ray_asd.recipe import Upstream


def build_optimizer(network: nn.Module, settings: Upstream) -> AdamW:
    """AdamW; weight decay on weight matrices and kernels only.

    Norms, biases and what a trunk's ``no_weight_decay`` names (positions) are not decayed.
    """
    spared = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }
    parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    decayed = [p for n, p in parameters if p.ndim > 1 and n not in spared]
    plain = [p for n, p in parameters if p.ndim <= 1 or n in spared]
    return AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )


def build_schedule(optimizer: AdamW, settings: Upstream, total_steps: int) -> OneCycleLR | None:
    """OneCycleLR up to the recipe's learning rate and down, over exactly ``total_steps``.

    None for 0 steps: an untrained system.
    """
    if total_steps == 0:
        return None
    return OneCycleLR(optimizer, max_lr=settings.learning_rate, total_steps=total_steps)
