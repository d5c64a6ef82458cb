"""Reading what lies in cluster/, and checking that a command in it can run."""

import ast
import importlib
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import typer
import yaml

from ray_asd import cli

Tree = dict[str, Any]

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
RAY = Path(next(iter(find_spec("ray").submodule_search_locations)))

VERBS = ("train", "tune", "score", "nightly")
"""Those that jobs/ has an entry point of the same name for."""

IMAGE = "/opt/ray-asd/"
"""Where the image has the repository."""

# The image, the launcher, and the working directory of a submitted job.
_PLACES = (IMAGE, "~/ray-asd/", "")


@cache
def documents(path: Path) -> list[Tree]:
    """What a YAML file holds; not to be changed."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests(*kinds: str) -> list[Tree]:
    """The Kubernetes objects of cluster/kuberay of these kinds, or all."""
    found = [d for p in sorted((CLUSTER / "kuberay").glob("*.yaml")) for d in documents(p)]
    return [d for d in found if "kind" in d and (not kinds or d["kind"] in kinds)]


def manifest(kind: str, name: str = "") -> Tree:
    """The one of this kind whose metadata names ``name``."""
    (found,) = (d for d in manifests(kind) if name in str(d["metadata"]))
    return found


def walk(tree: Any) -> Iterator[Tree]:
    """Every mapping in ``tree``."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    for part in tree if isinstance(tree, list) else ():
        yield from walk(part)


def containers() -> list[Tree]:
    return [c for d in manifests() for tree in walk(d) for c in tree.get("containers", [])]


def ray_containers() -> list[Tree]:
    return [c for c in containers() if c["name"] in ("ray-head", "ray-worker")]


def verb(name: str) -> Any:
    """A verb of the command line, as typer runs it."""
    return typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]


REFUSED = (AssertionError, KeyError, click.UsageError, typer.exceptions.TyperException)
"""What :func:`check` raises."""


def check(line: str | list[str]) -> None:
    """Check that what a command runs is there, and takes these arguments."""
    program, *rest = shlex.split(line) if isinstance(line, str) else line
    name = program.removeprefix(".venv/bin/")
    if name == "ray":
        job = check_ray(rest)
        if job:
            check(job)
    elif name == "ray-asd":
        verb(rest[0]).make_context(rest[0], rest[1:]).close()
    elif name == "python" and rest[0] == "-c":
        _check_imports(rest[1])
    elif name == "python":
        _check_job(*rest)
    else:
        raise AssertionError(f"not a command of ours: {program}")


def check_ray(words: list[str]) -> list[str]:
    """Check a call of Ray's command line; returns the job's own command of a ``job submit``."""
    command: click.Command = importlib.import_module("ray.scripts.scripts").cli
    words = list(words)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    with command.make_context(command.name, words) as context:
        return list(context.params.get("entrypoint") or ())


def _check_imports(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), code


def _check_job(script: str, *arguments: str) -> None:
    place = next(p for p in _PLACES if script.startswith(p))
    path = Path(script.removeprefix(place))
    assert path.parent == Path("jobs"), script
    assert (ROOT / path).is_file(), script
    if path.stem in VERBS:
        verb(path.stem).make_context(path.stem, list(arguments)).close()
