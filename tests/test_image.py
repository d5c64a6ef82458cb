"""The image and the workflows: they parse, copy what exists, and install what the lock says."""

import fnmatch
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.definitions import CLUSTER, IMAGE, ROOT

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and what follows them; a line that is none raises."""
    known = {"FROM", "ARG", "RUN", "COPY", "WORKDIR", "ENV", "USER", "CMD"}
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            if name not in known or not rest.strip():
                raise ValueError(f"not an instruction: {line}")
            found.append((name, rest.strip()))
    return found


def calls(of: str) -> list[str]:
    """The shell commands in the Dockerfile in which ``of`` stands."""
    runs = [rest for name, rest in instructions(DOCKERFILE) if name == "RUN"]
    parts = [part.strip() for run in runs for part in re.split(r"&&|;(?=\s*fi)", run)]
    return [part for part in parts if of in part]


def test_the_dockerfile_parses() -> None:
    found = instructions(DOCKERFILE)
    names = [name for name, _ in found]
    assert (names[:2], names[-2:]) == (["ARG", "FROM"], ["USER", "CMD"])
    for name, rest in found:
        if name == "RUN":
            subprocess.run(["/bin/sh", "-n"], input=rest, text=True, check=True)
    assert isinstance(json.loads(found[-1][1]), list)


@pytest.mark.parametrize("text", ["FORM python", "RUN", "COPY a b\nand more"])
def test_a_broken_dockerfile_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an instruction"):
        instructions(text)


def test_the_image_runs_as_nobody_special_and_asks_for_a_token() -> None:
    found = dict(instructions(DOCKERFILE))
    assert int(found["USER"].partition(":")[0]) > 0
    assert "RAY_AUTH_MODE=token" in found["ENV"]
    assert "HOME=/home/ray" in found["ENV"]  # Ray's launcher takes /root otherwise


def ignored(path: str) -> bool:
    """Whether Dockerfile.dockerignore keeps ``path`` from the build; the last match decides."""
    out = False
    for line in (CLUSTER / "Dockerfile.dockerignore").read_text().split():
        pattern = line.removeprefix("!").removeprefix("**/")
        if fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
            out = not line.startswith("!")
    return out


def test_the_dockerfile_copies_what_exists_and_is_sent() -> None:
    found = instructions(DOCKERFILE)
    copies = [rest.split() for name, rest in found if name == "COPY" and "--from" not in rest]
    sources = {source for words in copies for source in words[:-1]}
    assert sources == {"README.md", "jobs", "pyproject.toml", "ray_asd", "requirements.lock"}
    assert all((ROOT / source).exists() and not ignored(source) for source in sources)
    assert all(ignored(path) for path in (".git", ".venv", "tests", "store.env"))
    assert ("WORKDIR", IMAGE.rstrip("/")) in found


def test_what_is_installed_is_pinned_in_both_variants() -> None:
    assert ("ARG", "VARIANT=cpu") in instructions(DOCKERFILE)
    assert "cpu|gpu)" in DOCKERFILE
    installs = [" ".join(call.split()) for call in calls("pip install")]
    hashed = [call for call in installs if "--require-hashes" in call]
    others = [call for call in installs if call not in hashed]
    assert [call.rsplit(" ", 1)[1] for call in hashed] == ["uv.txt", "needed.txt"]
    # The CPU builds of torch, by the lock's versions; and the project itself.
    assert [call.rsplit(" ", 1)[1] for call in others] == ["${torch}", "."]
    assert all("--no-deps" in call for call in others)


def test_the_packages_come_from_the_lock(tmp_path: Path) -> None:
    """Runs the Dockerfile's own awk and grep over the lock."""
    lock = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text(lock)
    names = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))
    runs = names - {"pytest", "moto", "ruff", "mypy"}
    (tmp_path / "names.txt").write_text("".join(f"{name}==1\n" for name in sorted(runs)))

    def run(command: str, wrote: str) -> set[str]:
        subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
        text = (tmp_path / wrote).read_text()
        assert all(block in lock for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE))
        return set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))

    uv, needed, cpu = calls("awk ")
    assert run(uv, "uv.txt") == {"uv"}
    assert run(needed, "needed.txt") == runs
    (torch,) = calls("torch=$(grep")
    torch = torch[torch.index("torch=") :]
    subprocess.run(
        ["/bin/sh", "-c", f"{torch}; echo ${{torch}} > torch.txt"], cwd=tmp_path, check=True
    )
    pins = (tmp_path / "torch.txt").read_text().split()
    assert [pin.partition("==")[0] for pin in pins] == ["torch", "torchaudio", "torchvision"]
    assert all(f"\n{pin} " in lock for pin in pins)
    left = run(cpu, "other.txt")
    gone = {name for name in runs - left if re.match(r"torch|nvidia-|cuda-|triton$", name)}
    assert gone == runs - left
    assert {"torch", "torchaudio", "torchvision", "triton", "nvidia-nccl-cu13"} <= gone
    assert {"ray", "numpy", "boto3", "hatchling"} <= left


def test_workflows_parse_and_run_the_ci() -> None:
    (path,) = (ROOT / ".github" / "workflows").glob("*")
    flow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert set(flow) == {"name", True, "permissions", "concurrency", "jobs"}
    assert flow["permissions"] == {"contents": "read"}
    commands = {}
    for name, job in flow["jobs"].items():
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))
        (commands[name],) = (step["run"] for step in job["steps"] if "run" in step)
    assert commands["ci"] == "bash .ci/run"
    program, *options = shlex.split(commands["audit"])[2:]
    assert program.startswith("pip-audit==")
    assert {"--strict", "--require-hashes"} < set(options)
    assert (ROOT / options[-1]).is_file()
    subprocess.run(["/bin/bash", "-n", ROOT / ".ci" / "run"], check=True)
