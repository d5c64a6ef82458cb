"""The report of what the system itself scored, counted here and on Ray."""

import re
from pathlib import Path
from typing import Any

import pytest

import ray_asd
from ray_asd import scores
from ray_asd.errors import BadInput
from ray_asd.pipelines import report
from ray_asd.reporting import parts
from tests.conftest import System

pytestmark = pytest.mark.integration


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few parts there are: each is a task of its own."""
    monkeypatch.setattr(report, "_GROUPS_ALONE", 0)
    monkeypatch.setattr(parts, "_MOST_PARTS", 1)


def page_of(text: str) -> str:
    """The page but for the time at which it was written."""
    return re.sub(r"written [\d: -]+UTC", "", text)


def test_the_page_tells_of_the_run(system: System, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = ray_asd.report(system.scores, system.bundle, str(out), top=6)
    rows = sorted(ray_asd.read_scores(system.scores).to_pylist(), key=lambda row: -row["score"])
    assert result["clips"] == len(rows) == 24
    assert result["above"] == sum(row["decision"] for row in rows)
    assert result["official_score"] == ray_asd.evaluate(system.scores)["official_score"]
    assert (result["not_heard"], result["warnings"]) == (0, [])
    text = out.read_text()
    found = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert len(found) == 6
    for row, article in zip(rows, found, strict=False):
        assert row["uri"] in article
        assert row["nearest_uri"] in article
        assert article.count("<audio") == article.count("<image") == 2
    run = scores.last_run(system.scores)
    assert run is not None
    assert run["run_id"] in text


def test_counted_on_ray_it_is_the_same_page(
    system: System, tmp_path: Path, on_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    on_tasks = ray_asd.report(system.scores, system.bundle, str(out), top=3)
    tasks = page_of(out.read_text())
    monkeypatch.undo()
    here = ray_asd.report(system.scores, system.bundle, str(out), top=3)
    untimed: list[dict[str, Any]] = [{**one, "seconds": 0} for one in (on_tasks, here)]
    assert untimed[0] == untimed[1]
    assert tasks == page_of(out.read_text())


def test_a_part_that_a_task_cannot_read_is_named(
    system: System, tmp_path: Path, on_ray: None
) -> None:
    folder = tmp_path / "scores" / "scores" / "night=2026-01-01" / "machine_type=fan"
    folder.mkdir(parents=True)
    (folder / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"torn\.parquet: cannot be read"):
        ray_asd.report(str(tmp_path / "scores"), system.bundle, str(tmp_path / "r.html"))
