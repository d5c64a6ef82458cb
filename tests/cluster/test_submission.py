"""``ray job submit`` to a cluster that asks for a token, and joining it by ``--address``."""

import socket
import stat
from pathlib import Path

import numpy as np
import pytest

import ray_asd
from tests.cluster.head import Head, bare, run_verb

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1800)]

# What score refuses before it looks for a cluster must not be what is refused here.
REFUSALS = {
    "no token": ({}, "", "the cluster asks for a token, and there is none here"),
    "a wrong token": (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        "",
        "the cluster refuses the token",
    ),
    "another Ray": (None, "import ray; ray.__version__ = '2.59.0'", "this process Ray 2.59.0"),
    "another Python": (
        None,
        "import ray._private.utils as u; u.compute_version_info = lambda: ('2.60.0', '3.13.1')",
        "runs Ray 2.60.0 on Python 3.11.",
    ),
}


def scores_of(out: Path) -> dict[str, float]:
    rows = ray_asd.read_scores(str(out), latest=False).to_pylist()
    found = {Path(row["uri"]).name: row["score"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_submitted_job_scores_as_a_local_run_does(
    head: Head, fan_archive: Path, random_bundle: str, tmp_path: Path
) -> None:
    assert stat.S_IMODE(Path(head.token["RAY_AUTH_TOKEN_PATH"]).stat().st_mode) == 0o600
    arguments = [str(fan_archive), "--bundle", random_bundle, "--out"]
    job = ["python", "jobs/score.py", *arguments, str(tmp_path / "submitted")]
    code, said = head.submit(*job, **head.token)
    assert code == 0, said
    code, said = run_verb(bare(), "score", *arguments, str(tmp_path / "local"))
    assert code == 0, said
    submitted, local = (scores_of(tmp_path / name) for name in ("submitted", "local"))
    assert set(submitted) == {file.name for file in fan_archive.rglob("*.wav")}
    assert set(submitted) == set(local)
    for name, score in submitted.items():
        np.testing.assert_allclose(score, local[name], rtol=0, atol=1e-5)


def test_without_the_token_nothing_is_submitted(head: Head) -> None:
    before = len(head.jobs())
    code, said = head.submit("python", "-c", "print(1)")
    assert code != 0
    assert "Unauthorized: Missing authentication token" in said
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    code, said = head.submit("python", "-c", "print(1)", **wrong)
    assert code != 0
    assert "Forbidden: Invalid authentication token" in said
    assert len(head.jobs()) == before


def test_a_failing_jobs_exit_code_reaches_the_caller(
    head: Head, fan_archive: Path, tmp_path: Path
) -> None:
    job = ["python", "jobs/score.py", str(fan_archive), "--bundle", str(tmp_path / "gone")]
    code, said = head.submit(*job, "--out", str(tmp_path / "scores"), **head.token)
    # Ray's own client leaves with 1, and says the job's code.
    assert code == 1, said
    assert "no bundle.json there" in said
    assert "failed with exit code 2" in said
    (ended,) = (one for one in head.jobs() if str(tmp_path / "gone") in one["entrypoint"])
    assert (ended["status"], ended["driver_exit_code"]) == ("FAILED", 2)


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_cluster_that_cannot_be_joined_is_told_in_a_line(
    reason: str, head: Head, fan_archive: Path, random_bundle: str, tmp_path: Path
) -> None:
    token, before, line = REFUSALS[reason]
    arguments = [str(fan_archive), "--bundle", random_bundle, "--out", str(tmp_path / "scores")]
    code, said = run_verb(
        bare(**(head.token if token is None else token)),
        "score",
        *arguments,
        "--address",
        head.address,
        before=before,
    )
    assert code == 2, said
    (told,) = said.strip().splitlines()
    assert told.startswith(f"ray-asd: --address {head.address}: ")
    assert line in told


def test_what_is_no_head_is_told_from_one(
    head: Head, fan_archive: Path, random_bundle: str, tmp_path: Path
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()  # takes connections, and never says a word
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        arguments = [str(fan_archive), "--bundle", random_bundle, "--out", str(tmp_path / "s")]
        code, said = run_verb(bare(**head.token), "score", *arguments, "--address", address)
    assert code == 2, said
    (told,) = said.strip().splitlines()
    assert f"what answers at {address} is no Ray head" in told
