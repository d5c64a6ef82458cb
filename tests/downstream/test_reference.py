from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.downstream import Mixes, ReferenceSet, draw, pseudo_normals
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


def with_mixes(clips, count=50):
    """Each mix's embedding says which clips it is made of."""
    parents = draw(clips, count, seed=0, machine_type="fan", section="00").parents
    numbers = np.array([int(uri[4:7]) for uri in clips.uris])
    embeddings = np.broadcast_to(numbers[parents].repeat(3, axis=1)[:, None], (count, 4, 6))
    return replace(clips, mixes=Mixes(embeddings.astype(np.float32), parents))


@given(kept=st.lists(st.booleans(), min_size=12, max_size=12), seed=st.integers(0, 99))
def test_a_mix_stays_with_both_of_its_clips_and_goes_with_either(kept, seed):
    clips = with_mixes(reference())
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
    chosen = clips.select(rows)
    there = {int(uri[4:7]) for uri in chosen.uris}
    expected = [m for m in clips.mixes.embeddings if {m[0, 0], m[0, 3]} <= there]
    np.testing.assert_array_equal(
        chosen.mixed().embeddings, np.reshape(expected, (len(expected), 4, 6))
    )
    # ... whichever way the clips that are left are chosen from again.
    assert set(chosen.mixed().domains) <= {"mixed"}
    numbers = np.array([int(uri[4:7]) for uri in chosen.uris], dtype=np.int64)
    np.testing.assert_array_equal(
        numbers[chosen.mixes.parents], chosen.mixes.embeddings[:, 0, [0, 3]]
    )


def test_mixes_of_both_domains_go_where_one_is_chosen():
    clips = with_mixes(reference())
    assert len(clips.choose("all").mixed()) == 50
    assert len(clips.choose("source").mixed()) == len(clips.choose("target").mixed()) == 0
    held_out = clips.choose("held_out").mixes
    assert set(held_out.parents.ravel()) <= {0, 1, 2}
    with pytest.raises(ValueError, match="no waveforms of these clips were mixed"):
        reference().mixed()


def test_waveforms_are_mixed_of_the_pairs_and_shares_that_embeddings_are():
    clips = reference()
    drawn = draw(clips, 50, seed=0, machine_type="fan", section="00")
    assert set(clips.domains[drawn.parents[:, 0]]) == {"source"}
    assert set(clips.domains[drawn.parents[:, 1]]) == {"target"}
    share = drawn.shares[:, None, None]
    first, second = clips.embeddings[drawn.parents].swapaxes(0, 1)
    np.testing.assert_allclose(
        mixes(clips).embeddings, share * first + (1 - share) * second, atol=1e-6
    )
