"""What a trunk is: the part of a backbone that its kind decides."""

from torch import Tensor, nn


class Trunk(nn.Module):
    """From normalized log-mel segments (batch, mels, frames) to features (batch, width)."""

    width: int
    bf16_on_cpu = False
    """Whether it trains faster in bfloat16 on processors that have it: mostly matrix products."""

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, mels, frames) → (batch, width)."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that are no weights, such as positions."""
        return set()

    def fold(self) -> None:
        """Rewrite the trunk, in evaluation mode, for faster inference with the same output."""
