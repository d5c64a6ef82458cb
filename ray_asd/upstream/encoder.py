"""A trained backbone for inference: one clip's segments → their embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ray_asd import recipe
from ray_asd.errors import BadInput
from ray_asd.upstream.backbones import build_backbone
from ray_asd.upstream.engine import CompiledTrunk
from ray_asd.upstream.weights import load_weights


class Encoder:
    """Embeds one clip at a time, so that its embedding never depends on what else is scored.

    Batch normalizations of the trunk are folded into their convolutions where the trunk can.

    Args:
        settings: the backbone's settings.
        weights: safetensors file that ``save_weights`` wrote for it, or its bytes; None for a
            kind that is not trained.
        mels: bands of a segment.
        frames: frames of a segment.
        embedding: length of an embedding.
        precision: ``bf16`` runs a trained trunk in bfloat16, between entrance and neck in
            float32; a kind that is not trained stays in float32.
        engine: ``openvino`` compiles a trained trunk for the CPU, at the first clip of a shape;
            ``eager`` runs torch's kernels, as a GPU always does.
        threads: set for the whole process where given: a reused worker keeps an older number.
        device: where to run.

    Raises:
        BadInput: the weights cannot be read, are another network's, or are missing; from
            ``embed``, the engine cannot run this trunk here.
    """

    def __init__(
        self,
        settings: recipe.Backbone,
        weights: Path | bytes | None,
        *,
        mels: int,
        frames: int,
        embedding: int,
        precision: str = "fp32",
        engine: str = "eager",
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if getattr(settings, "pretrained", False):
            # The trained weights replace them: a scoring worker downloads nothing.
            settings = settings.model_copy(update={"pretrained": False})
        self._device = torch.device(device)
        self._backbone = build_backbone(settings, mels=mels, frames=frames, embedding=embedding)
        if weights is not None:
            load_weights(self._backbone, weights)
        elif settings.trained:
            raise BadInput(
                f"upstream.backbones: a backbone of kind {settings.kind} needs trained weights; "
                "train with the recipe that names it"
            )
        self._backbone.eval().requires_grad_(False)
        self._backbone.trunk.fold()
        self._backbone.to(self._device)
        self._settings = settings
        self._precision = precision if settings.trained else "fp32"
        here = self._device.type == "cpu" and settings.trained
        self._compiles = engine == "openvino" and here
        self._compiled: dict[tuple[int, ...], CompiledTrunk] = {}

    @torch.inference_mode()
    def embed(self, segments: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(segments, mels, frames) log-mel → (segments, the backbone's embedding width)."""
        mels = torch.from_numpy(np.ascontiguousarray(segments)).to(self._device)
        entered = self._backbone.entrance(mels)
        run = self._compiled_for(entered) if self._compiles else self._eager
        embeddings: npt.NDArray[np.float32] = self._backbone.neck(run(entered)).cpu().numpy()
        return embeddings

    def _eager(self, entered: Tensor) -> Tensor:
        with (
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
            # A GPU's own choice is convolutions in TF32, by kernels that may differ each time.
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            features: Tensor = self._backbone.trunk(entered)
        return features.float()

    def _compiled_for(self, entered: Tensor) -> CompiledTrunk:
        shape = tuple(entered.shape)
        if shape not in self._compiled:
            self._compiled[shape] = CompiledTrunk(
                self._backbone.trunk,
                self._settings.model_dump_json(),
                shape,
                precision=self._precision,
                threads=torch.get_num_threads(),
            )
        return self._compiled[shape]
