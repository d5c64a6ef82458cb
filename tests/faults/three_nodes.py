"""A Ray cluster of three nodes on this machine; prints its address, ends with its input."""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    # Cores only: a node's share of the object store is cut for the small recordings of the tests.
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False})
    for _ in range(2):
        cluster.add_node()
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
