"""The sweep on one local Ray: it selects, carries on where it stopped, and its recipe holds."""

import csv
import json
from pathlib import Path

import pytest
import yaml

import ray_asd
from ray_asd import recipe
from tests.conftest import System, run_cli

pytestmark = pytest.mark.integration

SPACE = {
    "detectors": ["knn", "lof"],
    "aggregations": ["clip"],
    "references": [],
    "pseudo_normals": [],
    "settings": {"size": [1, 2, 4, 8]},
    "only": {},
    "pseudo_anomaly_share": 0.3,
    "fewest_normals": 10,
}


@pytest.mark.slow
def test_the_sweep_and_what_comes_of_it(
    system: System, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space, out = tmp_path / "space.yaml", tmp_path / "tuned.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    arguments = ["tune", system.manifest, "--upstream", system.upstream, "--out", str(out)]
    arguments += ["--space", str(space), "--json"]
    code, printed, err = run_cli(*arguments, capfd=capfd)
    assert code == 0, err
    first = json.loads(printed)
    assert (first["trials"], first["recorded"], first["failed"]) == (8, 0, {})
    choice = first["choices"]["official_score"]
    assert choice["official_score"] == max(choice["members"].values())
    assert choice["official_score"] >= first["best_single"]["official_score"]["official_score"]
    assert choice["label_free"] is not None
    assert first["choices"]["label_free"]["official_score"] is not None
    assert -1 <= first["rank_correlation"] <= 1
    with open(first["trials_table"], newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    picture = Path(first["trials_plot"]).read_text()
    assert all(f"<!-- {text} -->" in picture for text in ("knn", "lof", "official score"))
    assert sum(bool(line["member"]) for line in table) == len(first["members"])

    # A driver that is killed leaves the trials that it has recorded: half of them here.
    trials = sorted((tmp_path / "tuned.yaml.tune" / "trials").iterdir())
    embeddings = next((tmp_path / "tuned.yaml.tune" / "embeddings").iterdir())
    before = embeddings.stat().st_mtime_ns
    for place in trials[::2]:
        place.unlink()
    out.unlink()
    code, printed, err = run_cli(*arguments, "--label-free", capfd=capfd)
    assert code == 0, err
    second = json.loads(printed)
    assert (second["trials"], second["recorded"]) == (8, 4)
    assert embeddings.stat().st_mtime_ns == before
    assert second["choices"] == first["choices"]
    assert second["members"] == list(second["choices"]["label_free"]["members"])
    assert sorted((tmp_path / "tuned.yaml.tune").iterdir()) == [embeddings.parent, trials[0].parent]

    # What fit and score make of the recipe reaches the figure that the sweep promised.
    made = recipe.load(out)
    assert made.used_members() == sorted(second["members"], key=made.members().index)
    bundle, scores = str(tmp_path / "bundle"), str(tmp_path / "scores")
    ray_asd.fit(system.manifest, system.upstream, bundle, recipe=str(out))
    ray_asd.score(system.manifest, bundle, scores, split="test")
    row = ray_asd.read_scores(scores).to_pylist()[0]
    assert sorted(dict(row["members_raw"])) == sorted(second["members"])
    reached = ray_asd.evaluate(scores)["official_score"]
    promised = second["choices"]["label_free"]["official_score"]
    assert reached == pytest.approx(promised, abs=1e-9)


def test_a_run_named_twice_and_a_manifest_without_labels_are_refused(
    system: System, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray_asd.archive import manifest

    training = manifest.training(manifest.read(system.manifest))
    manifest.write(training, str(tmp_path / "training.parquet"))
    out = ["--out", str(tmp_path / "t.yaml")]
    up = ["--upstream", system.upstream]
    for arguments, says in (
        ([system.manifest, *up, *up], "is there twice"),
        ([str(tmp_path / "training.parquet"), *up], "--label-free"),
        ([system.manifest, "--upstream", str(tmp_path)], "recipe.yaml"),
        ([system.manifest, *up, "--space", "wide"], "large, report"),
    ):
        code, _, err = run_cli("tune", *arguments, *out, capfd=capfd)
        assert code == 2
        assert says in err
        assert len(err.strip().splitlines()) == 1
