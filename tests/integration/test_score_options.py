"""What a call of score asks for: dry runs, dates, limits, and scoring anew."""

import json
from pathlib import Path

import pytest

import ray_asd
from ray_asd.errors import BadInput
from tests.conftest import System, run_cli

pytestmark = pytest.mark.integration


def test_a_dry_run_counts_what_a_run_would_score_and_leaves_nothing(
    system: System, tmp_path: Path
) -> None:
    new = str(tmp_path / "new")
    would = ray_asd.score(system.manifest, system.bundle, new, split="test", dry_run=True)
    assert (would["recordings"], would["skipped"]) == (24, 0)
    assert would["machines"] == {"fan": 12, "valve": 12}
    assert would["bytes"] > 24 * 3 * 16000 * 2
    assert would["seconds"] is None
    assert not Path(new).exists()
    before = sorted(Path(system.scores).rglob("*"))
    would = ray_asd.score(system.manifest, system.bundle, system.scores, split="test", dry_run=True)
    assert (would["recordings"], would["skipped"], would["unfinished"]) == (0, 24, 0)
    would = ray_asd.score(system.manifest, system.bundle, system.scores, limit=5, dry_run=True)
    assert (would["recordings"], would["skipped"]) == (5, 24)
    assert would["seconds"] > 0
    assert sorted(Path(system.scores).rglob("*")) == before


def test_since_takes_recordings_from_a_moment_on(system: System, tmp_path: Path) -> None:
    def would(since: str) -> int:
        found = ray_asd.score(
            system.manifest, system.bundle, str(tmp_path / "s"), since=since, dry_run=True
        )
        return int(found["recordings"])

    assert would("2020-01-01") == 54
    assert would("2999-01-01T00:00:00+01:00") == 0
    with pytest.raises(BadInput, match="--since yesterday: not a date or time"):
        would("yesterday")


def test_the_command_line_says_what_would_be_done(
    system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", system.manifest, "--bundle", system.bundle, "--out", system.scores]
    code, out, _ = run_cli(*arguments, "--rescore", "--split", "test", "--dry-run", capfd=capfd)
    assert code == 0
    assert "24 recordings would be scored" in out
    code, out, _ = run_cli(*arguments, "--dry-run", "--json", capfd=capfd)
    assert code == 0
    assert json.loads(out)["recordings"] == 30


@pytest.mark.slow
def test_what_is_scored_anew_is_a_new_row_and_the_latest_one_counts(
    system: System, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    for _ in range(2):
        ray_asd.score(
            system.manifest, system.bundle, out, split="test", limit=3, rescore=True, workers=1
        )
    rows = ray_asd.read_scores(out, latest=False)
    assert rows.num_rows == 6
    latest = ray_asd.read_scores(out)
    assert latest.num_rows == 3
    assert set(latest["run_id"].to_pylist()) == {max(rows["run_id"].to_pylist())}
