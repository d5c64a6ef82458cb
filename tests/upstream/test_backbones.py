from pathlib import Path
from typing import Literal

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ray_asd import recipe
from ray_asd.errors import BadInput
from ray_asd.recipe import EfficientNet, Statistics
from ray_asd.upstream import Encoder, Trunk, build_backbone, register

SETTINGS = recipe.load("first_shot").upstream.backbones


@pytest.mark.parametrize("name", ["efficientnet", "transformer"])
def test_an_embedding_has_its_length_and_does_not_depend_on_its_batch(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(SETTINGS[name], mels=224, frames=126, embedding=128)
    tones = 8 * torch.sin(torch.arange(224) / torch.tensor([5.0, 9.0, 20.0, 60.0])[:, None])
    segments = torch.randn(4, 224, 126) + tones[:, :, None] - 8
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
    with torch.no_grad():
        backbone.train()(segments)
    backbone.eval()
    with torch.inference_mode():
        together = backbone(segments)
        alone = torch.cat([backbone(one[None]) for one in segments])
    assert together.shape == (4, 128)
    spread = (together[0] - together[1]).abs().max()
    assert spread > 0.5
    assert (together - alone).abs().max() < spread / 5000


def test_the_entrance_learns_the_level_of_each_band() -> None:
    backbone = build_backbone(SETTINGS["transformer"], mels=4, frames=126, embedding=8)
    level = torch.tensor([-18.0, -8.0, 0.0, 8.0])[:, None]
    for _ in range(3):
        backbone.entrance(torch.randn(8, 4, 126) * 2 + level)
    backbone.eval()
    normalized = backbone.entrance(torch.randn(64, 4, 126) * 2 + level)
    assert normalized.mean((0, 2)).abs().max() < 0.1
    assert (normalized.std((0, 2)) - 1).abs().max() < 0.1


def test_transformer_layers_start_out_different() -> None:
    backbone = build_backbone(SETTINGS["transformer"], mels=224, frames=126, embedding=128)
    first, second, *_ = (layer.linear1.weight for layer in backbone.trunk.encoder.layers)
    assert not torch.equal(first, second)


def test_pretrained_weights_that_cannot_be_had_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    settings = EfficientNet(kind="efficientnet_b0", pretrained=True, frozen=False)
    with pytest.raises(BadInput, match=r"pretrained: true.*set pretrained: false"):
        build_backbone(settings, mels=224, frames=126, embedding=128)


def test_a_kind_from_outside_is_built_once_registered() -> None:
    class Mean(Trunk):
        def __init__(self, settings: object, mels: int, frames: int) -> None:
            super().__init__()
            self.width = mels

        def forward(self, mels: torch.Tensor) -> torch.Tensor:
            return mels.mean(2)

    settings = SETTINGS["transformer"].model_copy(update={"kind": "test_mean"})
    with pytest.raises(BadInput, match=r"test_mean; there are .*, statistics, transformer"):
        build_backbone(settings, mels=5, frames=7, embedding=3)
    register("test_mean", Mean)
    assert build_backbone(settings, mels=5, frames=7, embedding=3)(torch.randn(2, 5, 7)).shape == (
        2,
        3,
    )
    with pytest.raises(ValueError, match="exists already"):
        register("test_mean", Mean)


def test_statistics_are_each_bands_mean_and_deviation_over_time() -> None:
    backbone = build_backbone(Statistics(kind="statistics"), mels=5, frames=7, embedding=128)
    assert not list(backbone.parameters())
    assert not backbone.state_dict()
    mels = torch.randn(3, 5, 7) - 8
    expected = np.concatenate([mels.numpy().mean(2), mels.numpy().std(2)], axis=1)
    np.testing.assert_allclose(backbone.eval()(mels).numpy(), expected, rtol=1e-5)


def test_a_recipe_can_name_a_kind_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    class Peak(recipe.Backbone):
        trained = False
        kind: Literal["test_peak"]
        frames: int

        def embedding_width(self, embedding: int, mels: int) -> int:
            return mels

    class PeakTrunk(Trunk):
        def __init__(self, settings: Peak, mels: int, frames: int) -> None:
            super().__init__()
            self.width, self.frames = mels, settings.frames

        def forward(self, mels: torch.Tensor) -> torch.Tensor:
            return mels[:, :, : self.frames].amax(2)

    monkeypatch.setattr(recipe, "BACKBONES", dict(recipe.BACKBONES))
    register("test_peak", PeakTrunk, Peak)
    named = "upstream.backbones={peak: {kind: test_peak, frames: 3}}"
    chosen = recipe.load("first_shot", [named])
    assert recipe.parse(chosen.to_yaml(), "copy") == chosen
    assert (chosen.embedding_width("peak"), chosen.trained_backbones()) == (224, [])
    encoder = Encoder(chosen.upstream.backbones["peak"], None, mels=224, frames=5, embedding=1)
    segments = np.random.default_rng(0).random((2, 224, 5)).astype(np.float32)
    np.testing.assert_array_equal(encoder.embed(segments), segments[:, :, :3].max(2))
    with pytest.raises(BadInput, match=r"peak.*frames"):
        recipe.load("first_shot", ["upstream.backbones={peak: {kind: test_peak, frames: many}}"])


def test_a_trained_kind_without_weights_is_refused() -> None:
    with pytest.raises(BadInput, match="needs trained weights"):
        Encoder(SETTINGS["transformer"], None, mels=224, frames=126, embedding=128)
