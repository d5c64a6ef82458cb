"""What a Ray program runs on: blocks of the manifest, and how the cores are shared."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from ray_asd.pipelines import session

# Of a node's cores, kept for the light stages beside the pool that does the work; measured, a
# pool that holds every core leaves the stages after it waiting for ever.
_LIGHT_CORES = 0.45
_LIGHT_SHARE = 0.05

# Actors that share a GPU: while one decodes and makes mels on its core, others keep it busy.
_MOST_ON_A_GPU = 16


@dataclass(frozen=True)
class Pool:
    """A pool of ``size`` actors, each with a share of the cores, and of the GPUs."""

    size: int
    num_cpus: float
    num_gpus: float = 0.0

    @classmethod
    def heavy(cls, blocks: int, workers: int | None = None) -> "Pool":
        """One actor a core, or ``workers`` of them, and no more than there are blocks.

        Raises:
            RunFailed: other jobs hold the cores, and go on to.
        """
        cores = session.cores()
        size = min(workers or cores, blocks)
        share = actor_share(session.cores_by_node(), max(size, cores))
        session.wait_for({"CPU": share + _LIGHT_CORES})
        return cls(size, share)

    @classmethod
    def embedding(cls, blocks: int, workers: int | None = None) -> "Pool":
        """Like :meth:`heavy`; where there are GPUs, actors on their nodes that share them."""
        nodes = session.gpu_nodes()
        if not nodes:
            return cls.heavy(blocks, workers)
        gpus, cores = sum(n.gpus for n in nodes), sum(n.cpus for n in nodes)
        most = max(1, min(int(cores), gpus * _MOST_ON_A_GPU))
        size = min(workers or most, most, blocks)
        share = math.ceil(size / gpus)
        # As many actors as share a node's GPUs must find room on its cores, the light stages too.
        free = min((n.cpus - _LIGHT_CORES) / (n.gpus * share) for n in nodes)
        return cls(size, _down(min(1.0, free)), _down(1 / share))

    @property
    def device(self) -> str:
        """Where its actors compute, for torch."""
        return "cuda" if self.num_gpus else "cpu"

    @classmethod
    def light(cls) -> "Pool":
        """One actor that needs little of a core."""
        return cls(1, _LIGHT_SHARE)

    def stage(
        self,
        blocks: Dataset | list[pa.Table],
        actor: type,
        retries: dict[str, int] = session.BOUNDED_RETRIES,
        **settings: Any,
    ) -> Dataset:
        """Pass blocks, as they are, through actors of the class ``actor``.

        Args:
            blocks: what comes in.
            actor: a class whose instances are called with a block.
            retries: how often an actor that died is started again, and its block tried again.
            settings: of the actor's constructor.
        """
        dataset = ray.data.from_arrow(blocks) if isinstance(blocks, list) else blocks
        return dataset.map_batches(
            actor,
            fn_constructor_kwargs=settings,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=self.size),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            ray_remote_args_fn=partial(dict, retries),
        )


def block_rows(recordings: int, workers: int | None = None) -> int:
    """Recordings in a block: few enough that every worker gets several blocks, and not too few."""
    return min(64, max(4, recordings // (8 * (workers or session.cores()))))


def blocks(recordings: pa.Table) -> list[pa.Table]:
    """The manifest's rows in blocks."""
    rows = block_rows(recordings.num_rows)
    starts = range(0, recordings.num_rows, rows)
    return [recordings.slice(start, rows).combine_chunks() for start in starts]


def actor_share(nodes: list[float], actors: int) -> float:
    """Cores of each of ``actors`` actors of a pool, on nodes whose cores ``nodes`` gives.

    A light stage must fit on a single node, so what all nodes leave together does not count.
    Wherever Ray puts the actors, one node has no more than its part of them, and so has room.
    """
    whole = [n for n in nodes if n >= 1] or [max(nodes)]
    parts = [math.ceil(n * actors / sum(whole) - 1e-9) for n in whole]
    share = min((n - _LIGHT_CORES) / part for n, part in zip(whole, parts, strict=True))
    return math.floor(share * 1000) / 1000


def worker_share(nodes: list[float], workers: int) -> float:
    """Cores of each of ``workers`` Train workers: the most that leaves a core to Ray Data.

    Every worker must fit on one of the nodes, whose cores ``nodes`` gives; on a single core they
    take half of it together.
    """
    cores = sum(nodes)
    most = (cores - 1) / workers if cores > 1 else 0.5 / workers
    shares = [most, *(n / k for n in nodes for k in range(1, workers + 1) if n / k < most)]
    fitting = [s for s in shares if sum(int(n / s + 1e-9) for n in nodes) >= workers]
    return _down(max(fitting))


def _down(share: float) -> float:
    """Rounded down, for what is rounded up may no longer fit."""
    return math.floor(share * 1000) / 1000
