from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.archive.layout import DcaseLayout, Named, TemplateLayout, layout_of, read_attributes
from ray_asd.errors import BadInput
from ray_asd.tables import DOMAINS, LABELS, SPLITS

WORD = st.text("abcXYZ019.-", min_size=1, max_size=6)
PAIRS = st.dictionaries(WORD.filter(lambda w: w != "attribute"), WORD, max_size=4)


@given(
    machine=WORD.filter(lambda w: w.strip(".")),
    section=st.integers(0, 99),
    words=st.tuples(*(st.sampled_from(c[:2]) for c in (DOMAINS, SPLITS, LABELS))),
    attributes=PAIRS,
    ending=st.sampled_from(["wav", "flac", "WAV"]),
)
def test_a_dcase_name_says_what_it_was_made_of(
    machine: str,
    section: int,
    words: tuple[str, ...],
    attributes: dict[str, str],
    ending: str,
) -> None:
    domain, split, label = words
    tail = "_".join(part for pair in attributes.items() for part in pair) or "noAttribute"
    name = f"section_{section:02d}_{domain}_{split}_{label}_0007_{tail}.{ending}"
    named = DcaseLayout().parse(f"{machine}/{split}/{name}")
    assert named == Named(machine, f"{section:02d}", domain, split, label, attributes)


@pytest.mark.parametrize(
    ("tail", "attributes"),
    [
        ("car_B1_spd_31V_mic_1", {"car": "B1", "spd": "31V", "mic": "1"}),
        ("m-n_X", {"m-n": "X"}),
        ("vel_500_ac_0.30", {"vel": "500", "ac": "0.30"}),
        ("noAttribute", {}),
        ("", {}),
        ("strength_1_ambient", {"strength": "1", "attribute": "ambient"}),
        ("quiet", {"attribute": "quiet"}),
        ("f-n_A_f-n_B", {"f-n": "A_B"}),
    ],
)
def test_attributes_of_a_name(tail: str, attributes: dict[str, str]) -> None:
    assert read_attributes(tail) == attributes


@pytest.mark.parametrize(
    ("root", "relative"),
    [
        ("/data/rec", "fan/train/section_01_0003.wav"),
        ("/data/rec/fan", "train/section_01_0003.wav"),
        ("/data/rec/fan/train", "section_01_0003.flac"),
        ("/data", "rec/2023/fan/train/section_01_0003.wav"),
    ],
)
def test_the_machine_is_found_from_any_root(root: str, relative: str) -> None:
    assert DcaseLayout().parse(relative, root) == Named("fan", "01", split="train")


@pytest.mark.parametrize(
    "relative",
    [
        "fan/train/section_00_source_test_normal_0001.wav",
        "fan/train/normal_id_00_00000000.wav",
        "fan/supplement/section_00_0001.wav",
        "fan/train/section_00_source_train_broken_0001.wav",
        "train/section_00_0001.wav",
        "section_00_0001.wav",
    ],
)
def test_a_name_that_is_not_dcase_fits_not(relative: str) -> None:
    assert DcaseLayout().parse(relative) is None


def test_a_template_fills_columns_and_fields() -> None:
    layout = layout_of("{site}/{machine_type}/{section}/{date:%Y-%m-%d}/{time}_{asset}.flac")
    assert layout.parse("north/pump/03/2026-02-28/2359_P_17.flac") == Named(
        "pump",
        "03",
        recorded_at=datetime(2026, 2, 28, tzinfo=UTC),
        fields={"site": "north", "time": "2359", "asset": "P_17"},
    )
    assert layout.parse("north/pump/03/2026-02-30/2359_P_17.flac") is None
    assert layout.parse("north/pump/03/2026-02-28/2359_P_17.wav") is None
    assert layout.parse("deeper/north/pump/03/2026-02-28/2359_P_17.flac") is None


def test_date_and_time_together_give_the_moment() -> None:
    layout = TemplateLayout(
        "{machine_type}/{date:%Y/%m/%d}/{time:%H%M%S%z}_{domain}_{split}_{label}_{attributes}.wav"
    )
    named = layout.parse("pump/2026/02/28/013000+0200_target_test_anomaly_spd_3_load_5.wav")
    assert named == Named(
        "pump", "00", "target", "test", "anomaly", {"spd": "3", "load": "5"},
        datetime(2026, 2, 27, 23, 30, tzinfo=UTC),
    )  # fmt: skip
    assert layout.parse("pump/2026/02/28/013000+0200_nowhere_test_anomaly_spd_3.wav") is None


@given(st.dictionaries(st.sampled_from(["site", "asset", "hall"]), WORD, min_size=1), WORD, WORD)
def test_a_template_reads_back_what_it_wrote(
    fields: dict[str, str], machine: str, sec: str
) -> None:
    template = "{machine_type}/{section}/" + "/".join(f"{{{name}}}" for name in fields)
    layout = TemplateLayout(template)
    path = template.format(machine_type=machine, section=sec, **fields)
    assert layout.parse(path) == Named(machine, sec, fields=fields)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{site}/{file}", "no {machine_type}"),
        ("{machine_type/{file}", "brace"),
        ("machine}", "brace"),
        ("{machine_type}/{}", "is no field"),
        ("{machine_type}/{a.b}", "is no field"),
        ("{machine_type}/{a!r}", "is no field"),
        ("{machine_type}/{site}/{site}", "twice"),
        ("{machine_type}{file}", "nothing separates"),
        ("{machine_type}/{number:03d}", "only date and time"),
        ("{machine_type}/{date:%Q}", "%Q"),
        ("{machine_type}/{time:%H%M}.wav", "date"),
        ("{machine_type}/{date:%Y-%Y}.wav", "cannot be read"),
        ("official", "there are dcase and templates"),
        ("", "there are dcase and templates"),
    ],
)
def test_a_malformed_template_says_what_is_wrong(template: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        layout_of(template)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
