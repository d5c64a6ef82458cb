import numpy as np
import pytest

from ray_asd.downstream import ReferenceSet, pseudo_normals
from ray_asd.errors import BadInput


def reference(n=12, targets=3, seed=0):
    random = np.random.default_rng(seed)
    return ReferenceSet(
        random.normal(size=(n, 4, 6)).astype(np.float32),
        np.where(np.arange(n) < targets, "target", "source"),
        np.array([f"fan/{i:03d}.wav" for i in range(n)]),
        np.zeros(n),
        np.arange(n) % 4 == 0,
    )


def mixes(clips, count=50, seed=0, machine_type="fan", section="00"):
    return pseudo_normals(clips, count, seed=seed, machine_type=machine_type, section=section)


def test_choices():
    clips = reference()
    assert len(clips.choose("all")) == 12
    assert set(clips.choose("source").domains) == {"source"}
    assert clips.choose("target").uris.tolist() == ["fan/000.wav", "fan/001.wav", "fan/002.wav"]
    assert clips.choose("held_out").uris.tolist() == ["fan/000.wav", "fan/004.wav", "fan/008.wav"]
    with pytest.raises(BadInput, match="reference is target, but none of the 12 normal clips"):
        reference(targets=0).choose("target")


def test_points_of_clips_and_of_segments():
    clips = reference()
    points, domains = clips.points("clip")
    assert points.dtype == np.float64
    np.testing.assert_allclose(points, clips.embeddings.mean(axis=1), atol=1e-6)
    assert domains.tolist() == clips.domains.tolist()
    points, domains = clips.points("segment")
    np.testing.assert_array_equal(points[9], clips.embeddings[2, 1])
    assert domains.tolist() == ["target"] * 12 + ["source"] * 36


def test_pseudo_normals_lie_between_a_source_and_a_target_clip():
    clips = reference(n=2, targets=1)
    made = mixes(clips)
    target, source = clips.embeddings.astype(np.float64)
    share = ((made.embeddings - target) / (source - target)).reshape(50, -1)
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1], share.shape), atol=1e-4)
    assert 0 <= share.min() < 0.1
    assert 0.9 < share.max() <= 1
    assert set(made.domains) == {"mixed"}


def test_pseudo_normals_are_the_same_in_any_order_and_differ_by_seed_and_section():
    clips = reference()
    made = mixes(clips).embeddings
    order = np.random.default_rng(1).permutation(len(clips))
    np.testing.assert_array_equal(mixes(clips.select(order)).embeddings, made)
    for other in ({"seed": 1}, {"machine_type": "valve"}, {"section": "01"}):
        assert not np.array_equal(mixes(clips, **other).embeddings, made)


@pytest.mark.parametrize("targets", [0, 12])
def test_no_pseudo_normals_where_a_domain_is_absent(targets):
    clips = reference(targets=targets)
    assert len(mixes(clips)) == 0
    assert len(clips.extended(mixes(clips))) == 12


def test_a_clip_that_is_not_finite_is_named():
    embeddings = reference().embeddings.copy()
    embeddings[5, 2, 1] = np.nan
    clips = reference()
    with pytest.raises(ValueError, match=r"the embedding of fan/005.wav is not finite"):
        ReferenceSet(embeddings, clips.domains, clips.uris, clips.starts_s, clips.held_out)
