"""The challenge's CSVs: official names, and the same figures when they are read back."""

from pathlib import Path

import numpy as np
import pytest

import ray_asd
from ray_asd.errors import BadInput
from tests.conftest import run_cli
from tests.test_scores import publish, row


@pytest.fixture
def scored(tmp_path: Path) -> str:
    """Two machine types, three sections, both domains; FLAC and names with commas among them."""
    random = np.random.default_rng(0)
    rows = []
    for machine, section in (("fan", "00"), ("fan", "01"), ("Toy_Car", "00")):
        for n in range(40):
            domain, label = ("source", "target")[n % 2], ("normal", "anomaly")[n // 2 % 2]
            name = f"section_{section}_{domain}_test_{label}_{n:04d}_a, {n}"
            score = float(random.normal() * 10.0 ** random.integers(-20, 20))
            rows.append(
                row(
                    f"/archive/{machine}/test/{name}.{('wav', 'flac')[n % 3 == 0]}",
                    machine_type=machine,
                    section=section,
                    domain=domain,
                    label=label,
                    score=score,
                    decision=int(score > 0),
                )
            )
    publish(tmp_path / "scores", *rows)
    return str(tmp_path / "scores")


def test_evaluate_reads_the_same_figures_back(
    scored: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission"
    code, _, err = run_cli("submit", scored, "--out", str(out), capfd=capfd)
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == [
        f"{kind}_{section}_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for section in ("Toy_Car_section_00", "fan_section_00", "fan_section_01")
    ]
    expected, found = ray_asd.evaluate(scored), ray_asd.evaluate(str(out))
    assert found["official_score"] is not None
    for key in ("official_score", "means", "machines", "false_alarms"):
        assert found[key] == expected[key]


def test_a_line_is_a_name_and_a_number_in_full(tmp_path: Path) -> None:
    rows = [row("/x/b.flac", score=0.1 + 0.2, decision=1), row("/x/a.wav", score=1e-17)]
    publish(tmp_path / "s", *rows)
    result = ray_asd.submit(str(tmp_path / "s"), str(tmp_path / "out"))
    assert result["clips"] == 2
    shown = {n: (tmp_path / "out" / n).read_text() for n in result["files"]}
    assert shown["anomaly_score_fan_section_00_test.csv"] == (
        "a.wav,1e-17\nb.wav,0.30000000000000004\n"
    )
    assert shown["decision_result_fan_section_00_test.csv"] == "a.wav,0\nb.wav,1\n"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row("/x/a.wav"), row("/y/a.wav")], "a.wav already, of /x/a.wav"),
        ([row("/x/a.wav"), row("/x/a.wav", start_s=10.0)], "one score a file name"),
        ([row("/x/a.wav", section="hall 2")], "hall 2: the challenge's files have no name"),
        ([row("/x/a.wav", machine_type="DCASE2023T2fan")], "DCASE2023T2fan section 00"),
        ([row("/x/a.wav", split="train")], "no scores of the split test"),
    ],
)
def test_what_has_no_place_in_the_challenge_is_refused(
    rows: list[dict[str, object]], says: str, tmp_path: Path
) -> None:
    publish(tmp_path / "s", *rows)
    with pytest.raises(BadInput, match=says):
        ray_asd.submit(str(tmp_path / "s"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_of_other_sections_in_the_folder_are_refused(scored: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ray_asd.submit(scored, str(out))
    ray_asd.submit(scored, str(out))
    other = out / "anomaly_score_pump_section_00_test.csv"
    other.write_text("section_00_source_test_normal_0000.wav,1\n")
    with pytest.raises(BadInput, match="pump_section_00_test"):
        ray_asd.submit(scored, str(out))
