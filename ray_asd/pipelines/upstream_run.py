"""What others read of an upstream run that :mod:`ray_asd.pipelines.train` wrote.

Light: nothing here imports torch.
"""

from __future__ import annotations

import json

from ray_asd.archive import store
from ray_asd.bundle import Weights
from ray_asd.errors import BadInput

HEARD = "heard.json"
WEIGHTS = "weights.safetensors"


def heard_by(run: str) -> frozenset[str]:
    """Identities (:func:`manifest.identities`) of the recordings that the encoders trained on.

    Raises:
        BadInput: the upstream run does not say.
    """
    place = store.join(run, HEARD)
    if not store.exists(place):
        raise BadInput(f"{place}: missing; `ray-asd train` writes it: train again")
    return frozenset(json.loads(store.read_bytes(place)))


def weights_of(run: str, backbones: list[str]) -> dict[str, Weights]:
    """The trained encoders' weights in the upstream run ``run``.

    Raises:
        BadInput: not an upstream run, or a backbone is missing in it.
    """
    if not store.exists(store.join(run, "recipe.yaml")):
        raise BadInput(f"{run}: no recipe.yaml there; name a folder that `ray-asd train` wrote")
    found = {name: Weights(store.join(run, name, WEIGHTS)) for name in backbones}
    for name, weights in found.items():
        if not store.exists(weights.uri):
            raise BadInput(
                f"{weights.uri}: missing; `ray-asd train` has not finished the backbone {name}"
            )
    return found
