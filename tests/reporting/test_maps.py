"""Which clips a map of embeddings is of, and where they lie on it."""

import numpy as np
import pyarrow as pa
import pytest

from ray_asd.reporting import maps


def labelled(**clips: int) -> pa.Table:
    """So many clips of each machine type, the later the higher; a part a machine type."""
    rows = [
        {"machine_type": name, "section": "00", "score": float(i), "part": part, "row": i}
        for part, (name, count) in enumerate(clips.items())
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows)


def test_few_clips_are_all_chosen_the_highest_first() -> None:
    keys = [("valve", "00"), ("gone", "00"), ("fan", "00")]
    found = maps.chosen(labelled(fan=3, valve=2), keys)
    assert list(found.items()) == [
        (("valve", "00"), [(1, 1), (1, 0)]),
        (("fan", "00"), [(0, 2), (0, 1), (0, 0)]),
    ]
    assert maps.chosen(labelled(fan=3), []) == {}


@pytest.mark.parametrize("machines", [1, 5, 20])
def test_many_clips_are_sampled_over_all_their_scores(machines: int) -> None:
    table = labelled(**{f"m{i:02}": 1000 for i in range(machines)})
    keys = [(f"m{i:02}", "00") for i in range(machines)]
    found = maps.chosen(table, keys)
    assert list(found) == keys[:8]
    assert sum(map(len, found.values())) <= 320
    for own in found.values():
        rows = [row for _, row in own]
        assert (rows[0], rows[-1]) == (999, 0)
        assert 40 <= len(set(rows)) == len(rows) <= 100
        assert np.ptp(np.diff(rows)) <= 1


def test_the_axes_are_those_along_which_normals_differ() -> None:
    random = np.random.default_rng(0)
    normals = np.zeros((500, 5))
    normals[:, 0] = 1
    normals[:, 3] = random.normal(0, 0.2, 500)
    normals[:, 1] = random.normal(0, 0.1, 500)
    clips = np.array([[9.0, 0, 0, 9, 0], [2.0, 0, 5, 0, 0]])
    kinds = [("source", "normal"), ("target", "anomaly")]
    drawn = maps.project(normals, clips, kinds)
    assert drawn is not None
    assert drawn.normals.shape == (300, 2)
    assert drawn.shares == pytest.approx((0.8, 0.2), abs=0.03)
    # Unit length first: the one lies along the first axis, the other off both.
    (along, beside), off = np.abs(drawn.clips)
    assert along == pytest.approx(0.5**0.5, abs=0.03)
    assert beside < 0.06
    assert off.max() < 0.06
    assert drawn.kinds == kinds


def test_too_few_normals_or_no_clip_make_no_map() -> None:
    kinds = [("source", "normal")]
    assert maps.project(np.eye(2), np.ones((1, 2)), kinds) is None
    assert maps.project(np.eye(3), np.empty(0), []) is None
    same = maps.project(np.ones((3, 4)), np.ones((1, 4)), kinds)
    assert same is not None
    assert same.shares == (0, 0)
