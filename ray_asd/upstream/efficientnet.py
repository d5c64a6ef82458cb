"""EfficientNet-B0 over a segment as a one-channel image (Tan and Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ray_asd.errors import BadInput
from ray_asd.recipe import EfficientNet
from ray_asd.upstream.trunk import Trunk


class EfficientNetTrunk(Trunk):
    """timm's ``efficientnet_b0``: one channel in, global average pool out, channels last.

    Raises:
        BadInput: pretrained weights are asked for and cannot be had.
    """

    def __init__(self, settings: EfficientNet, mels: int, frames: int) -> None:
        super().__init__()
        # Importing it takes seconds (torchvision, torch's compiler), and a command line or a
        # worker that holds no EfficientNet should not wait for it.
        import timm  # noqa: PLC0415

        try:
            self.net = timm.create_model(
                settings.kind,
                pretrained=settings.pretrained,
                in_chans=1,
                num_classes=0,
                global_pool="avg",
            )
        except (OSError, RuntimeError, ValueError) as error:
            if not settings.pretrained:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"upstream.backbones: pretrained: true, but timm cannot get the weights of "
                f"{settings.kind} ({reason}); connect to the network, fill the Hugging Face "
                f"cache, or set pretrained: false"
            ) from error
        self.width = int(self.net.num_features)
        self.to(memory_format=torch.channels_last)

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, mels, frames) → (batch, 1280)."""
        image = mels.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.net(image)
        return features

    def fold(self) -> None:
        """Fold every batch normalization into its convolution: same output, a sixth faster."""
        _fold(self.net)
        self.to(memory_format=torch.channels_last)


def _fold(module: nn.Module) -> None:
    # timm registers each normalization right behind the convolution whose output it takes, and
    # keeps the activation inside it.
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, getattr(norm, "act", nn.Identity()))
    for _, child in children:
        _fold(child)
