"""Bad input on the command line: one clear line and the right exit code. None of it starts Ray."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from ray_asd import cli
from ray_asd.archive import manifest
from tests.conftest import run_cli
from tests.definitions import check

COMMANDS = list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.fixture
def listed(small_fleet: Path, tmp_path: Path) -> str:
    place = str(tmp_path / "manifest.parquet")
    manifest.write(manifest.build(str(small_fleet)).table, place)
    return place


def test_index_tells_what_it_found(
    small_fleet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "m.parquet")
    code, out, _ = run_cli("index", str(small_fleet), "--out", place, "--json", capfd=capfd)
    assert code == 0
    assert json.loads(out)["machines"] == {
        "fan": {"test": 12, "train": 15},
        "valve": {"test": 12, "train": 15},
    }
    assert manifest.read(place).num_rows == 54


def test_names_that_fit_no_layout_are_left_out_with_a_warning(
    small_fleet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "archive" / "fan" / "train"
    folder.mkdir(parents=True)
    good = next((small_fleet / "fan" / "train").glob("*.wav"))
    (folder / good.name).write_bytes(good.read_bytes())
    (folder / "recording of monday.wav").write_bytes(good.read_bytes())
    place = str(tmp_path / "m.parquet")
    code, out, err = run_cli("index", str(tmp_path / "archive"), "--out", place, capfd=capfd)
    assert code == 0
    assert "1 recordings" in out
    assert "recording of monday.wav" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "{tmp}/nowhere", "--out", "{tmp}/m"], "nowhere: there is no such folder"),
        (["index", "{tmp}/empty", "--out", "{tmp}/m"], "empty: there is no .wav or .flac file"),
        (["index", "{tmp}/misnamed", "--out", "{tmp}/m"], "noise.wav"),
        (["index", "{tmp}/empty", "--out", "{tmp}/m", "--layout", "x"], "layout"),
        (["train", "{tmp}/nowhere.parquet", "--out", "{tmp}/up"], "nowhere.parquet"),
        (["train", "{tmp}/other.parquet", "--out", "{tmp}/up"], "bytes is missing"),
        (["train", "{tmp}/text.parquet", "--out", "{tmp}/up"], "text.parquet"),
        (["train", "{listed}", "--out", "{tmp}/up", "--recipe", "lost"], "recipe lost"),
        (["train", "{listed}", "--out", "{tmp}/up", "--set", "upstream.epoch=1"], "epochs"),
        (
            ["train", "{listed}", "--out", "{tmp}/up", "--recipe", "{tmp}/rates.yaml"],
            "sample_rate_hz 8000, and that of front_end is 16000; a recording is decoded once",
        ),
        (["fit", "{listed}", "--upstream", "{tmp}/empty", "--out", "{tmp}/b"], "recipe.yaml"),
        (["score", "{listed}", "--bundle", "{tmp}/empty", "--out", "{tmp}/s"], "bundle.json"),
        (["score", "{listed}", "--bundle", "b", "--out", "s", "--split", "tests"], "--split tests"),
        (["evaluate", "{tmp}/empty"], "empty"),
        (["evaluate", "{tmp}/nowhere"], "nowhere"),
        (["evaluate", "{tmp}/empty", "--year", "1999"], "--year 1999"),
        (["download", "dcase1999", "--out", "{tmp}/d"], "there are dcase2023"),
        (["download", "dcase2023", "--out", "{listed}"], "wants a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    listed: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "misnamed").mkdir()
    (tmp_path / "misnamed" / "noise.wav").write_bytes(b"x")
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "rates.yaml").write_text(
        "extends: demo\nupstream: {backbones: {transformer: {front_end: {sample_rate_hz: 8000}}}}\n"
    )
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "other.parquet")
    filled = [a.replace("{tmp}", str(tmp_path)).replace("{listed}", listed) for a in arguments]
    code, out, err = run_cli(*filled, capfd=capfd)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1, err


def test_wrong_usage_is_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("score", capfd=capfd)[0] == 2
    assert run_cli("nonsense", capfd=capfd)[0] == 2


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_every_verb_reads_well_at_80_columns(
    verb: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_cli(verb, "--help", columns=80, capfd=capfd)
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "\b" not in out
    block = out.partition("  Example")[2].partition("\n\n")[0].partition("\n")[2]
    examples = block.replace("\\\n", " ").splitlines()
    assert examples
    for line in examples:
        assert line.split()[:2] == ["ray-asd", verb]
        check(line)


def test_the_help_shows_the_way(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli("--help", columns=80, capfd=capfd)
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "..." not in out.partition("Commands:")[2]  # no summary is cut off
    examples = re.findall(r"^    (ray-asd .*)", out, re.MULTILINE)
    assert [line.split()[1] for line in examples] == [
        *("demo", "index", "train", "fit", "score", "report")
    ]
    for line in examples:
        check(line)
    assert "--install-completion" in out


COMPLETION = """
PATH={bin}:$PATH
eval "$(ray-asd --show-completion bash)"
COMP_WORDS=(ray-asd sco) COMP_CWORD=1
_ray_asd_completion ray-asd
echo "${{COMPREPLY[@]}}"
"""


def test_the_shell_completes() -> None:
    script = COMPLETION.format(bin=Path(sys.executable).parent)
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "score\n"


def test_a_file_where_the_scores_folder_should_be(
    listed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_cli(
        "index", str(Path(listed).parent), "--out", f"{listed}/m.parquet", capfd=capfd
    )
    assert code == 2
    assert len(err.strip().splitlines()) == 1
