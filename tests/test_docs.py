"""The API pages and the examples in docstrings."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_asd

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "ray_asd").rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed


@pytest.mark.parametrize("name", ray_asd.__all__)
def test_every_public_function_has_an_example(name: str) -> None:
    text = getattr(ray_asd, name).__doc__
    assert f">>> {name}(" in text
    assert "Args:" in text


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    script = ROOT / ".ci" / "api_pages.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=ROOT)
    return folder


@pytest.mark.parametrize("name", ray_asd.__all__)
def test_the_pages_tell_of_every_public_function(name: str, pages: Path) -> None:
    text = (pages / "ray_asd.html").read_text("utf-8")
    own = re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert own is not None
    # A section of the docstring is a heading with a list, not a line of text.
    assert re.search(r"<h6 id=[^>]*>Arguments:</h6>\s*<ul>", own[0])
    assert "&gt;&gt;&gt;" in own[0]


def test_the_pages_hold_the_parts_of_the_house(pages: Path) -> None:
    for module, name in [
        ("upstream", "register"),
        ("downstream", "register"),
        ("errors", "BadInput"),
        ("metrics", "evaluate"),
        ("recipe", "load"),
        ("tables", "SCORES"),
    ]:
        assert f'<section id="{name}">' in (pages / "ray_asd" / f"{module}.html").read_text("utf-8")


def test_a_name_that_is_not_there_fails_the_pages(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text('__all__ = ["gone"]\n')
    code = (
        f"import runpy; pages = runpy.run_path({str(ROOT / '.ci' / 'api_pages.py')!r});"
        "pages['build'].__globals__['MODULES'] = ('broken',);"
        "import pathlib; pages['build'](pathlib.Path('site'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "gone" in done.stderr
