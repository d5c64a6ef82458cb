"""The entry points for `ray job submit`: the verbs themselves, on the cluster that runs them."""

import ast
import importlib
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ray_asd
from tests.definitions import ROOT, VERBS, check, verb

Run = Callable[..., int]

LINE = ("archive", "--bundle", "b", "--out", "o", "--json")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a job in this process; returns its exit code."""
    # As Python does for a script; the folder's own module is named verb.
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    monkeypatch.setenv("COLUMNS", "200")

    def run_job(name: str, *arguments: str) -> int:
        path = str(ROOT / "jobs" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as left:
            return left.code if isinstance(left.code, int) else int(bool(left.code))
        return 0

    return run_job


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `score` is called with; it does nothing, and tells of one rejection."""
    seen: dict[str, Any] = {}

    def score(*arguments: Any, **options: Any) -> dict[str, Any]:
        seen.update(options, arguments=arguments)
        return {"scored": 0, "rejected": 1, "reasons": {"silent": 1}}

    # setattr would look the verb up first, and so import Ray and torch.
    monkeypatch.setitem(vars(ray_asd), "score", score)
    return seen


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> str:
    """The variable by which a submitted job is known; not set."""
    name: str = importlib.import_module(
        "ray._private.runtime_env.constants"
    ).RAY_JOB_CONFIG_JSON_ENV_VAR
    monkeypatch.delenv(name, raising=False)
    return name


def test_a_job_by_hand_runs_where_the_verb_would(
    run: Run, called: dict[str, Any], submitted: str
) -> None:
    assert run("score", *LINE) == 0
    assert called["address"] is None
    assert called["arguments"] == ("archive", "b", "o")


def test_a_submitted_job_joins_its_cluster(
    run: Run, called: dict[str, Any], submitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(submitted, "{}")
    assert run("score", *LINE) == 0
    assert called["address"] == "auto"
    assert run("score", *LINE, "--address", "192.0.2.10:6379") == 0
    assert called["address"] == "192.0.2.10:6379"


def test_exit_codes_are_the_verbs(
    run: Run, called: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("score", *LINE, "--strict") == 3
    assert run("score", "archive") == 2
    assert "--bundle" in capfd.readouterr().err
    assert run("train", "gone.parquet", "--out", "o") == 2
    assert "gone.parquet" in capfd.readouterr().err


@pytest.mark.parametrize("name", VERBS)
def test_a_job_has_its_verbs_options(
    name: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    shown = capfd.readouterr().out
    options = [option for p in verb(name).params for option in p.opts if option.startswith("--")]
    assert len(options) > 5
    assert [option for option in options if option not in shown] == []


def test_a_plan_is_measured_as_score_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray_asd.archive import manifest

    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    benchmark = importlib.import_module("benchmark_plan")
    manifest.write(benchmark._tables(0, 130), str(tmp_path / "manifest.parquet"))
    benchmark._commit(tmp_path / "scores", 130)
    # Nothing is left: no Ray is started.
    found = benchmark._planned(str(tmp_path))
    assert (found["skipped"], found["planned"], found["of_which_starting_ray"]) == (130, 0, 0.0)
    assert found["driver_peak_mb"] >= found["driver_before_mb"] > 10


@pytest.mark.parametrize("name", VERBS)
def test_a_job_states_a_submit_line_that_works(name: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / "jobs" / f"{name}.py").read_text())) or ""
    (line,) = (li for li in text.splitlines() if li.startswith("ray job submit "))
    assert f"--working-dir . -- python jobs/{name}.py " in line
    check(line)


def test_a_submission_uploads_code_and_recipes_alone(tmp_path: Path) -> None:
    place = tmp_path / "checkout"
    wanted = ["jobs/score.py", "mine.yaml", "ray_asd/cli.py", "ray_asd/recipes/demo.yaml"]
    others = [
        ".venv/lib/site-packages/torch.py",
        ".git/config",
        "bundle/backbones/transformer.safetensors",
        "demo/bundle/recipe.yaml",
        "manifest.parquet",
        "ray_asd/__pycache__/cli.cpython-311.pyc",
        "recordings/fan/test/section_00.wav",
        "scores/scores/night=2026-11-22/part.parquet",
        "store.env",
        "upstream/features/part.parquet",
    ]
    for name in [*wanted, *others]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, place)
    packaging = importlib.import_module("ray._private.runtime_env.packaging")
    packaging.create_package(
        str(place), tmp_path / "package.zip", include_gitignore=True, include_parent_dir=False
    )
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = [name for name in package.namelist() if not name.endswith("/")]
    assert sorted(names) == wanted
