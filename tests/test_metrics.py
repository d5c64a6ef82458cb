import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hmean

from ray_asd.challenge import read_challenge_scores
from ray_asd.errors import BadInput
from ray_asd.metrics import Rows, evaluate

ORACLES = Path(__file__).parents[1].parent / "shared" / "data" / "oracles" / "dcase2023_dev"


@pytest.fixture(params=["MSE", "MAHALA"])
def system(request):
    if not ORACLES.is_dir():
        pytest.skip("the official evaluator's figures are not here")
    return request.param


def test_every_figure_of_the_official_evaluator(system):
    shown = evaluate(read_challenge_scores(ORACLES / system)).to_dict()
    checked = 0
    with (ORACLES / "expected.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row.pop("scores") != system:
                continue
            metric, mean = row.pop("metric"), float(row.pop("all"))
            ours = shown["official_score"] if metric == "official_score" else shown["means"][metric]
            assert ours == pytest.approx(mean, rel=0, abs=1e-12)
            for machine, figure in row.items():
                if figure:
                    ours = shown["machines"][machine]["00"][metric]
                    assert ours == pytest.approx(float(figure), rel=0, abs=1e-12)
                    checked += 1
    assert checked == 21
    assert shown["warnings"] == []


def rows(*groups, decisions=True):
    """Of groups (machine type, section, domain, label, scores); above 5 is called an anomaly."""
    flat = [(m, s, d, label, score) for m, s, d, label, scores in groups for score in scores]
    *columns, scores = (np.array(column) for column in zip(*flat, strict=True))
    scores = scores.astype(float)
    return Rows(*columns, scores, (scores > 5).astype(np.int8) if decisions else None)


ONE = [
    ("fan", "00", "source", "normal", [1, 2, 6]),
    ("fan", "00", "target", "normal", [4, 7]),
    ("fan", "00", "source", "anomaly", [3, 8]),
    ("fan", "00", "target", "anomaly", [5]),
]


def test_a_section_by_hand():
    shown = evaluate(rows(*ONE), false_alarm_rate=0.1).to_dict()
    section = shown["machines"]["fan"]["00"]
    # Anomalies 3, 8, 5 above the source's 1, 2, 6: 2 + 3 + 2 of 9 pairs; the target's: 0 + 2 + 1.
    assert section["auc_source"] == pytest.approx(7 / 9)
    assert section["auc_target"] == pytest.approx(3 / 6)
    assert section["auc"] == pytest.approx(10 / 15)
    # Below a false-positive rate of 0.1 one anomaly of three is found: area 0.1 / 3, rescaled
    # from [0.005, 0.1] to [0.5, 1].
    assert section["pauc"] == pytest.approx(0.5 * (1 + (0.1 / 3 - 0.005) / (0.1 - 0.005)))
    assert section["precision_source"] == pytest.approx(1 / 2)
    assert section["recall_source"] == pytest.approx(1 / 2)
    assert section["f1_source"] == pytest.approx(1 / 2)
    assert (section["precision_target"], section["recall_target"], section["f1_target"]) == (
        0,
        0,
        0,
    )
    assert section["n"] == 8
    assert section["n_target_normal"] == 2
    assert section["reason"] is None
    three = [section[key] for key in ("auc_source", "auc_target", "pauc")]
    assert shown["official_score"] == pytest.approx(hmean(three))
    assert shown["false_alarms"] == {"aimed": 0.1, "source": 1 / 3, "target": 0.5, "all": 0.4}


def test_sections_in_any_number_weigh_alike():
    other = [("fan", "01", d, label, s) for (_, _, d, label, s) in ONE[:3]]
    third = [("valve", "00", d, label, [10 - x for x in s]) for (_, _, d, label, s) in ONE]
    shown = evaluate(rows(*ONE, *other, *third)).to_dict()
    sections = [s for machine in shown["machines"].values() for s in machine.values()]
    assert len(sections) == 3
    for key in ("auc_source", "auc_target", "pauc"):
        assert shown["means"][key] == pytest.approx(hmean([s[key] for s in sections]))
    figures = [s[key] for s in sections for key in ("auc_source", "auc_target", "pauc")]
    assert shown["official_score"] == pytest.approx(hmean(figures))


def test_an_auc_of_zero_counts_as_an_epsilon():
    worst = [
        (m, s, d, label, [-x for x in v] if label == "anomaly" else v) for m, s, d, label, v in ONE
    ]
    shown = evaluate(rows(*worst)).to_dict()
    assert shown["machines"]["fan"]["00"]["auc_source"] == 0
    assert 0 < shown["official_score"] < 1e-14


def test_2020_knows_no_domains_and_averages_arithmetically():
    unknown = [(m, s, "unknown", label, v) for m, s, _, label, v in ONE]
    other = [("fan", "01", "unknown", "normal", [1]), ("fan", "01", "unknown", "anomaly", [2])]
    shown = evaluate(rows(*unknown, *other), year=2020).to_dict()
    assert shown["means"]["auc"] == pytest.approx((10 / 15 + 1) / 2)
    assert shown["means"]["auc_source"] is None
    pauc = shown["machines"]["fan"]["00"]["pauc"]
    assert shown["official_score"] == pytest.approx((10 / 15 + pauc + 1 + 1) / 4)


def test_2021_takes_each_domains_own_anomalies():
    shown = evaluate(rows(*ONE), year=2021).to_dict()
    section = shown["machines"]["fan"]["00"]
    assert section["auc_source"] == pytest.approx(5 / 6)
    assert section["auc_target"] == pytest.approx(1 / 2)
    four = [section[f"{key}_{d}"] for key in ("auc", "pauc") for d in ("source", "target")]
    assert shown["official_score"] == pytest.approx(hmean(four))
    assert section["pauc"] == pytest.approx(hmean(four[2:]))


def test_2022_to_2025_agree_and_other_years_are_refused():
    shown = [evaluate(rows(*ONE), year=year).to_dict() for year in (2022, 2023, 2024, 2025)]
    assert all({**one, "year": 0} == {**shown[0], "year": 0} for one in shown)
    with pytest.raises(ValueError, match="no definition of 2019; there are 2020, 2021"):
        evaluate(rows(*ONE), year=2019)


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ([2, 3], "no anomalous test clips"),
        ([1, 3], "no normal test clips of the target domain"),
        ([0], "no normal test clips of the source domain"),
    ],
)
def test_a_section_that_lacks_a_class_or_a_domain_is_left_out(lacking, reason):
    poor = [("valve", "00", *group[2:]) for i, group in enumerate(ONE) if i not in lacking]
    shown = evaluate(rows(*ONE, *poor)).to_dict()
    section = shown["machines"]["valve"]["00"]
    assert section["reason"] == reason
    assert None in (section["auc_source"], section["auc_target"], section["pauc"])
    assert shown["official_score"] == evaluate(rows(*ONE)).official_score
    assert shown["warnings"] == [f"valve section 00 is left out: {reason}"]


