import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ray_asd import recipe
from ray_asd.errors import BadInput


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_shipped_recipe_reads_back_as_it_is_written(name: str) -> None:
    chosen = recipe.load(name)
    assert recipe.parse(chosen.to_yaml(), "copy") == chosen
    assert chosen.name == name


def test_first_shot_is_the_report() -> None:
    chosen = recipe.load("first_shot")
    front_end = chosen.front_end
    assert front_end.n_fft / front_end.sample_rate_hz == 0.128
    assert front_end.hop / front_end.sample_rate_hz == 0.016
    assert (front_end.mels, front_end.low_hz, front_end.high_hz) == (224, 50, 7800)
    assert (chosen.clips.segment_s, chosen.clips.segments) == (2.0, 10)
    assert (chosen.upstream.batch, chosen.upstream.embedding) == (128, 128)
    assert chosen.upstream.learning_rate == 1e-3
    assert chosen.downstream.pseudo_normals == 50
    assert {detector.kind for detector in chosen.downstream.detectors.values()} == {
        "knn",
        "lof",
        "gmm",
    }


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        recipe.load("demo").seed = 3  # type: ignore[misc]


def test_an_override_changes_one_setting_and_the_digest_that_holds_it() -> None:
    plain, changed = (recipe.load("demo", o) for o in ([], ["front_end.hop=128"]))
    assert changed.front_end.hop == 128
    assert changed.front_end.digest() != plain.front_end.digest()
    assert changed.hearing_digest() != plain.hearing_digest()
    assert changed.upstream == plain.upstream
    assert recipe.load("demo", ["upstream.learning_rate=1e-4"]).upstream.learning_rate == 1e-4


FINE = """
extends: best
name: fine
upstream:
  backbones:
    fine: {kind: efficientnet_b0, pretrained: false, frozen: false, front_end: %s}
    fine_statistics: {kind: statistics, front_end: {n_fft: 256, mels: bins}}
"""


def test_a_backbone_hears_the_recipe_s_front_end_with_the_changes_that_it_names() -> None:
    chosen = recipe.parse(FINE % "{n_fft: 4096}", "fine.yaml", ["front_end.hop=128"])
    fine = chosen.front_end_of("fine")
    assert chosen.front_end_of("efficientnet") is chosen.front_end
    assert fine == recipe.FrontEnd(**{**chosen.front_end.model_dump(), "n_fft": 4096})
    assert fine.hop == 128
    # Bins of 62.5 Hz, from the first to the 124th.
    narrow = chosen.front_end_of("fine_statistics")
    assert (narrow.bands, list(narrow.bins)) == (124, list(range(1, 125)))
    assert chosen.embedding_width("fine_statistics") == 248
    assert chosen.front_ends() == [chosen.front_end, fine, narrow]
    assert chosen.front_ends(chosen.trained_backbones()) == [chosen.front_end, fine]
    again = recipe.parse(chosen.to_yaml(), "copy")
    assert again == chosen
    assert again.upstream.backbones["fine"].front_end == {"n_fft": 4096}
    assert "front_end" not in again.model_dump()["upstream"]["backbones"]["efficientnet"]


def test_what_a_backbone_hears_can_be_set_where_the_recipe_leaves_it_out() -> None:
    override = "upstream.backbones.transformer.front_end={n_fft: 256, mels: bins, hop: 128}"
    chosen = recipe.load("first_shot", [override])
    assert chosen.front_end_of("transformer").bands == 124
    assert recipe.load("first_shot").front_ends() == [chosen.front_end]
    with pytest.raises(BadInput, match="no setting n_ftt; did you mean n_fft"):
        recipe.load("first_shot", ["upstream.backbones.transformer.front_end={n_ftt: 4096}"])


def test_digests_tell_who_hears_what_and_stay_as_they_were_with_one_front_end() -> None:
    plain = recipe.load("first_shot")
    # Features tables and section digests of older versions hold these.
    assert plain.features_digest(plain.front_end) == "2b12017c757fce0f"
    assert plain.hearing_digest() == "2b12017c757fce0f"
    assert recipe.load("best").upstream.backbones["statistics"].digest() == "316f1fadacd27d1b"
    changed = [
        recipe.load("first_shot", [f"upstream.backbones.{name}.front_end={{n_fft: 4096}}"])
        for name in ("efficientnet", "transformer")
    ]
    same = recipe.load("first_shot", ["upstream.backbones.efficientnet.front_end={hop: 256}"])
    assert len({r.hearing_digest() for r in (plain, *changed)}) == 3
    assert same.hearing_digest() == plain.hearing_digest()


