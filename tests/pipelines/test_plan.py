import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.pipelines import session
from ray_asd.pipelines.plan import Pool
from ray_asd.pipelines.session import GpuNode

NODES = st.lists(st.builds(GpuNode, st.integers(1, 96).map(float), st.integers(1, 8)), min_size=1)


def pool(nodes: list[GpuNode], blocks: int = 1000, workers: int | None = None) -> Pool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "gpu_nodes", lambda: nodes)
        patch.setattr(session, "cores", lambda: int(sum(node.cpus for node in nodes)) or 8)
        patch.setattr(session, "nodes_by_core", lambda: [])
        patch.setattr(session, "wait_for", lambda needed: None)
        return Pool.embedding(blocks, workers)


def test_without_a_gpu_every_core_embeds() -> None:
    assert (pool([]).size, pool([]).device) == (8, "cpu")


def test_as_many_actors_as_cores_share_a_gpu() -> None:
    one = pool([GpuNode(16.0, 1)])
    assert (one.size, one.device) == (16, "cuda")
    assert one.num_gpus == 0.062


def test_workers_that_are_asked_for_share_it_alone() -> None:
    assert pool([GpuNode(16.0, 1)], workers=2) == Pool(2, 0.25, num_gpus=0.5)
    assert pool([GpuNode(16.0, 4)], workers=2) == Pool(2, 0.25, num_gpus=1.0)


@given(NODES, st.integers(1, 500), st.none() | st.integers(1, 200))
def test_all_actors_find_room_on_the_gpus_and_on_half_of_the_cores(
    nodes: list[GpuNode], blocks: int, workers: int | None
) -> None:
    planned = pool(nodes, blocks, workers)
    assert 1 <= planned.size <= min(blocks, workers or blocks)
    assert planned.size <= sum(node.gpus for node in nodes) * int(1 / planned.num_gpus)
    assert planned.size * planned.num_cpus <= sum(node.cpus for node in nodes) / 2


@given(st.integers(1, 500), st.none() | st.integers(1, 200))
def test_without_gpus_too(blocks: int, workers: int | None) -> None:
    planned = pool([], blocks, workers)
    assert planned.num_gpus == 0
    assert planned.size * planned.num_cpus <= 4