def test_nothing_to_evaluate_gives_no_score():
    shown = evaluate(rows(ONE[0], decisions=False)).to_dict()
    assert shown["official_score"] is None
    assert shown["means"]["pauc"] is None
    assert shown["false_alarms"]["source"] is None
    assert shown["machines"]["fan"]["00"]["reason"] == (
        "no anomalous test clips; no normal test clips of the target domain"
    )


def test_unlabelled_clips_change_no_figure():
    more = [("fan", "00", "source", "unknown", [9.0, 0.5])]
    plain, with_more = (evaluate(rows(*groups)) for groups in (ONE, [*ONE, *more]))
    assert plain.official_score == with_more.official_score
    assert with_more.machines["fan"]["00"].clips["n_unlabelled"] == 2


@settings(deadline=None)
@given(st.permutations(range(8)), st.integers(1, 9))
def test_figures_depend_on_the_order_of_scores_alone(order, power):
    plain = rows(*ONE)
    order = np.array(order)
    changed = plain.select(order)
    changed = Rows(
        changed.machine_type,
        changed.section,
        changed.domain,
        changed.label,
        changed.score**power - 3,
        changed.decision,
    )
    assert evaluate(changed).to_dict() == evaluate(plain).to_dict()


def test_rows_that_do_not_fit_together_are_refused():
    good = rows(*ONE)
    columns = (good.machine_type, good.section, good.domain, good.label)
    with pytest.raises(ValueError, match="differ in length"):
        Rows(*columns, good.score[:-1], None)
    with pytest.raises(ValueError, match="row 0: no finite score"):
        Rows(*columns, good.score * np.nan, None)


