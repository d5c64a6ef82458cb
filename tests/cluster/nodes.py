"""A program: a cluster of several nodes on this machine, ended when its standard input is closed.

python -m tests.cluster.nodes FOLDER HIDDEN

Prints the head's address once the head is up, which has no cores, as KubeRay's have none; and again
once there are three nodes more, of one core each. Their processes find nothing under HIDDEN, as on
machines with disks of their own.
"""

import os
import sys

from ray.cluster_utils import Cluster

_MEMORY = 100_000_000


def main(folder: str, hidden: str) -> None:
    """Hold the cluster."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": _MEMORY,
            "temp_dir": folder,
            "include_dashboard": False,
        },
    )
    _say(cluster)
    sys.stdin.readline()
    os.environ["HIDDEN"] = hidden
    for _ in range(3):
        cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
    _say(cluster)
    sys.stdin.read()
    cluster.shutdown()


def _say(cluster: Cluster) -> None:
    sys.stdout.write(f"up {cluster.address}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
