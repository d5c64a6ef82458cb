"""The training step: model, losses, batch → gradients. Free of ray."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ray_asd.errors import RunFailed
from ray_asd.frontend import segment_frames
from ray_asd.recipe import Recipe
from ray_asd.upstream.backbones import build_backbone
from ray_asd.upstream.batches import Batch
from ray_asd.upstream.classes import Classes
from ray_asd.upstream.distributed import average_buffers, same_on_all_ranks
from ray_asd.upstream.masking import mask
from ray_asd.upstream.mixup import mix
from ray_asd.upstream.network import Losses, Outputs, build_network, hits, losses
from ray_asd.upstream.optimizer import build_optimizer, build_schedule
from ray_asd.upstream.randomness import seeded, stable_rng
from ray_asd.upstream.step_metrics import StepMetrics
from ray_asd.upstream.trunk import Trunk


class DivergedError(RunFailed):
    """The loss or its gradient is not finite; the weights are those before this step."""

    def __init__(self, backbone: str, step: int, learning_rate: float) -> None:
        super().__init__(
            f"training of {backbone} diverged at step {step} (learning rate "
            f"{learning_rate:.3g}): the loss or its gradient is not finite; the last checkpoint "
            f"is good: lower upstream.learning_rate or upstream.gradient_clip and train anew"
        )
        self._arguments = (backbone, step, learning_rate)

    def __reduce__(self) -> tuple[type[DivergedError], tuple[str, int, float]]:
        # The default rebuilds an exception from its message alone.
        return DivergedError, self._arguments


class Training:
    """One backbone's training on one worker, a step at a time.

    What a step draws (mixup, masks, dropout) follows from the recipe's seed, the step and the
    rank, so that a resumed training goes on exactly as the interrupted one would have.

    Args:
        recipe: the system's settings.
        backbone: name of one of the recipe's backbones.
        classes: what the heads tell apart.
        total_steps: steps that will run in all; 0 leaves the network untrained.
        device: where to train.
        wrap: puts the network into DistributedDataParallel (with ``forward_sync_buffers=False``).
        rank: of this worker.
        bf16: autocast to bfloat16; by default where the device has it natively, of processors
            only for trunks that are faster in it.

    Raises:
        BadInput: pretrained weights that cannot be had.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: str,
        classes: Classes,
        total_steps: int,
        device: torch.device,
        *,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
        rank: int = 0,
        bf16: bool | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.classes = classes
        self.total_steps = total_steps
        self.device = device
        self.steps = 0
        self._rank = rank
        self._front_end = recipe.front_end_of(backbone)
        settings = recipe.upstream
        with seeded(torch.device("cpu"), "weights", recipe.seed):
            trunk_to_neck = build_backbone(
                settings.backbones[backbone],
                mels=self._front_end.bands,
                frames=segment_frames(self._front_end, recipe.clips),
                embedding=settings.embedding,
            )
            network = build_network(trunk_to_neck, settings.embedding, classes, settings.loss)
        self._bf16 = trains_in_bf16(device, trunk_to_neck.trunk) if bf16 is None else bf16
        self.network = network.to(device)
        self.optimizer = build_optimizer(self.network, settings)
        self.schedule = build_schedule(self.optimizer, settings, total_steps)
        self._wrapped = wrap(self.network)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: Batch) -> StepMetrics:
        """Train on one worker's batch.

        Raises:
            DivergedError: loss or gradient not finite; on all ranks alike, as it is looked at
                after gradients were reduced.
            RuntimeError: all ``total_steps`` were taken.
        """
        if self.schedule is None or self.steps >= self.total_steps:
            raise RuntimeError(f"all {self.total_steps} steps of this training were taken")
        settings = self.recipe.upstream
        batch = batch.to(self.device)
        if settings.mixup.enabled:
            draws = stable_rng("mixup", self.recipe.seed, self.steps, self._rank)
            batch = mix(batch, settings.mixup.alpha, draws)
        if settings.masking.enabled:
            draws = stable_rng("masking", self.recipe.seed, self.steps, self._rank)
            frames_per_s = self._front_end.sample_rate_hz / self._front_end.hop
            batch = mask(batch, settings.masking, frames_per_s, draws)
        self._wrapped.train()
        with seeded(self.device, "dropout", self.recipe.seed, self.steps, self._rank):
            outputs, loss = self._forward(self._wrapped, batch)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
        metrics = self._metrics(outputs, loss, batch, norm)
        if not (math.isfinite(metrics.loss) and math.isfinite(float(norm))):
            raise DivergedError(self.backbone, self.steps, self.learning_rate)
        self.optimizer.step()
        self.steps += 1
        if self.steps < self.total_steps:
            self.schedule.step()
        return metrics

    @torch.no_grad()
    def validate(self, batch: Batch) -> StepMetrics:
        """Losses and hits on held-out clips: in evaluation mode, unmixed; nothing changes."""
        batch = batch.to(self.device)
        self.network.eval()
        outputs, loss = self._forward(self.network, batch)
        return self._metrics(outputs, loss, batch, None)

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Let BatchNorm's statistics see a batch, and change nothing else.

        For a system that is left untrained: without any statistics of the data its embeddings
        would all but coincide, and comparing with it would prove nothing.
        """
        self.network.train()
        self.network(batch.to(self.device).mels)

    def agree(self) -> None:
        """Bring BatchNorm statistics to their mean over all ranks; before every checkpoint.

        Raises:
            RunFailed: the ranks hold different weights all the same; on all of them.
        """
        average_buffers(self.network)
        if not same_on_all_ranks(self.network):
            raise RunFailed(
                f"training of {self.backbone}: after step {self.steps} the workers hold different "
                f"weights; are their libraries and devices the same? The last checkpoint is good"
            )

    def _forward(self, network: nn.Module, batch: Batch) -> tuple[Outputs, Losses]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            outputs: Outputs = network(batch.mels)
        return outputs, losses(outputs, batch, self.recipe.upstream.loss)

    def _metrics(
        self, outputs: Outputs, loss: Losses, batch: Batch, norm: Tensor | None
    ) -> StepMetrics:
        # One transfer for all figures, since each waits for the device.
        figures = torch.stack([f.detach().double() for f in (*loss, *hits(outputs, batch))])
        total, machine_type, attributes, *counts = figures.tolist()
        right_machine_type, right_attributes, attributed = (int(count) for count in counts)
        return StepMetrics(
            loss=total,
            loss_machine_type=machine_type,
            loss_attributes=attributes,
            clips=len(batch),
            right_machine_type=right_machine_type,
            attributed=attributed,
            right_attributes=right_attributes,
            learning_rate=self.learning_rate,
            gradient_norm=None if norm is None else float(norm),
        )


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that decides its backbones' training, as JSON values, by dotted name."""
    tree = recipe.model_dump(mode="json")
    upstream = tree["upstream"]
    kept = {name: tree[name] for name in ("seed", "front_end", "clips", "held_out")}
    for name in recipe.trained_backbones():
        kept[f"upstream.backbones.{name}"] = upstream["backbones"][name]
    apart = {"backbones", "checkpoint_epochs", "checkpoints_kept"}
    return kept | {f"upstream.{key}": upstream[key] for key in upstream if key not in apart}


def trains_in_bf16(device: torch.device, trunk: Trunk) -> bool:
    """Whether the device has bfloat16 natively; of processors, only if the trunk gains by it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    there = torch.cpu.get_capabilities()
    return trunk.bf16_on_cpu and any(there[name] for name in there if "bf16" in name)
