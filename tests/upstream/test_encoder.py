from pathlib import Path

import numpy as np
import pytest
import torch

from ray_asd import recipe
from ray_asd.errors import BadInput
from ray_asd.upstream import (
    Backbone,
    Encoder,
    build_backbone,
    load_weights,
    pack_weights,
    save_weights,
)

SETTINGS = recipe.load("first_shot").upstream.backbones
SHAPE = {"mels": 224, "frames": 126, "embedding": 128}
TONES = 8 * np.sin(np.arange(224)[:, None] / np.array([5, 9, 20, 60])[:, None, None])
SEGMENTS = (np.random.default_rng(0).normal(-8, 1, (4, 224, 126)) + TONES).astype(np.float32)


def fresh(name: str) -> Backbone:
    return build_backbone(SETTINGS[name], **SHAPE)


def trained(name: str) -> Backbone:
    """A backbone whose every normalization has statistics and an affine map of its own."""
    torch.manual_seed(0)
    backbone = fresh(name)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter) * 0.2)
        for _ in range(8):
            backbone(torch.from_numpy(SEGMENTS))
    return backbone.eval()


@pytest.mark.parametrize("name", ["efficientnet", "transformer"])
def test_it_embeds_as_the_trained_backbone_and_always_alike(name: str, tmp_path: Path) -> None:
    backbone = trained(name)
    save_weights(backbone, tmp_path / "w.safetensors")
    encoder = Encoder(SETTINGS[name], tmp_path / "w.safetensors", **SHAPE, threads=1)
    embeddings = encoder.embed(SEGMENTS)
    assert embeddings.shape == (4, 128)
    assert embeddings.dtype == np.float32
    with torch.no_grad():
        expected = backbone(torch.from_numpy(SEGMENTS)).numpy()
    spread = np.ptp(expected, axis=0).max()
    assert spread > 0.01
    assert np.abs(embeddings - expected).max() < min(spread / 500, 2e-5)
    from_bytes = Encoder(SETTINGS[name], pack_weights(backbone), **SHAPE)
    assert from_bytes.embed(SEGMENTS).tobytes() == embeddings.tobytes()
    encoder.embed(SEGMENTS[::-1])
    assert encoder.embed(SEGMENTS).tobytes() == embeddings.tobytes()


@pytest.mark.parametrize("name", ["efficientnet", "transformer"])
def test_bf16_rounds_the_trunk_and_nothing_else_changes(name: str) -> None:
    weights = pack_weights(trained(name))
    full, half = (
        Encoder(SETTINGS[name], weights, **SHAPE, precision=precision).embed(SEGMENTS)
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    cosines = (half * full).sum(1) / np.linalg.norm(half, axis=1) / np.linalg.norm(full, axis=1)
    assert cosines.min() > 0.98
    again = Encoder(SETTINGS[name], weights, **SHAPE, precision="bf16").embed(SEGMENTS)
    assert again.tobytes() == half.tobytes()


@pytest.mark.parametrize("name", ["efficientnet", "transformer"])
def test_the_engine_embeds_as_torch_does_and_always_alike(name: str) -> None:
    weights = pack_weights(trained(name))
    eager, compiled, again = (
        Encoder(SETTINGS[name], weights, **SHAPE, engine=engine, threads=1)
        for engine in ("eager", "openvino", "openvino")
    )
    expected, embeddings = eager.embed(SEGMENTS), compiled.embed(SEGMENTS)
    assert np.abs(embeddings - expected).max() < 1e-4 * np.ptp(expected, axis=0).max()
    assert not np.array_equal(embeddings, expected)
    compiled.embed(SEGMENTS[::-1])
    assert compiled.embed(SEGMENTS).tobytes() == embeddings.tobytes()
    assert again.embed(SEGMENTS).tobytes() == embeddings.tobytes()


def test_a_kind_that_is_not_trained_needs_no_engine() -> None:
    settings = recipe.Statistics(kind="statistics")
    eager, compiled = (
        Encoder(settings, None, **SHAPE, engine=engine) for engine in ("eager", "openvino")
    )
    assert compiled.embed(SEGMENTS).tobytes() == eager.embed(SEGMENTS).tobytes()


def test_folding_leaves_no_batch_normalization_in_the_trunk() -> None:
    backbone = fresh("efficientnet").eval()
    backbone.trunk.fold()
    kinds = [type(module).__mro__ for module in backbone.trunk.modules()]
    assert not any(torch.nn.BatchNorm2d in kind for kind in kinds)


def test_an_encoder_of_a_pretrained_backbone_downloads_nothing(tmp_path: Path) -> None:
    save_weights(fresh("efficientnet"), tmp_path / "w.safetensors")
    settings = SETTINGS["efficientnet"].model_copy(update={"pretrained": True})
    assert Encoder(settings, tmp_path / "w.safetensors", **SHAPE).embed(SEGMENTS).shape == (4, 128)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(fresh("transformer"), path)
    with pytest.raises(BadInput, match=r"w\.safetensors: weights of another network"):
        load_weights(fresh("efficientnet"), path)
    with pytest.raises(BadInput, match=r"positions does not fit"):
        load_weights(build_backbone(SETTINGS["transformer"], **SHAPE | {"frames": 63}), path)
    path.write_text("not weights")
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        load_weights(fresh("transformer"), path)
    with pytest.raises(BadInput, match=r"none\.safetensors: cannot be read"):
        load_weights(fresh("transformer"), tmp_path / "none.safetensors")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["efficientnet", "transformer"])
def test_a_gpu_embeds_as_the_cpu_does_and_always_alike(name: str) -> None:
    weights = pack_weights(trained(name))
    here = Encoder(SETTINGS[name], weights, **SHAPE).embed(SEGMENTS)
    full, again, half = (
        Encoder(SETTINGS[name], weights, **SHAPE, precision=precision, device="cuda")
        for precision in ("fp32", "fp32", "bf16")
    )
    assert np.abs(full.embed(SEGMENTS) - here).max() < 1e-3 * np.ptp(here, axis=0).max()
    assert full.embed(SEGMENTS).tobytes() == again.embed(SEGMENTS).tobytes()
    there = half.embed(SEGMENTS)
    cosines = (there * here).sum(1) / np.linalg.norm(there, axis=1) / np.linalg.norm(here, axis=1)
    assert cosines.min() > 0.98
