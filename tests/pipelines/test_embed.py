"""Embedding in this process, by a system whose backbones have nothing to learn."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_asd import recipe
from ray_asd.archive import manifest
from ray_asd.frontend import Heard, Hearing, segment_frames, segments
from ray_asd.pipelines import columns
from ray_asd.pipelines.embed import Embed

STATISTICS = """
extends: best
upstream: {backbones: {efficientnet: null, transformer: null}}
clips: {segments: 3}
"""
ANOTHER = """
upstream:
  backbones:
    efficientnet: null
    transformer: null
    short: {kind: statistics, front_end: {n_fft: 256, hop: 100, mels: bins}}
"""
ONE = recipe.parse(STATISTICS, "one.yaml")
TWO = recipe.parse(f"extends: best\nclips: {{segments: 3}}{ANOTHER}", "two.yaml")


@pytest.fixture
def recordings(small_fleet: Path) -> pa.Table:
    return manifest.build(str(small_fleet)).table.slice(0, 3)


def test_a_second_front_end_changes_no_digit_of_the_first(recordings: pa.Table) -> None:
    alone, both = (Embed(own.model_dump(), {})(recordings) for own in (ONE, TWO))
    for name in ("embedding/statistics", "segment_starts_s", "segments", "start_s"):
        assert both[name].equals(alone[name]), name
    assert columns.matrix(both, "statistics", TWO).shape == (3, 3, 448)


def test_each_backbone_embeds_the_segments_of_its_own_front_end(recordings: pa.Table) -> None:
    short = columns.matrix(Embed(TWO.model_dump(), {})(recordings), "short", TWO)
    front_end = TWO.front_end_of("short")
    length = segment_frames(front_end, TWO.clips)
    assert length == 321
    for recording, embedding in zip(recordings.to_pylist(), short, strict=True):
        (clip,) = Hearing(TWO)(recording)
        assert isinstance(clip, Heard)
        pieces, _ = segments(clip.mels[front_end], length, 3)
        expected = np.concatenate([pieces.mean(2), pieces.std(2)], axis=1)
        np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)


def test_the_starts_that_are_told_are_the_first_backbone_s(recordings: pa.Table) -> None:
    tree = TWO.model_dump(mode="json")
    backbones = tree["upstream"]["backbones"]
    tree["upstream"]["backbones"] = {name: backbones[name] for name in ("short", "statistics")}
    turned = recipe.validate(tree, "turned")
    told = [
        Embed(own.model_dump(), {})(recordings)["segment_starts_s"][0].as_py()
        for own in (TWO, turned)
    ]
    # Half a second, in frames of 16 ms and of 6.25 ms.
    assert told == [[0.0, 0.496, 0.992], [0.0, 0.5, 1.0]]
