"""Sub-cluster AdaCos: classification by the angle to several centres of each class.

Zhang et al., AdaCos, CVPR 2019 (arXiv:1905.00292): softmax of scaled cosines, whose scale needs
no tuning. Wilkinghoff, Sub-Cluster AdaCos, IJCNN 2021: a class's likelihood is the sum over its
sub-clusters' softmax, so that normal sounds of one class need not all be alike. Here centres are
trained, and the scale stays at AdaCos's initial value √2 · log(C·S − 1): its adaptive update
takes a hard label, and under mixup's soft ones it grows without bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_asd.recipe import AdaCos


class SubClusterAdaCos(nn.Module):
    """Embeddings → logits of the joint label's classes, whose softmax is that of sub-clusters."""

    def __init__(self, settings: AdaCos, embedding: int, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"{classes} classes leave nothing to tell apart")
        self.scale = math.sqrt(2) * math.log(classes * settings.sub_clusters - 1)
        self.centres = nn.Parameter(torch.randn(classes, settings.sub_clusters, embedding))

    def forward(self, embedding: Tensor) -> Tensor:
        """(batch, embedding) → (batch, classes): log Σ exp(scale · cos) over sub-clusters."""
        # In full precision: a scaled cosine's last bits of bfloat16 would be all of its gradient.
        with torch.autocast(embedding.device.type, enabled=False):
            directions = functional.normalize(embedding.float(), dim=1)
            centres = functional.normalize(self.centres.float(), dim=2)
            cosines = directions @ centres.flatten(0, 1).T
            apart = (self.scale * cosines).reshape(-1, *centres.shape[:2])
            logits: Tensor = apart.logsumexp(2)
        return logits

    def no_weight_decay(self) -> set[str]:
        """The centres: their length does not matter, and decay would only speed up their turns."""
        return {"centres"}
