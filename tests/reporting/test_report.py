"""The whole report of a table that needs no Ray."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ray

import ray_asd
from ray_asd import scores
from tests.conftest import run_cli
from tests.reporting.conftest import DAY, ENSEMBLE, Scored, rejected_row
from tests.test_scores import publish


@pytest.fixture(scope="module")
def made(scored: Scored, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The page of the hand-made table, and what the call returns."""
    out = tmp_path_factory.mktemp("made") / "report.html"
    scores.write_run(
        scored.scores,
        {"run_id": "20260103T000000Z-abcdef01", "bundle_id": "b", "audio_hours_per_hour": 1234.5},
    )
    started_before = ray.is_initialized()
    result = ray_asd.report(scored.scores, scored.bundle, str(out), top=5)
    assert ray.is_initialized() == started_before
    return out.read_text(), result


def articles(text: str) -> list[str]:
    return re.findall(r"<article.*?</article>", text, re.DOTALL)


def test_what_the_call_returns(made: tuple[str, dict[str, Any]], scored: Scored) -> None:
    text, result = made
    assert result["clips"] == len(scored.rows) == 24
    assert result["above"] == sum(row["decision"] for row in scored.rows)
    assert result["rejected"] == 1
    assert result["shown"] == 5
    assert result["not_heard"] == result["without_sound"] == result["without_spectrogram"] == 0
    assert result["bytes"] == len(text.encode())
    assert result["mapped"] == 24
    assert result["warnings"] == []
    assert result["official_score"] == ray_asd.evaluate(scored.scores)["official_score"]
    assert {unit["machine_type"] for unit in result["attention"]} <= {"fan", "valve"}
    json.dumps(result)


def test_the_highest_clips_are_there_to_see_and_hear(
    made: tuple[str, dict[str, Any]], scored: Scored
) -> None:
    text, _ = made
    expected = sorted(scored.rows, key=lambda row: -row["score"])[:5]
    found = articles(text)
    assert len(found) == 5
    for row, article in zip(expected, found, strict=True):
        assert row["uri"] in article
        assert row["nearest_uri"] in article
        assert f"{row['score']:.2f}" in article
        for name, value in row["members"]:
            assert f"{name}</span> {value:.2f}" in article
        assert article.count("<audio") == 2
        assert article.count("<image") == 2
        assert article.count(">score<") == 1


def test_the_page_tells_of_everything(made: tuple[str, dict[str, Any]]) -> None:
    text, result = made
    for section in ("attention", "machines", "listen", "figures", "rejections", "runs", "how"):
        assert f'<section id="{section}">' in text
    assert f"<strong>{100 * result['official_score']:.2f}</strong>" in text
    assert "1,234 × real time" in text
    assert "3 nights, 2026-01-01 to 2026-01-03" in text
    assert "/archive/broken.wav" in text
    assert "it is truncated" in text
    assert "http:" not in text
    assert "https:" not in text


def test_a_map_a_machine_of_its_labelled_clips(made: tuple[str, dict[str, Any]]) -> None:
    text, _ = made
    assert "as the backbone statistics hears them" in text
    drawn = re.search(r"<h3>Maps of the embeddings.*?</section>", text, re.DOTALL)
    assert drawn is not None
    assert sorted(re.findall(r"<h3>(\w+ 00)</h3>", drawn[0])) == ["fan 00", "valve 00"]
    assert drawn[0].count("normal training (") == 2
    for kind in ("source normal (3)", "target anomaly (3)"):
        assert drawn[0].count(kind) == 2


def test_what_cannot_be_heard_is_on_no_map(scored: Scored, tmp_path: Path) -> None:
    rows = [dict(row) for row in scored.rows if row["machine_type"] == "fan"]
    rows[0].update(uri=str(tmp_path / "gone.wav"))
    rows[1].update(uri="no \0 name")
    rows[2].update(fingerprint="another")
    rows[3].update(start_s=10.0)
    publish(tmp_path / "s", *rows)
    out = str(tmp_path / "r.html")
    assert ray_asd.report(str(tmp_path / "s"), scored.bundle, out, top=1)["mapped"] == 8
    result = ray_asd.report(str(tmp_path / "s"), scored.bundle, out, top=1, embedding_maps=False)
    assert result["mapped"] == 0
    assert "Maps of the embeddings" not in (tmp_path / "r.html").read_text()


def test_without_labels_nothing_is_mapped(scored: Scored, tmp_path: Path) -> None:
    rows = [{**row, "label": "unknown"} for row in scored.rows]
    publish(tmp_path / "s", *rows)
    result = ray_asd.report(str(tmp_path / "s"), scored.bundle, str(tmp_path / "r.html"), top=1)
    assert result["mapped"] == 0


def test_a_missing_and_a_changed_recording_are_told(scored: Scored, tmp_path: Path) -> None:
    rows = [dict(row) for row in scored.rows[:3]]
    rows[0].update(uri=str(tmp_path / "gone.wav"), score=9.0)
    rows[1].update(fingerprint="another", score=8.0)
    rows[2].update(nearest_uri=str(tmp_path / "also gone.wav"), score=7.0)
    publish(tmp_path / "s", *rows)
    result = ray_asd.report(str(tmp_path / "s"), scored.bundle, str(tmp_path / "r.html"))
    assert result["not_heard"] == 2
    gone, changed, alone = articles((tmp_path / "r.html").read_text())
    assert "no longer there" in gone
    assert "changed since it was listed" in changed
    assert "no longer there" in alone
    assert [article.count("<audio") for article in (gone, changed, alone)] == [1, 1, 1]


