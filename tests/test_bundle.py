import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ray_asd import bundle, downstream, ensemble, recipe
from ray_asd.bundle import Bundle, Neighbours, Section
from ray_asd.errors import BadInput

RECIPE = recipe.load("demo")
RNG = np.random.default_rng(0)


def section() -> Section:
    points = RNG.standard_normal((40, 128))
    domains = np.array(["source"] * 35 + ["target"] * 5)
    detectors, raw = {}, {}
    for member in RECIPE.members():
        settings = RECIPE.downstream.detectors[member.split("/")[1]]
        detectors[member] = downstream.fit(points, domains, settings)
        raw[member] = detectors[member].score(RNG.standard_normal((25, 128)))
    return Section(
        detectors,
        ensemble.calibrate(raw, RECIPE),
        Neighbours(["a", "b"], [0.0, 10.0], np.eye(2, 128, dtype=np.float32)),
        {"clips": 40},
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Bundle, str]:
    weights = {name: save({"w": RNG.random(3)}) for name in RECIPE.upstream.backbones}
    sections = {("fan", "00"): section(), ("../odd name", "01"): section()}
    place = str(tmp_path / "bundle")
    return bundle.save(Bundle(RECIPE, weights, sections), place), place


def test_a_loaded_bundle_scores_to_the_same_digit(saved: tuple[Bundle, str]) -> None:
    made, place = saved
    loaded = bundle.load(place)
    assert loaded.recipe == made.recipe
    assert loaded.bundle_id == made.bundle_id
    assert loaded.digests == made.digests
    assert loaded.backbones == made.backbones
    queries = RNG.standard_normal((7, 128))
    for key, own in made.sections.items():
        other = loaded.sections[key]
        assert other.calibration.to_dict() == own.calibration.to_dict()
        assert other.trust == own.trust
        assert other.neighbours.nearest(np.eye(2, 128)) == [("a", 0.0), ("b", 10.0)]
        for member, detector in own.detectors.items():
            np.testing.assert_array_equal(
                other.detectors[member].score(queries), detector.score(queries)
            )


def test_nothing_lies_outside_its_folder_and_nothing_is_pickled(saved: tuple[Bundle, str]) -> None:
    _, place = saved
    files = sorted(str(p.relative_to(place)) for p in Path(place).rglob("*") if p.is_file())
    assert {Path(name).suffix for name in files} == {".json", ".yaml", ".safetensors"}
    assert [p.name for p in Path(place).parent.iterdir()] == ["bundle"]


def test_another_section_changes_no_old_digest(saved: tuple[Bundle, str], tmp_path: Path) -> None:
    made, _ = saved
    more = {**made.sections, ("gearbox", "00"): section()}
    grown = bundle.save(Bundle(RECIPE, made.backbones, more), str(tmp_path / "grown"))
    assert {key: grown.digests[key] for key in made.digests} == made.digests
    assert grown.bundle_id != made.bundle_id


@pytest.mark.parametrize("change", ["precision=bf16", "engine=eager"])
def test_another_precision_or_engine_changes_every_digest(
    saved: tuple[Bundle, str], tmp_path: Path, change: str
) -> None:
    made, _ = saved
    other = recipe.parse(RECIPE.to_yaml(), "other", [f"downstream.{change}"])
    place = str(tmp_path / "other")
    again = bundle.save(Bundle(other, made.backbones, made.sections), place)
    assert all(again.digests[key] != digest for key, digest in made.digests.items())
    index = json.loads((Path(place) / "bundle.json").read_text())
    key, value = change.split("=")
    assert index[key] == value


def test_another_front_end_of_one_backbone_changes_every_digest(
    saved: tuple[Bundle, str], tmp_path: Path
) -> None:
    made, _ = saved
    tree = RECIPE.model_dump(mode="json")
    tree["upstream"]["backbones"]["transformer"]["front_end"] = {"n_fft": 4096}
    other = recipe.validate(tree, "other")
    place = str(tmp_path / "other")
    again = bundle.save(Bundle(other, made.backbones, made.sections), place)
    assert all(again.digests[key] != digest for key, digest in made.digests.items())
    assert bundle.load(place).recipe.front_end_of("transformer").n_fft == 4096


def test_a_changed_byte_in_any_file_is_found(saved: tuple[Bundle, str]) -> None:
    _, place = saved
    for file in sorted(Path(place).rglob("*")):
        if file.is_file():
            whole = file.read_bytes()
            middle = len(whole) // 2
            file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
            with pytest.raises(BadInput, match=rf"{file.name}: (its checksum|not a bundle)"):
                bundle.load(place)
            file.write_bytes(whole)
    bundle.load(place)


def test_what_is_no_bundle_is_told_in_one_line(saved: tuple[Bundle, str], tmp_path: Path) -> None:
    _, place = saved
    with pytest.raises(BadInput, match=r"no bundle\.json"):
        bundle.load(str(tmp_path / "nowhere"))
    index = Path(place) / "bundle.json"
    text = index.read_text()
    index.write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(BadInput, match="format 99"):
        bundle.load(place)
    index.write_text(text.replace('"fan"', '"fbn"'))
    with pytest.raises(BadInput, match=r"bundle\.json: its checksum differs"):
        bundle.load(place)
    index.write_text(text[: len(text) // 2])
    with pytest.raises(BadInput, match="not a bundle's index"):
        bundle.load(place)
    index.write_text(text)
    (Path(place) / "sections" / "0001.json").unlink()
    with pytest.raises(BadInput, match=r"0001\.json: missing"):
        bundle.load(place)


def test_weights_that_were_changed_are_not_embedded_with(
    saved: tuple[Bundle, str],
) -> None:
    whole = bundle.weights_of(saved[1])
    assert set(whole) == set(RECIPE.trained_backbones())
    for name, weights in whole.items():
        data = weights.read()
        Path(weights.uri).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BadInput, match=f"{name}.safetensors: its checksum differs"):
            weights.read()
