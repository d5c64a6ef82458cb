"""Whether the machines of a cluster reach what the driver reaches."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_asd.archive import store
from ray_asd.errors import BadInput, RunFailed

# A worker process starts in seconds, on a busy machine in a minute.
_ANSWERS_S = 300.0


def everywhere(*places: str) -> None:
    """Check that every node reaches the files and folders that this process sees.

    A path on one machine's disk and credentials that only one machine has are found out here, and
    not by every recording. Of one node nothing is asked.

    Raises:
        BadInput: a node does not; which, and why.
        RunFailed: a node does not answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    seen = [place for place in places if store.exists(place)]
    # A node without cores has no worker of ours.
    asked = [node for node in nodes if node["Resources"].get("CPU")]
    task = ray.remote(num_cpus=0, max_retries=1)(_unreached)
    answers = {task.options(scheduling_strategy=_on(node)).remote(seen): node for node in asked}
    done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=_ANSWERS_S)
    for answer in done:
        for place, reason in ray.get(answer).items():
            raise BadInput(
                f"{place}: the machine {_name(answers[answer])} cannot read it: {reason}; name a "
                "place that all machines reach by the same name: a bucket whose credentials they "
                "all have, or a disk that they share"
            )
    if silent:
        raise RunFailed(
            f"the machine {_name(answers[silent[0]])} started no worker within "
            f"{_ANSWERS_S / 60:.0f} minutes; `ray status` says how it is"
        )


def _unreached(places: list[str]) -> dict[str, str]:
    """Those that this machine does not reach, and why."""
    found = {}
    for place in places:
        try:
            if not store.exists(place):
                found[place] = "it is not there"
        except (BadInput, OSError) as error:
            found[place] = str(error).splitlines()[0]
    return found


def _on(node: dict[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _name(node: dict[str, Any]) -> str:
    return str(node["NodeManagerHostname"] or node["NodeManagerAddress"])
