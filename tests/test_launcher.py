"""What Ray's launcher starts: it fits Ray's schema, asks for a token, carries what exists."""

import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.definitions import CLUSTER, RAY, ROOT, Tree, check, check_ray, documents, walk

FILES = sorted((CLUSTER / "launcher").glob("*.yaml"))
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def schema() -> Tree:
    return json.loads((RAY / "autoscaler" / "ray-schema.json").read_text())


@each
def test_launchers_fit_the_schema_in_rays_wheel(path: Path, schema: Tree) -> None:
    (config,) = documents(path)
    jsonschema.validate(config, schema)
    for broken in (
        {**config, "workers": 3},
        {key: value for key, value in config.items() if key != "provider"},
        {**config, "provider": {**config["provider"], "use_internal_ips": "yes"}},
        {**config, "setup_commands": "make"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_there_is_one_for_a_cloud_and_one_for_machines_at_hand() -> None:
    aws, local = (documents(path)[0] for path in FILES)
    assert [c["provider"]["type"] for c in (aws, local)] == ["aws", "local"]
    # What the schema does not say: machines at hand have no node types, a cloud has a head's.
    assert not {"available_node_types", "head_node_type"} & set(local)
    assert aws["head_node_type"] in aws["available_node_types"]
    fewest = sum(kind.get("min_workers", 0) for kind in aws["available_node_types"].values())
    assert fewest <= aws["max_workers"]


@each
def test_launchers_start_ray_with_a_token(path: Path) -> None:
    (config,) = documents(path)
    starts = 0
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        subprocess.run(["/bin/bash", "-n"], input=command, text=True, check=True)
        before, found, after = command.partition("ray start ")
        if found:
            assert "RAY_AUTH_MODE=token" in before, command
            check_ray(["start", *shlex.split(after)])
            starts += 1
    assert starts == 2
    options = " ".join(config.get("docker", {}).get("run_options", []))
    commands = " ".join(config["head_start_ray_commands"])
    (token,) = re.findall(r"RAY_AUTH_TOKEN_PATH=([^\s;]+)", f"{options} {commands}")
    folder = token.replace("/home/ray/", "~/").removesuffix("/auth_token")
    assert config["file_mounts"][folder] == "~/.ray-asd"


@each
def test_launchers_carry_files_that_exist(path: Path) -> None:
    (config,) = documents(path)
    carried = {here for here in config["file_mounts"].values() if not here.startswith("~")}
    assert all((ROOT / here).exists() for here in carried)
    needed = {"Makefile", "README.md", "jobs", "pyproject.toml", "ray_asd", "requirements.lock"}
    assert "docker" in config or needed <= carried


def test_what_is_to_be_filled_in_is_filled_in_by_the_readme() -> None:
    text = (CLUSTER / "README.md").read_text()
    (line,) = (li for li in text.splitlines() if "cluster/launcher/aws.yaml > aws.yaml" in li)
    config = yaml.safe_load((CLUSTER / "launcher" / "aws.yaml").read_text())
    values = str([value for tree in walk(config) for value in tree.values()])
    capitals = set(re.findall(r"\b(?:REGISTRY|[A-Z]+_(?:ID|REGION|GROUP_ID))\b", values))
    assert capitals == set(re.findall(r"s#(\w+)#\$\1#g", line))
    assert len(capitals) == 5


def test_the_nightly_cron_line_runs() -> None:
    text = (CLUSTER / "launcher" / "nightly.cron").read_text()
    (entry,) = (line for line in text.splitlines() if line.startswith("0 "))
    shell, option, command = shlex.split(entry.split(maxsplit=5)[5])
    assert (shell, option) == ("bash", "-lc")
    subprocess.run(["/bin/bash", "-n"], input=command, text=True, check=True)
    before, _, call = command.partition("ray job submit ")
    assert "RAY_AUTH_MODE=token" in before
    check(f"ray job submit {call}")


def test_the_firewall_that_security_describes_fits_the_ports() -> None:
    (local,) = documents(CLUSTER / "launcher" / "local.yaml")
    head, worker = (local[f"{node}_start_ray_commands"][1] for node in ("head", "worker"))
    rows = re.findall(r"^\| ([\d–, ]+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    spans = sorted(
        [int(port) for port in part.split("–")] for row in rows for part in row.split(",")
    )
    assert all(one[-1] < other[0] for one, other in pairwise(spans))
    named = {port for span in spans for port in range(span[0], span[-1] + 1)}
    assert {int(port) for port in re.findall(r"port=(\d+)", head + worker)} <= named
