"""A night: what is new is scored, alarms are raised within the budget, one summary is left."""

import json
from pathlib import Path

import pytest

from tests.conftest import System, run_cli

pytestmark = pytest.mark.integration


def test_two_nights(system: System, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "scores", tmp_path / "report.html"
    arguments = ["nightly", system.manifest, "--bundle", system.bundle, "--out", str(out)]
    arguments += ["--alarms-per-night", "2", "--report", str(page)]
    code, printed, err = run_cli(*arguments, capfd=capfd)
    night = json.loads(printed)
    raised = night["alarms"]["raised"]
    assert night["run"]["scored"] == 54
    assert raised == min(2, night["alarms"]["above_threshold"])
    assert code == (4 if raised else 0), err
    assert night["evaluation"]["official_score"] > 0
    assert json.loads(Path(night["summary"]).read_text()) == night
    assert page.read_text().startswith("<!")
    stages = night["run"]["stage_seconds"]
    assert set(stages) == {"hear", "embed", "knn", "lof", "gmm", "reduce"}
    assert all(seconds > 0 for seconds in stages.values())

    code, printed, err = run_cli(*arguments, capfd=capfd)
    again = json.loads(printed)
    assert code == 0, err
    assert (again["run"]["scored"], again["run"]["skipped"]) == (0, 54)
    assert again["alarms"]["raised"] == 0
