"""Training on manifests that lack something, and what training leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ray_asd
from ray_asd import recipe as recipes
from ray_asd.archive import manifest
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import features, plan
from tests.conftest import TINY

pytestmark = pytest.mark.integration

TRANSFORMER = """
extends: demo
upstream: {backbones: {efficientnet: null}}
"""
STATISTICS = """
extends: best
upstream: {backbones: {efficientnet: null, transformer: null}}
clips: {segments: 3}
downstream: {folds: 2, pseudo_normals: 5}
"""
SMALL = [*TINY, "upstream.epochs=1"]

Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture
def edited(small_fleet: Path, tmp_path: Path) -> Callable[[Edit], str]:
    """A manifest of the small fleet, row by row as a function leaves it."""

    def make(edit: Edit) -> str:
        rows = manifest.build(str(small_fleet), "dcase").table
        kept = [row for row in map(edit, rows.to_pylist()) if row is not None]
        place = str(tmp_path / "edited.parquet")
        manifest.write(pa.Table.from_pylist(kept, rows.schema), place)
        return place

    return make


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.slow
def test_a_single_machine_type_without_target_clips_trains_with_one_warning(
    held_ray: None,
    edited: Callable[[Edit], str],
    recipe_of: Callable[[str], str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = edited(
        lambda row: (
            row
            if row["machine_type"] == "fan" and (row["domain"], row["split"]) != ("target", "train")
            else None
        )
    )
    run = ray_asd.train(place, str(tmp_path / "run"), recipe=recipe_of(TRANSFORMER), settings=SMALL)
    assert run["machine_types"] == 1
    assert run["clips"]["target"] == 0
    assert np.isfinite(run["backbones"]["transformer"]["loss"])
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "no target-domain clip to train on" in warnings[0]
    assert "less sure about machines whose surroundings changed" in warnings[0]
    with pytest.raises(BadInput, match=r"upstream\.learning_rate.*another folder"):
        ray_asd.train(
            place,
            str(tmp_path / "run"),
            recipe=recipe_of(TRANSFORMER),
            settings=[*SMALL, "upstream.learning_rate=0.1"],
        )


@pytest.mark.slow
def test_sections_of_one_split_only_and_a_machine_type_with_one_clip(
    held_ray: None,
    edited: Callable[[Edit], str],
    recipe_of: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """Learned sections without test clips do no harm; unlearned ones are rejected by name."""
    valves = 0

    def edit(row: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal valves
        if row["split"] == "train" and row["machine_type"] == "valve":
            valves += 1
            return {**row, "section": "07"} if valves == 1 else None
        return row

    place = edited(edit)
    run, bundle, scores = (str(tmp_path / name) for name in ("run", "bundle", "scores"))
    trained = ray_asd.train(place, run, recipe=recipe_of(STATISTICS))
    assert (trained["machine_types"], trained["backbones"]) == (2, {})
    fitted = ray_asd.fit(place, run, bundle)
    assert set(fitted["sections"]) == {"fan/00", "valve/07"}
    assert "warning" in fitted["sections"]["valve/07"]
    scored = ray_asd.score(place, bundle, scores, split="test")
    assert (scored["scored"], scored["reasons"]) == (12, {"unknown_section": 12})
    (detail,) = set(ray_asd.read_rejections(scores)["detail"].to_pylist())
    assert detail == "the bundle knows no section 00 of the machine type valve"
    figures = ray_asd.evaluate(scores)
    assert set(figures["machines"]) == {"fan"}


@pytest.mark.slow
def test_backbones_of_different_widths_are_members_of_one_system(
    system: Any, recipe_of: Callable[[str], str], tmp_path: Path
) -> None:
    """The training-free branch joins the trained ones at fit, with nothing trained anew."""
    own = (Path(system.upstream) / "recipe.yaml").read_text()
    tree = recipes.parse(own, "own").model_dump(mode="json")
    tree["upstream"]["backbones"]["statistics"] = {"kind": "statistics"}
    wide = tmp_path / "wide.yaml"
    wide.write_text(json.dumps(tree))
    bundle, scores = str(tmp_path / "bundle"), str(tmp_path / "scores")
    ray_asd.fit(system.manifest, system.upstream, bundle, recipe=str(wide))
    ray_asd.score(system.manifest, bundle, scores, split="test")
    before, after = (ray_asd.read_scores(uri).to_pylist() for uri in (system.scores, scores))
    assert len(before) == len(after) == 24
    for one, other in zip(before, after, strict=True):
        members, more = dict(one["members_raw"]), dict(other["members_raw"])
        assert {name for name in more if name not in members} == {
            f"statistics/{kind}" for kind in ("knn", "lof", "gmm")
        }
        assert all(more[name] == pytest.approx(members[name], abs=1e-6) for name in members)
        assert (one["nearest_uri"], one["section_digest"] != other["section_digest"]) == (
            other["nearest_uri"],
            True,
        )


def test_features_of_another_front_end_are_refused_by_name(system: Any) -> None:
    (table,) = (Path(system.upstream) / "features").iterdir()
    other = recipes.load("demo", [*TINY, "front_end.hop=128", "clips.cut_s=5"])
    with pytest.raises(BadInput, match=r"hop 256 \(the recipe has 128\)") as caught:
        features.parts_of(str(table), other, other.front_end)
    assert "\n" not in str(caught.value)
    shorter = recipes.load("demo", [*TINY, "clips.cut_s=5"])
    with pytest.raises(BadInput, match=r"cut_s 10.0 \(the recipe has 5.0\)"):
        features.parts_of(str(table), shorter, shorter.front_end)


@pytest.mark.slow
def test_features_that_are_not_finite_stop_training_with_one_line(
    held_ray: None,
    edited: Callable[[Edit], str],
    recipe_of: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyarrow.parquet as pq

    real = features.build

    def spoiled(*arguments: Any) -> list[str]:
        (folder,) = real(*arguments)
        for part in Path(folder).glob("*.parquet"):
            rows = pq.read_table(part)
            size = len(rows["mel"][0].as_py()) // 2
            bad = np.full(size, np.inf, "<f2").tobytes()
            mels = pa.array([bad] * rows.num_rows, pa.large_binary())
            pq.write_table(rows.set_column(rows.schema.names.index("mel"), "mel", mels), part)
        return [folder]

    monkeypatch.setattr(features, "build", spoiled)
    with pytest.raises(RunFailed, match="transformer diverged at step 0") as caught:
        ray_asd.train(
            edited(lambda row: row),
            str(tmp_path / "run"),
            recipe=recipe_of(TRANSFORMER),
            settings=SMALL,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([2], 2, 0.5),
        ([2], 1, 1.0),
        ([8], 2, 3.5),
        ([1], 1, 0.5),
        ([4, 4], 1, 4.0),
        ([4, 4], 3, 2.0),
        ([4, 4], 8, 0.875),
        ([16, 2], 4, 4.0),
    ],
)
def test_workers_fit_on_their_nodes_and_leave_a_core(
    nodes: list[float], workers: int, share: float
) -> None:
    assert plan.worker_share(nodes, workers) == share
    assert sum(n // share for n in nodes) >= workers
    assert sum(nodes) - workers * share >= min(1, sum(nodes) / 2)
