"""What a Ray program runs on: blocks of the manifest, and how the cores are shared."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_asd.pipelines import session

# Of a core, what an actor of the heavy pool and one of the light stages reserve. The heavy one
# uses all of a core, and is placed by cores rather than by what it reserves: when a node is lost,
# its actors must find room beside those of the nodes that are left, or their blocks wait for ever.
_HEAVY_SHARE = 0.25
_LIGHT_SHARE = 0.05

# Of all cores, kept from Tune's trials.
_KEPT_CORES = 0.5

# Actors that share a GPU: while one decodes and makes mels on its core, others keep it busy.
_MOST_ON_A_GPU = 16


@dataclass(frozen=True)
class Pool:
    """A pool of ``size`` actors, each with a share of the cores, and of the GPUs."""

    size: int
    num_cpus: float
    nodes: tuple[str, ...] = ()
    """ids of the nodes on which actors are placed, in turn; wherever there is room if empty"""
    num_gpus: float = 0.0

    @classmethod
    def heavy(cls, blocks: int, workers: int | None = None) -> "Pool":
        """One actor a core, or ``workers`` of them, and no more than there are blocks.

        Raises:
            RunFailed: other jobs hold the cores, and go on to.
        """
        size = min(workers or session.cores(), blocks)
        share = _heavy_share(size)
        session.wait_for({"CPU": share + _LIGHT_SHARE})
        return cls(size, share, tuple(session.nodes_by_core()))

    @classmethod
    def embedding(cls, blocks: int, workers: int | None = None) -> "Pool":
        """Like :meth:`heavy`; where there are GPUs, actors on their nodes that share them.

        They are placed by the GPUs, and so reserve all of their share of one.

        Raises:
            RunFailed: other jobs hold the cores or the GPUs, and go on to.
        """
        nodes = session.gpu_nodes()
        if not nodes:
            return cls.heavy(blocks, workers)
        gpus, cores = sum(n.gpus for n in nodes), int(sum(n.cpus for n in nodes))
        size = min(workers or max(1, min(cores, gpus * _MOST_ON_A_GPU)), blocks)
        share, of_a_gpu = _heavy_share(size), _down(1 / math.ceil(size / gpus))
        session.wait_for({"CPU": share + _LIGHT_SHARE, "GPU": of_a_gpu})
        return cls(size, share, num_gpus=of_a_gpu)

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
            ray_remote_args_fn=self._remote_args(retries),
        )

    def _remote_args(self, retries: dict[str, int]) -> Callable[[], dict[str, Any]]:
        """What Ray Data asks before it starts an actor."""
        if not self.nodes:
            return partial(dict, retries)
        # Soft: an actor whose node is lost starts again on another one.
        places = cycle([NodeAffinitySchedulingStrategy(node, soft=True) for node in self.nodes])
        return lambda: {**retries, "scheduling_strategy": next(places)}


def _heavy_share(size: int) -> float:
    """Of a core, for each of ``size`` actors; all of them find room on half of the cores."""
    return _down(min(_HEAVY_SHARE, session.cores() / 2 / size))


def trial_cpus(trials: int) -> float:
    """Cores that each of ``trials`` Tune trials reserves, where they run one a core."""
    cores = session.cores()
    return round((cores - _KEPT_CORES) / max(trials, cores), 3)


def block_rows(recordings: int, workers: int | None = None) -> int:
    """Recordings in a block: few enough that every worker gets several blocks, and not too few."""
    return min(64, max(4, recordings // (8 * (workers or session.cores()))))


def blocks(recordings: pa.Table) -> list[pa.Table]:
    """The manifest's rows in blocks."""
    rows = block_rows(recordings.num_rows)
    starts = range(0, recordings.num_rows, rows)
    return [recordings.slice(start, rows).combine_chunks() for start in starts]


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
