"""Where an actor stands. Light: actors that do little import it."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_the_driver() -> dict[str, Any]:
    """Options of an actor that does little, and stands for as long as this process's node does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # A byte of memory, since Ray places an actor that asks for nothing wherever it likes.
    return {"num_cpus": 0, "memory": 1, "scheduling_strategy": here}
