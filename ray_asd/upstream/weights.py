"""Tensors on disk: safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

from ray_asd.errors import BadInput


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to one safetensors file."""
    save_file(_plain(tensors), path)


def pack_weights(module: nn.Module) -> bytes:
    """A module's parameters and buffers as the bytes of a safetensors file."""
    packed: bytes = save(_plain(module.state_dict()))
    return packed


def load_tensors(path: Path | bytes) -> dict[str, Tensor]:
    """Read a safetensors file, or its bytes.

    Raises:
        BadInput: no such file, or not a whole safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load(path) if isinstance(path, bytes) else load_file(path)
    except OSError as error:
        raise BadInput(f"{_origin(path)}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise BadInput(
            f"{_origin(path)}: not a whole safetensors file ({error}); copy it anew"
        ) from None
    return tensors


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's parameters and buffers; give it a backbone, without heads."""
    save_tensors(module.state_dict(), path)


def load_weights(module: nn.Module, path: Path | bytes) -> None:
    """Read into ``module`` what :func:`save_weights` wrote.

    Raises:
        BadInput: no such file, or one of another network.
    """
    fill(module, load_tensors(path), _origin(path))


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Channels-last kernels are not contiguous, which the format asks for.
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _origin(path: Path | bytes) -> str:
    return "weights" if isinstance(path, bytes) else str(path)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a module, all of them and in their shapes.

    Raises:
        BadInput: names of one side are missing on the other, or shapes differ.
    """
    own = module.state_dict()
    foreign = sorted(own.keys() ^ tensors.keys())
    foreign += [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    if foreign:
        raise BadInput(
            f"{origin}: weights of another network: {foreign[0]} does not fit"
            f"{f' (and {len(foreign) - 1} more)' if len(foreign) > 1 else ''}; "
            f"use the recipe that it was trained with"
        )
    module.load_state_dict(dict(tensors))