def test_the_latest_score_of_a_clip_counts(scored: Scored, tmp_path: Path) -> None:
    old, other = (dict(row) for row in scored.rows[:2])
    later = DAY + timedelta(days=9)
    new = {**old, "score": -1.0, "decision": 0, "scored_at": later, "night": "2026-01-10"}
    old.update(score=50.0, decision=1)
    other.update(score=0.25, decision=0)
    publish(tmp_path / "s", old, other, new)
    result = ray_asd.report(str(tmp_path / "s"), scored.bundle, str(tmp_path / "r.html"))
    assert (result["clips"], result["above"]) == (2, 0)
    text = (tmp_path / "r.html").read_text()
    assert re.findall(r'data-score="([^"]*)"', text) == ["0.25", "-1.0"]


def test_only_the_last_nights(scored: Scored, tmp_path: Path) -> None:
    result = ray_asd.report(scored.scores, scored.bundle, str(tmp_path / "r.html"), top=1, nights=1)
    assert result["clips"] == sum(row["night"] == "2026-01-03" for row in scored.rows)
    assert result["rejected"] == 0
    assert "night by night" not in (tmp_path / "r.html").read_text()


def test_hostile_names_are_text(scored: Scored, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&$x_{"
    row = {**scored.rows[0], "machine_type": evil, "section": evil, "uri": f"/x/{evil}.wav"}
    publish(tmp_path / "s", {**row, "night": evil, "fields": [("asset", evil)]})
    gone = rejected_row({n: row[n] for n in row}, evil, detail=evil)
    publish(
        tmp_path / "s",
        {n: v for n, v in gone.items() if n in scores.tables.REJECTIONS.names},
        kind="rejections",
    )
    result = ray_asd.report(str(tmp_path / "s"), scored.bundle, str(tmp_path / "r.html"))
    assert "does not hold 1 of the sections" in result["warnings"][0]
    text = (tmp_path / "r.html").read_text()
    assert "<img" not in text
    assert text.count("onerror") > 10


def test_clips_of_one_asset_stand_together(scored: Scored, tmp_path: Path) -> None:
    rows = [dict(row) for row in scored.rows]
    for n, row in enumerate(rows):
        row["fields"] = [("site", "A"), ("asset", f"unit {n % 2}")]
    publish(tmp_path / "s", *rows)
    ray_asd.report(str(tmp_path / "s"), scored.bundle, str(tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text()
    assert len(articles(text)) == 12  # three of each of four assets
    assert len(re.findall(r"<h3>(?:fan|valve) 00 · A · unit [01]</h3>", text)) == 4
    assert "no more than 3 of one asset" in text


def test_a_small_page_leaves_sound_out(scored: Scored, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = ray_asd.report(scored.scores, scored.bundle, str(out), top=4, largest_mb=0.3)
    assert out.stat().st_size <= 300_000
    assert result["without_sound"] > 0
    assert f"the sound of {result['without_sound']} clips is left out" in out.read_text()


def test_scores_of_another_bundle_are_warned_of(
    scored: Scored, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "s", {**scored.rows[0], "section_digest": "x", "bundle_id": "old one"})
    arguments = ["--bundle", scored.bundle, "--out", str(tmp_path / "r.html")]
    code, out, err = run_cli("report", str(tmp_path / "s"), *arguments, capfd=capfd)
    assert code == 0
    line = "1 clips were scored with another bundle (old one) than"
    assert line in err
    assert line in (tmp_path / "r.html").read_text()
    assert "1 clips" in out


def test_the_command_line_prints_what_needs_attention(
    scored: Scored, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", scored.bundle, "--out", str(tmp_path / "r.html"), "--top", "1"]
    code, out, _ = run_cli("report", scored.scores, *arguments, "--json", capfd=capfd)
    assert code == 0
    result = json.loads(out)
    code, out, _ = run_cli("report", scored.scores, *arguments, capfd=capfd)
    assert code == 0
    assert f"24 clips, {result['above']} above the threshold, 1 rejected" in out
    for unit in result["attention"]:
        assert f"{unit['machine_type']} 00: {'; '.join(unit['why'])}" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{tmp}", "--bundle", "{bundle}", "--out", "{tmp}/r.html"], "holds no scores"),
        (["{tmp}/nowhere", "--bundle", "{bundle}", "--out", "{tmp}/r.html"], "holds no scores"),
        (["{tmp}/empty", "--bundle", "{bundle}", "--out", "{tmp}/r.html"], "holds no scores"),
        (["{scores}", "--bundle", "{tmp}", "--out", "{tmp}/r.html"], "bundle.json"),
        (["{scores}", "--bundle", "{bundle}", "--out", "{tmp}"], "is a folder"),
        (["{scores}", "--bundle", "{bundle}", "--out", "{tmp}/no/r.html"], "no folder"),
        (["{scores}", "--bundle", "{bundle}", "--out", "{tmp}/{long}"], "cannot be written"),
        (["{scores}", "--bundle", "{bundle}", "--out", "/proc/r.html"], "cannot be written"),
        (
            ["{scores}", "--bundle", "{bundle}", "--out", "{tmp}/r.html", "--ensemble", "worst"],
            f"no ensemble worst; there are {ENSEMBLE}",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    scored: Scored,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty" / "scores").mkdir(parents=True)
    places = {"tmp": str(tmp_path), "bundle": scored.bundle, "scores": scored.scores}
    filled = [one.format(**places, long="x" * 300) for one in arguments]
    code, out, err = run_cli("report", *filled, "--top", "1", capfd=capfd)
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("ray-asd: ")
    assert says in last
    assert not (tmp_path / "r.html").exists()
