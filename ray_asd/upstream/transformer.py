"""A Transformer encoder over mel frames as tokens (Vaswani et al. 2017, arXiv:1706.03762).

Pre-norm (Xiong et al. 2020, arXiv:2002.04745), since it trains without a warm-up of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ray_asd.recipe import Transformer
from ray_asd.upstream.trunk import Trunk


class TransformerTrunk(Trunk):
    """One token per mel frame and a learned header token, whose output is the feature."""

    bf16_on_cpu = True

    def __init__(self, settings: Transformer, mels: int, frames: int) -> None:
        super().__init__()
        self.width = settings.width
        self.tokens = nn.Linear(mels, settings.width)
        self.header = nn.Parameter(torch.empty(1, 1, settings.width))
        self.positions = nn.Parameter(torch.empty(1, frames + 1, settings.width))
        layer = nn.TransformerEncoderLayer(
            settings.width,
            settings.heads,
            settings.feed_forward,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer,
            settings.layers,
            norm=nn.LayerNorm(settings.width),
            enable_nested_tensor=False,
        )
        self._start()

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, mels, frames) → (batch, width)."""
        tokens = self.tokens(mels.transpose(1, 2))
        header = self.header.expand(len(mels), -1, -1)
        encoded: Tensor = self.encoder(torch.cat([header, tokens], dim=1) + self.positions)
        return encoded[:, 0]

    def no_weight_decay(self) -> set[str]:
        """The header token and the positions."""
        return {"header", "positions"}

    def _start(self) -> None:
        # nn.TransformerEncoder copies one layer, so that all would start out alike.
        for parameter in self.encoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.trunc_normal_(self.header, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
