"""Random numbers that follow from names alone, the same on every worker, platform and resume."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stable_hash(*parts: str | float) -> int:
    """A number from 0 to 2**64 - 1 that depends on ``parts`` and their order alone."""
    text = json.dumps(parts, allow_nan=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def stable_rng(*parts: str | float) -> np.random.Generator:
    """A generator whose stream depends on ``parts`` alone."""
    return np.random.default_rng(stable_hash(*parts))


@contextmanager
def seeded(device: torch.device, *parts: str | float) -> Iterator[None]:
    """Torch draws from a stream of ``parts`` inside, and goes on as before afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stable_hash(*parts))
        yield