def write(folder, name, lines):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def named(section="00"):
    """Clips with official names, and a score and a decision for each."""
    table = []
    for i, (domain, label) in enumerate(
        (d, label)
        for d in ("source", "target")
        for label in ("normal", "anomaly")
        for _ in range(3)
    ):
        name = f"section_{section}_{domain}_test_{label}_{i:04d}_vel_{i}.wav"
        table.append((name, (i * 7) % 12 + 0.5, i % 2, domain, label))
    return table


def submit(folder, machine="fan", section="00", short=False, pattern="{}_{}_section_{}_test.csv"):
    table = named(section)
    names = [f"section_{section}_{i:04d}.wav" if short else t[0] for i, t in enumerate(table)]
    for kind, column in (("anomaly_score", 1), ("decision_result", 2)):
        lines = [f"{name},{t[column]}" for name, t in zip(names, table, strict=True)]
        write(folder, pattern.format(kind, machine, section), lines)
    return table


def test_reads_names_of_submissions_and_of_the_baseline(tmp_path):
    submit(tmp_path, "fan", "00")
    submit(tmp_path, "fan", "02")
    pattern = "{}_DCASE2023T2{}_section_{}_test_seed13711_id(0_).csv"
    table = submit(tmp_path, "ToyCar", "00", pattern=pattern)
    write(tmp_path, "official_score.csv", ["not,one,of,them"])
    read = read_challenge_scores(tmp_path)
    assert sorted(set(zip(read.machine_type.tolist(), read.section.tolist(), strict=True))) == [
        ("ToyCar", "00"),
        ("fan", "00"),
        ("fan", "02"),
    ]
    car = read.select(read.machine_type == "ToyCar")
    assert car.score.tolist() == [t[1] for t in table]
    assert car.decision.tolist() == [t[2] for t in table]
    assert car.domain.tolist() == [t[3] for t in table]
    assert car.label.tolist() == [t[4] for t in table]


def test_reads_the_names_of_2020_and_of_2021(tmp_path):
    write(tmp_path / "2020", "anomaly_score_fan_id_00.csv", ["normal_id_00_00000003.wav,1e-3"])
    read = read_challenge_scores(tmp_path / "2020")
    assert (read.label.tolist(), read.domain.tolist()) == (["normal"], ["unknown"])
    assert read.decision is None
    for domain in ("source", "target"):
        line = f"section_00_{domain}_test_anomaly_0001.wav,2"
        write(tmp_path / "2021", f"anomaly_score_fan_section_00_{domain}_test.csv", [line])
    assert read_challenge_scores(tmp_path / "2021").domain.tolist() == ["source", "target"]


