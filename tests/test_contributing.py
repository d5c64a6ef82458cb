"""What CONTRIBUTING.md promises to those who change things: its walkthroughs, commands, hooks."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ray_asd import recipe
from ray_asd.archive import Named
from ray_asd.downstream import ReferenceSet, detector, restore
from ray_asd.errors import BadInput
from ray_asd.pipelines.fit_section import fit_section
from ray_asd.upstream import backbones

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
REGISTRIES = [
    (backbones, "_TRUNKS"),
    (recipe, "BACKBONES"),
    (detector, "_KINDS"),
    (recipe, "DETECTORS"),
]


@pytest.fixture
def _registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in REGISTRIES:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


def walkthroughs() -> dict[str, str]:
    """The Python blocks by the headings that they stand under."""
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    found = {
        s.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", s, re.M | re.S) for s in sections
    }
    return {heading: "".join(blocks) for heading, blocks in found.items() if blocks}


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _registries_as_before: None) -> Any:
    """Runs a walkthrough as a file of its own, in a folder of its own; returns its names."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def run(heading: str) -> dict[str, Any]:
        file = tmp_path / "mine.py"
        file.write_text(walkthroughs()[heading], "utf-8")
        return runpy.run_path(str(file), run_name="mine")

    return run


def test_there_are_three() -> None:
    assert list(walkthroughs()) == ["Adding a layout", "Adding a backbone", "Adding a detector"]


def test_a_layout_reads_names(walk: Any) -> None:
    names = walk("Adding a layout")
    assert names["named"] == Named(
        "fan", "00", split="test", label="anomaly", fields={"number": "00000007", "format": "wav"}
    )
    (row,) = names["index"].table.to_pylist()
    assert (row["machine_type"], row["label"]) == ("fan", "normal")
    assert Path(row["uri"]) == names["recording"].absolute()


def test_a_layout_reads_real_names(shared_data: Path, walk: Any) -> None:
    names = walk("Adding a layout")
    index = names["build"](str(shared_data / "recordings_2020"), names["template"])
    assert not index.skipped
    assert set(index.table["label"].to_pylist()) == {"normal", "anomaly"}


def test_a_backbone_embeds(walk: Any) -> None:
    names = walk("Adding a backbone")
    own, embeddings = names["own"], names["embeddings"]
    assert recipe.parse(own.to_yaml(), "copy") == own
    assert own.trained_backbones() == ["mine"]
    alone = [names["encoder"].embed(segment[None])[0] for segment in names["segments"]]
    np.testing.assert_allclose(np.stack(alone), embeddings, atol=1e-5)
    assert embeddings.std(axis=0).min() > 0


def test_a_detector_is_fitted_as_a_section_is(walk: Any) -> None:
    own = walk("Adding a detector")["own"]
    random, clips = np.random.default_rng(1), 60
    reference = ReferenceSet(
        embeddings=random.standard_normal((clips, 3, 8)).astype(np.float32),
        domains=np.repeat(["source", "target"], [50, 10]),
        uris=np.array([f"{n}.wav" for n in range(clips)]),
        starts_s=np.zeros(clips),
        held_out=np.arange(clips) % 2 == 0,
    )
    section = fit_section(("fan", "00"), dict.fromkeys(own.upstream.backbones, reference), own)
    fitted = section.detectors["transformer/mine"]
    points = random.standard_normal((20, 8))
    again = restore(fitted.arrays(), json.loads(json.dumps(fitted.meta())))
    np.testing.assert_array_equal(again.score(points), fitted.score(points))
    np.testing.assert_array_equal([fitted.score(p[None])[0] for p in points], fitted.score(points))
    assert recipe.parse(own.to_yaml(), "copy") == own


def test_what_was_added_is_gone_again() -> None:
    for change in (
        "upstream.backbones={mine: {kind: convolutional, channels: 32}}",
        "downstream.detectors={mine: {kind: spread}}",
    ):
        with pytest.raises(BadInput, match="of the kind"):
            recipe.load("first_shot", [change])


def test_what_it_names_is_there() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", TEXT)) <= verbs
    for path in re.findall(r"`((?:ray_asd|tests|jobs|\.ci)/[^`]*)`", TEXT):
        assert (ROOT / path).exists(), path


def test_the_hooks_are_the_linters() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in local["hooks"]]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    tools = re.findall(r"\$\(VENV\)/bin/(?!python)([a-z-]+(?: check| format)?)", lint)
    assert entries == [f".venv/bin/{tool}" for tool in tools]
    for entry in entries:
        assert Path(sys.executable).with_name(Path(entry.split()[0]).name).exists()
