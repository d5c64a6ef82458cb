"""The main job: index, train, fit, score, evaluate, on one local Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

import ray_asd
from ray_asd import recipe, scores, tables
from ray_asd.archive import manifest
from ray_asd.errors import BadInput
from ray_asd.upstream import Classes, Training
from ray_asd.upstream.weights import load_tensors
from tests.conftest import TINY, System, run_cli, run_whole_path

pytestmark = pytest.mark.integration

LEFT_OUT = ("valve", "target")


def test_every_clip_is_scored_once(system: System) -> None:
    recordings = manifest.read(system.manifest)
    wanted = recordings.filter(pd.field("split") == "test")
    found = ray_asd.read_scores(system.scores, latest=False)
    keys = list(zip(found["uri"].to_pylist(), found["start_s"].to_pylist(), strict=True))
    assert sorted(keys) == sorted((uri, 0.0) for uri in wanted["uri"].to_pylist())
    assert ray_asd.read_rejections(system.scores).num_rows == 0


def test_a_row_tells_what_was_scored_and_why(system: System) -> None:
    found = ray_asd.read_scores(system.scores)
    tables.validate(found.schema, tables.SCORES, "scores")
    training = set(manifest.training(manifest.read(system.manifest))["uri"].to_pylist())
    for row in found.to_pylist():
        members = dict(row["members"])
        assert len(members) == 3
        assert set(members) == set(dict(row["members_raw"]))
        assert row["score"] == pytest.approx(np.mean(list(members.values())), abs=1e-12)
        assert len(row["segment_scores"]) == len(row["segment_starts_s"]) == 3
        assert row["segment_starts_s"] == pytest.approx([0, 0.496, 0.992], abs=0.017)
        assert 0 <= row["percentile"] <= 1
        assert row["nearest_uri"] in training
        assert f"/{row['machine_type']}/" in row["nearest_uri"]
        assert row["duration_s"] == 3.0


def test_what_is_scored_is_not_scored_again(system: System) -> None:
    before = sorted(Path(system.scores).rglob("*.parquet"))
    again = ray_asd.score(system.manifest, system.bundle, system.scores, split="test")
    assert again["recordings"] == 0
    assert again["skipped"] == 24
    assert sorted(Path(system.scores).rglob("*.parquet")) == before


def test_training_left_its_record(system: System) -> None:
    run = json.loads((Path(system.upstream) / "run.json").read_text())
    assert run["clips"] == {"source": 22, "target": 6, "held_out": 2}
    text = (Path(system.upstream) / "transformer" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    # 22 source clips over two workers, three places for them in a batch of four.
    assert [line["step"] for line in lines] == [3, 6]
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.slow
def test_both_backbones_are_members_beside_the_same_untrained(
    small_fleet: Path, held_ray: None, tmp_path: Path
) -> None:
    made = run_whole_path(small_fleet, tmp_path, "demo_compared")
    chosen = recipe.load("demo_compared", TINY)
    classes = Classes.from_dict(json.loads((Path(made.upstream) / "classes.json").read_text()))
    for backbone in chosen.trained_backbones():
        left = load_tensors(Path(made.upstream) / backbone / "weights.safetensors")
        first = Training(chosen, backbone, classes, 0, torch.device("cpu")).network.backbone
        trained = not backbone.startswith("untrained")
        lines = (Path(made.upstream) / backbone / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == (2 if trained else 1)
        for name, parameter in first.named_parameters():
            assert torch.equal(left[name], parameter) != trained, name
        assert not torch.equal(left["entrance.running_mean"], torch.zeros(224))
    for row in ray_asd.read_scores(made.scores).to_pylist():
        untrained = row["ensemble"] == "untrained"
        assert len(row["members"]) == 6
        assert all(member.startswith("untrained") == untrained for member, _ in row["members"])
        assert row["score"] == pytest.approx(np.mean([s for _, s in row["members"]]), abs=1e-12)


def test_scores_are_the_same_with_one_worker_and_other_batches(
    system: System, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    ray_asd.score(system.manifest, system.bundle, out, split="test", workers=1, batch=7)
    expected, found = (ray_asd.read_scores(uri) for uri in (system.scores, out))
    assert found["uri"].to_pylist() == expected["uri"].to_pylist()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=1e-5)
    for one, other in zip(
        found["segment_scores"].to_pylist(), expected["segment_scores"].to_pylist(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_score_does_not_depend_on_what_else_is_scored(system: System, tmp_path: Path) -> None:
    expected = {row["uri"]: row["score"] for row in ray_asd.read_scores(system.scores).to_pylist()}
    recordings = manifest.read(system.manifest)
    alone = recordings.filter(pd.field("uri") == min(expected))
    place = str(tmp_path / "alone.parquet")
    manifest.write(alone, place)
    ray_asd.score(place, system.bundle, str(tmp_path / "scores"))
    (row,) = ray_asd.read_scores(str(tmp_path / "scores")).to_pylist()
    assert row["score"] == pytest.approx(expected[row["uri"]], abs=1e-9)


def test_any_parquet_reader_opens_the_scores_with_one_glob(system: System) -> None:
    files = sorted(Path(system.scores).glob("scores/night=*/machine_type=*/*.parquet"))
    assert {file.parent.name for file in files} == {"machine_type=fan", "machine_type=valve"}
    assert sum(pq.read_metadata(file).num_rows for file in files) == 24


def test_evaluate_prints_and_returns_the_same_figures(
    system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_cli("evaluate", system.scores, "--json", capfd=capfd)
    assert code == 0
    result = json.loads(out)
    assert result == ray_asd.evaluate(system.scores)
    assert set(result["machines"]) == {"fan", "valve"}
    assert result["machines"]["fan"]["00"]["n"] == 12
    code, out, _ = run_cli("evaluate", system.scores, capfd=capfd)
    assert code == 0
    assert f"official score: {result['official_score']:.4f}" in out


def test_batch_statistics_standardize_by_the_test_clips_themselves(
    system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    table = ray_asd.read_scores(system.scores).to_pandas()
    code, out, err = run_cli(
        "evaluate", system.scores, "--standardize", "batch", "--json", capfd=capfd
    )
    assert code == 0, err
    found = json.loads(out)
    for machine_type, own in table.groupby("machine_type"):
        raw = np.array([[value for _, value in row] for row in own["members_raw"]])
        score = ((raw - raw.mean(0)) / raw.std(0)).mean(1)
        anomalous = own["label"] == "anomaly"
        expected = roc_auc_score(anomalous, score, max_fpr=0.1)
        assert found["machines"][machine_type]["00"]["pauc"] == pytest.approx(expected, abs=1e-12)
    assert set(found["false_alarms"].values()) == {None}


def test_without_target_clips_a_machine_type_is_left_out_with_the_reason(
    system: System, tmp_path: Path
) -> None:
    place = str(tmp_path / "scores")
    for machine_type in ("fan", "valve"):
        part = [
            row
            for row in ray_asd.read_scores(system.scores).to_pylist()
            if row["machine_type"] == machine_type and (machine_type, row["domain"]) != LEFT_OUT
        ]
        night = part[0]["night"]
        scores.publish(
            part, "scores", place, night=night, machine_type=machine_type, name=machine_type
        )
    result = ray_asd.evaluate(place)
    assert result["machines"]["valve"]["00"]["auc_target"] is None
    assert "target" in result["machines"]["valve"]["00"]["reason"]
    assert result["official_score"] is not None
    with pytest.raises(BadInput, match="valve"):
        ray_asd.evaluate(place, strict=True)