@pytest.mark.parametrize("short", [True, False])
def test_the_official_ground_truth_stands_in_for_names(tmp_path, short):
    table = submit(tmp_path / "scores", short=short)
    truth = tmp_path / "truth"
    short_names = [f"section_00_{i:04d}.wav" for i in range(len(table))]
    columns = {
        "data": [int(t[4] == "anomaly") for t in table],
        "domain": [int(t[3] == "target") for t in table],
        "attributes": [t[0].removesuffix(".wav") for t in table],
    }
    for kind, values in columns.items():
        lines = [f"{name},{value}" for name, value in zip(short_names, values, strict=True)]
        write(truth / f"ground_truth_{kind}", "ground_truth_fan_section_00_test.csv", lines)
    read = read_challenge_scores(tmp_path / "scores", truth)
    assert read.label.tolist() == [t[4] for t in table]
    assert read.domain.tolist() == [t[3] for t in table]
    if short:
        with pytest.raises(BadInput, match=r"line 1: the file name section_00_0000.wav carries no"):
            read_challenge_scores(tmp_path / "scores")
    path = tmp_path / "scores" / "anomaly_score_fan_section_00_test.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    (tmp_path / "scores" / "decision_result_fan_section_00_test.csv").unlink()
    with pytest.raises(BadInput, match=r"section_00_0011.wav is missing \(1 in all\)"):
        read_challenge_scores(tmp_path / "scores", truth)
    path.write_text("\n".join([*lines[:-1], "section_00_9999.wav,1"]))
    with pytest.raises(BadInput, match=r"line 12: section_00_9999.wav is not in the ground truth"):
        read_challenge_scores(tmp_path / "scores", truth)
    path.write_text("\n".join(lines))
    submit(tmp_path / "scores", "valve", short=short)
    with pytest.raises(BadInput, match="the ground truth has no valve section 00"):
        read_challenge_scores(tmp_path / "scores", truth)
    write(truth / "ground_truth_data", "ground_truth_gearbox_section_00_test.csv", ["a.wav,0"])
    write(truth / "ground_truth_domain", "ground_truth_gearbox_section_00_test.csv", ["a.wav,0"])
    (tmp_path / "scores" / "anomaly_score_valve_section_00_test.csv").unlink()
    (tmp_path / "scores" / "decision_result_valve_section_00_test.csv").unlink()
    with pytest.raises(BadInput, match="no anomaly_score file of gearbox section 00"):
        read_challenge_scores(tmp_path / "scores", truth)


GOOD = "section_00_source_test_normal_0000_x.wav"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [f"{GOOD},1", f"{GOOD},2"],
            r"00_test.csv, line 2: section_00\S* is there twice, first in",
        ),
        ([f"{GOOD},0.1x"], "line 1: '0.1x' is not a number"),
        ([f"{GOOD},nan"], "line 1: nan is not a finite number"),
        ([f"{GOOD},"], "line 1: '' is not a number"),
        ([",0.5"], "line 1: the file name is missing"),
        ([GOOD], "line 1: 1 columns; there should be file name, number"),
        (["fan_0001.wav,0.5"], "line 1: the file name fan_0001.wav carries no label and domain"),
        ([], "holds no scores"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, message):
    write(tmp_path, "anomaly_score_fan_section_00_test.csv", lines)
    with pytest.raises(BadInput, match=message):
        read_challenge_scores(tmp_path)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        read_challenge_scores(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"no anomaly_score_<machine>_section_<id>_test\.csv there"):
        read_challenge_scores(tmp_path)
    submit(tmp_path)
    odd = write(tmp_path, "anomaly_score_fan.csv", [f"{GOOD},1"])
    with pytest.raises(BadInput, match=r"anomaly_score_fan.csv: not a name of the challenge's"):
        read_challenge_scores(tmp_path)
    odd.unlink()
    again = write(tmp_path, "anomaly_score_fan_section_00_test_seed1.csv", [f"{GOOD},1"])
    with pytest.raises(BadInput, match=r"its section has anomaly_score_fan_section_00_test.csv"):
        read_challenge_scores(tmp_path)
    again.unlink()
    decisions = tmp_path / "decision_result_fan_section_00_test.csv"
    lines = decisions.read_text().splitlines()
    decisions.write_text("\n".join(lines[1:]))
    with pytest.raises(BadInput, match=r"decision_result_fan\S*: section_00_\S* is missing"):
        read_challenge_scores(tmp_path)
    decisions.write_text("\n".join([*lines[:-1], lines[-1].rpartition(",")[0] + ",0.5"]))
    with pytest.raises(BadInput, match=r"line 12: 0.5 is neither 0 nor 1"):
        read_challenge_scores(tmp_path)
    (tmp_path / "anomaly_score_fan_section_00_test.csv").write_bytes(b"\xff\xfe,1\n")
    with pytest.raises(BadInput, match="cannot be read as CSV"):
        read_challenge_scores(tmp_path)
