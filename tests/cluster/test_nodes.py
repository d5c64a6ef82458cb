"""Three nodes and a head without cores: the archive, the bundle and the scores lie in a bucket."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

import ray_asd
from ray_asd.archive import store
from tests.cluster.head import bare, kill, run_verb, started_since
from tests.conftest import Bucket
from tests.definitions import ROOT
from tests.faults.commands import START_S

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(2400)]

# Python runs this at the start of every process.
OTHER_DISK = """
import os
if "HIDDEN" in os.environ:
    from ray_asd.archive import store
    resolve = store.resolve
    store.resolve = lambda uri: resolve(uri.replace(os.environ["HIDDEN"], "/not/on/this/machine"))
"""

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "8" * 64}


class Nodes:
    """The program of :mod:`tests.cluster.nodes`."""

    def __init__(self, hidden: Path) -> None:
        # Sockets lie in it, and their paths are at most 107 bytes long.
        self._folder = tempfile.TemporaryDirectory(prefix="asd", dir="/tmp")
        place = Path(self._folder.name)
        (place / "sitecustomize.py").write_text(OTHER_DISK)
        self._log = (place / "log").open("w+")
        environment = bare(**TOKEN)
        path = [str(place), environment.get("PYTHONPATH", ""), str(ROOT)]
        environment["PYTHONPATH"] = ":".join(filter(None, path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.nodes", str(place / "ray"), str(hidden)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def wait(self) -> str:
        """The head's address, when the program says so."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("up "):
                return line.split()[1]
        self._log.seek(0)
        raise AssertionError(self._log.read())

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        left = started_since(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kill(left)
        self._log.close()
        self._folder.cleanup()


@pytest.fixture
def nodes(_own_home: None, tmp_path: Path) -> Iterator[Nodes]:
    started = Nodes(tmp_path)
    yield started
    started.end()


def test_three_nodes_score_a_bucket_as_one_does_a_disk(
    nodes: Nodes, bucket: Bucket, fan_archive: Path, random_bundle: str, tmp_path: Path
) -> None:
    filesystem, _ = store.resolve(bucket.uri())
    for source, name in ((str(fan_archive), "archive"), (random_bundle, "bundle")):
        fs.copy_files(
            source,
            f"{bucket.name}/{name}",
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=filesystem,
        )
    driver = bare(**TOKEN)
    address = nodes.wait()

    def score(source: str, bundle: str, out: str) -> tuple[int, str]:
        arguments = [source, "--bundle", bundle, "--out", out, "--address", address]
        code, said = run_verb(driver, "score", *arguments, "--batch", "2")
        return code, said.strip()

    places = bucket.uri("archive"), bucket.uri("bundle"), bucket.uri("scores")
    code, said = score(*places)
    assert code == 2, said
    assert said == (
        f"ray-asd: --address {address}: the cluster has no CPU core (1 nodes); start "
        "workers, or ask the autoscaler for some, and try again"
    )

    nodes.go_on()
    assert nodes.wait() == address
    own = tmp_path / "bundle"
    fs.copy_files(random_bundle, str(own))
    recordings = tmp_path / "archive"
    fs.copy_files(str(fan_archive), str(recordings))
    for driver_only, arguments in {
        str(own): (places[0], str(own), places[2]),
        str(recordings): (str(recordings), *places[1:]),
        str(tmp_path / "scores"): (*places[:2], str(tmp_path / "scores")),
    }.items():
        code, said = score(*arguments)
        assert code == 2, said
        assert said.startswith(f"ray-asd: {driver_only}")
        assert "cannot read it: it is not there; name a place that all machines reach" in said
        assert len(said.splitlines()) == 1

    code, said = score(*places)
    assert code == 0, said
    out = str(tmp_path / "local")
    arguments = ["score", str(fan_archive), "--bundle", random_bundle, "--out", out]
    code, said = run_verb(bare(), *arguments)
    assert code == 0, said
    found = ray_asd.read_scores(places[2], latest=False).to_pylist()
    local = {Path(row["uri"]).name: row["score"] for row in ray_asd.read_scores(out).to_pylist()}
    assert sorted(store.name(row["uri"]) for row in found) == sorted(local)
    assert len(local) == 12
    for row in found:
        name = store.name(row["uri"])
        assert row["uri"].startswith("s3://")
        np.testing.assert_allclose(row["score"], local[name], rtol=0, atol=1e-5)
