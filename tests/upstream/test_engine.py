from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn

from ray_asd.errors import BadInput
from ray_asd.upstream import Trunk
from ray_asd.upstream.engine import CompiledTrunk

SHAPE = (3, 8, 5)


class Small(Trunk):
    """Two maps and something between them that is no matrix product."""

    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))

    def forward(self, mels: Tensor) -> Tensor:
        return self.maps(mels).mean(1)


class Deciding(Small):
    """Its graph depends on the numbers that it is given."""

    def forward(self, mels: Tensor) -> Tensor:
        return super().forward(mels if mels.sum() > 0 else -mels)


@pytest.fixture
def trunk() -> Small:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def compiled(trunk: Trunk, cache: Path, precision: str = "fp32") -> CompiledTrunk:
    return CompiledTrunk(trunk, "{}", SHAPE, precision=precision, threads=1, cache=cache)


def test_it_computes_what_the_trunk_does(trunk: Small, tmp_path: Path) -> None:
    mels = torch.randn(SHAPE)
    engine = compiled(trunk, tmp_path / "c")
    np.testing.assert_allclose(engine(mels), trunk(mels), atol=1e-5)
    first = engine(mels)
    engine(-mels)
    assert torch.equal(first, engine(mels))


def test_bf16_is_refused_where_the_processor_has_it_not(
    trunk: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mels = torch.randn(SHAPE)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        half = compiled(trunk, tmp_path / "c", "bf16")(mels)
        assert not torch.equal(half, trunk(mels))
        np.testing.assert_allclose(half, trunk(mels), atol=0.1)
    asked = openvino.Core.get_property
    monkeypatch.setattr(
        openvino.Core,
        "get_property",
        lambda core, device, name: (
            ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else asked(core, device, name)
        ),
    )
    with pytest.raises(BadInput, match=r"downstream\.precision: bf16, which .* has not natively"):
        compiled(trunk, tmp_path / "c", "bf16")


def test_a_graph_is_converted_once_and_other_weights_are_another(
    trunk: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mels = torch.randn(SHAPE)
    expected = compiled(trunk, tmp_path / "c")(mels)
    exported = torch.export.export
    calls: list[object] = []

    def counting(*given: object) -> object:
        calls.append(given)
        return exported(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.export, "export", counting)
    assert torch.equal(compiled(trunk, tmp_path / "c")(mels), expected)
    assert not calls
    trunk.maps[0].bias.add_(1.0)  # type: ignore[operator]
    assert not torch.equal(compiled(trunk, tmp_path / "c")(mels), expected)
    assert len(calls) == 1


def test_a_trunk_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"engine: openvino cannot run .*; set engine=eager"):
        compiled(Deciding().eval(), tmp_path / "c")
