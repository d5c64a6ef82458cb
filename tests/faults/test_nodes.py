"""A cluster may lose a node: nothing is lost with it, and nothing waits for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.commands import Command, ThreeNodes, sabotage
from tests.faults.outcome import assert_same_scores, commits, outcomes, sound
from tests.faults.slowly import SLOWLY

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.fixture
def three_nodes(tmp_path: Path) -> Iterator[ThreeNodes]:
    # Slowly, so that all nodes are at work when one is lost.
    cluster = ThreeNodes(**sabotage(tmp_path, SLOWLY))
    yield cluster
    cluster.end()


def test_a_lost_node_costs_no_recording_and_changes_no_score(
    archive: Path,
    score: Callable[..., Command],
    three_nodes: ThreeNodes,
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores"
    command = score("--address", three_nodes.address, **three_nodes.credentials)
    embedding = "MapWorker(MapBatches(EmbedShard))"
    command.wait_for(lambda: len(commits(out)) >= 2 and all(three_nodes.nodes(embedding).values()))
    assert len(commits(out)) < 12
    # What knows which recordings crash lies on the driver's node, the head.
    assert not any(three_nodes.nodes("InFlight").values())
    lost = max(three_nodes.nodes("MapWorker").items(), key=lambda node: len(node[1]))[0]
    three_nodes.kill_node(lost)
    command.end_well()
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert not reasons
    assert_same_scores(out, undisturbed)
