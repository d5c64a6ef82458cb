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
        patch.setattr(session, "cores", lambda: 8)
        return Pool.embedding(blocks, workers)


def test_without_a_gpu_every_core_embeds() -> None:
    assert (pool([]).size, pool([]).device) == (8, "cpu")


def test_actors_share_a_gpu_and_leave_some_of_a_core() -> None:
    one = pool([GpuNode(16.0, 1)])
    assert (one.size, one.device) == (16, "cuda")
    assert one.num_gpus == 0.062
    assert 15 < one.size * one.num_cpus < 16


def test_workers_that_are_asked_for_share_it_alone() -> None:
    assert pool([GpuNode(16.0, 1)], workers=2) == Pool(2, 1.0, 0.5)
    assert pool([GpuNode(16.0, 4)], workers=2) == Pool(2, 1.0, 1.0)


@given(NODES, st.integers(1, 500), st.none() | st.integers(1, 200))
def test_all_actors_find_room_beside_the_light_stages(
    nodes: list[GpuNode], blocks: int, workers: int | None
) -> None:
    planned = pool(nodes, blocks, workers)
    assert 1 <= planned.size <= min(blocks, workers or blocks)
    places = 0
    for node in nodes:
        on_a_gpu = int(1 / planned.num_gpus)
        by_cores = int((node.cpus - 0.5) / planned.num_cpus + 1e-9)
        places += min(on_a_gpu * node.gpus, by_cores)
    assert places >= planned.size