@pytest.mark.parametrize(
    ("front_end", "says"),
    [
        ("{sample_rate_hz: 32000}", "sample_rate_hz 32000, and that of front_end is 16000; a rec"),
        ("{n_ftt: 4096}", "no setting n_ftt; did you mean n_fft?"),
        ("{n_fft: 0}", "n_fft: input should be greater than 0"),
        ("{high_hz: 9000}", "low_hz < high_hz <= sample_rate_hz / 2 must hold"),
        ("{mels: none}", "mels: a number of mel bands greater than 0, or bins, not 'none'"),
        ("{mels: bins, n_fft: 4, low_hz: 4100.0}", "no bin of the STFT lies from low_hz"),
        ("{n_fft: 65536}", "n_fft 65536: half a window is as long as clips.segment_s 2 or longer"),
        ("4096", "should be a valid dictionary, not 4096"),
    ],
)
def test_a_wrong_front_end_of_a_backbone_is_told_in_one_line(front_end: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipe.parse(FINE % front_end, "fine.yaml")
    assert str(caught.value).startswith("recipe fine.yaml: ")
    assert says in str(caught.value)
    assert "n_fft 65536" in says or "upstream.backbones.fine.front_end" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_changes_what_it_extends_and_null_removes(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: demo\nname: mine\n"
        "upstream: {backbones: {efficientnet: null}}\n"
        "downstream: {detectors: {lof: null, knn: {size: 4}}}\n"
    )
    chosen = recipe.load(file)
    assert chosen.members() == ["transformer/knn", "transformer/gmm"]
    assert chosen.downstream.detectors["knn"].size == 4
    assert chosen.ensemble_members("all") == chosen.members()
    assert recipe.load(str(file), ["downstream.detectors.gmm.size=8"]).name == "mine"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: demo\nupstrem: {}\n", "unknown setting upstrem; did you mean upstream?"),
        ("extends: demo\nclips: {segmnts: 4}\n", "did you mean segments?"),
        ("extends: demo\nclips: {segments: many}\n", "clips.segments"),
        ("extends: demo\nclips: {segments: 0}\n", "clips.segments"),
        ("extends: demo\nfront_end: {high_hz: 9000}\n", "sample_rate_hz / 2"),
        ("extends: demo\nfront_end: {mels: 0}\n", "front_end.mels: a number of mel bands greater"),
        ("extends: demo\ndownstream: {detectors: {iforest: {kind: iforest}}}\n", "gmm, knn, lof"),
        ("extends: demo\ndownstream: {engine: tensorrt}\n", "downstream.engine: input should be"),
        ("extends: demo\nensembles: {all: {members: [x/y]}}\n", "efficientnet/knn"),
        ("name: bare\n", "extends: first_shot"),
        ("extends: nowhere\n", "demo, demo_compared, first_shot"),
        ("[1, 2\n", "not YAML"),
        ("just text\n", "no settings"),
        ("extends: !!python/object/apply:os.system [ls]\n", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(tmp_path, text: str, says: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        recipe.load(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("upstream.epoch=3", "did you mean epochs?"),
        ("upstream.epochs", "key=value"),
        ("upstream.epochs.more=3", "no more"),
        ("upstream.epochs=[", "not YAML"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(override: str, says: str) -> None:
    with pytest.raises(BadInput, match="--set") as caught:
        recipe.load("demo", [override])
    assert says in str(caught.value)


def test_a_recipe_that_extends_itself(tmp_path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text(f"extends: {file}\n")
    with pytest.raises(BadInput, match="extends itself"):
        recipe.load(str(file))


def test_best_and_adacos_change_what_they_say_and_nothing_else() -> None:
    names = ("first_shot", "best", "adacos")
    plain, best, adacos = (recipe.load(name).model_dump() for name in names)
    assert plain["upstream"]["loss"]["kind"] == "cross_entropy"
    assert not plain["upstream"]["masking"]["enabled"]
    assert recipe.load("first_shot").trained_backbones() == ["efficientnet", "transformer"]
    assert adacos["upstream"]["loss"] == {"kind": "adacos", "sub_clusters": 16}
    assert recipe.load("best").members() == [
        "efficientnet/knn",
        "transformer/knn",
        "statistics/knn",
    ]
    changed = {"name", "upstream", "downstream"}
    assert {key for key in best if best[key] != plain[key]} == changed
    assert best["upstream"].pop("backbones").keys() - plain["upstream"].pop("backbones").keys() == {
        "statistics"
    }
    assert best["upstream"] == plain["upstream"]
    assert {key for key in adacos if adacos[key] != best[key]} == {"name", "upstream"}
    for key in ("epochs", "learning_rate", "mixup", "embedding"):
        assert adacos["upstream"][key] == best["upstream"][key]


def test_embeddings_are_as_wide_as_their_backbone_makes_them() -> None:
    best = recipe.load("best", ["front_end.mels=100"])
    assert [best.embedding_width(name) for name in best.upstream.backbones] == [128, 128, 200]
    assert best.trained_backbones() == ["efficientnet", "transformer"]


def test_the_recipes_in_the_readme_load() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    found = [recipe.parse(t, "README.md") for t in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    assert [chosen.name for chosen in found] == ["mine", "three_resolutions"]
    bands = [front_end.bands for front_end in found[1].front_ends()]
    assert bands == [224, 224, 124]
