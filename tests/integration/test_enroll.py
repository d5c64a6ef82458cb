"""A new machine from its normal recordings alone; what was known stays as it was."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import ray_asd
from ray_asd import bundle
from ray_asd.archive import fleet
from ray_asd.errors import BadInput
from tests.conftest import System

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gearbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten normal clips of a gearbox, and a fan's among them."""
    root = tmp_path_factory.mktemp("new")
    for machine_type, count in (("gearbox", 10), ("fan", 1)):
        fleet.synthesize(
            str(root),
            machine_types=(machine_type,),
            train_source=count,
            train_target=0,
            test_per_cell=1,
            duration_s=3.0,
            seed=5,
        )
    (stranger,) = (root / "fan" / "train").glob("*.wav")
    shutil.move(stranger, root / "gearbox" / "train" / stranger.name.replace("0000", "0999"))
    shutil.rmtree(root / "fan")
    return root


def test_a_new_machine_type_is_enrolled_and_the_others_stay(
    system: System, gearbox: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    manifest, out = str(tmp_path / "new.parquet"), str(tmp_path / "bundle2")
    ray_asd.index(str(gearbox), manifest)
    result = ray_asd.enroll(manifest, system.bundle, out)
    before, after = bundle.load(system.bundle), bundle.load(out)
    assert set(after.sections) == {*before.sections, ("gearbox", "00")}
    assert {key: after.digests[key] for key in before.digests} == before.digests
    trust = result["enrolled"]["gearbox/00"]
    assert trust["clips"] == 11
    assert trust["nearest"] in ("fan/00", "valve/00")
    assert -1 <= trust["similarity"] <= 1
    assert len(trust["warnings"]) >= 1
    assert all(uri.startswith(str(gearbox)) for uri in trust["suspects"])
    assert after.sections["gearbox", "00"].trust == trust

    # What the old bundle scored stays as it is; the new machine is scored now.
    scores = str(tmp_path / "scores")
    shutil.copytree(system.scores, scores)
    again = ray_asd.score(system.manifest, out, scores, split="test")
    assert (again["recordings"], again["skipped"]) == (0, 24)
    ray_asd.score(manifest, out, scores, split="test")
    rows = ray_asd.read_scores(scores).to_pylist()
    fresh = [row for row in rows if row["machine_type"] == "gearbox"]
    assert len(rows) - len(fresh) == 24
    assert len(fresh) == 4
    assert np.isfinite([row["score"] for row in fresh]).all()


def test_what_a_bundle_knows_is_not_enrolled_again(system: System, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="knows fan section 00 already"):
        ray_asd.enroll(system.manifest, system.bundle, str(tmp_path / "bundle2"))
