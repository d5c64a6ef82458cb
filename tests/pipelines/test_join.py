"""Addresses that lead to no cluster; no Ray is started here."""

import os
import socket

import pytest
import ray

from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import session
from ray_asd.pipelines.join import join


@pytest.fixture
def deserted(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this machine where nobody listens."""
    # Else Ray takes the loopback interface's address for the machine's own.
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_nobody_answers(deserted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    says = f"^--address {deserted}: nobody answers at {deserted}: Connection refused; "
    with pytest.raises(BadInput, match=says):
        join(deserted)
    monkeypatch.setenv("RAY_ADDRESS", deserted)
    with pytest.raises(BadInput, match=f"^--address auto: nobody answers at {deserted}: "):
        join("auto")


def test_a_session_without_a_cluster_says_so_and_changes_nothing(
    deserted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "kept")
    with pytest.raises(BadInput, match="nobody answers"), session.session(deserted):
        pass
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "kept"


@pytest.mark.parametrize("scheme", ["ray", "http"])
def test_other_servers_of_a_cluster_are_not_its_head(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"give the head as HOST:PORT.* `ray job submit"):
        join(f"{scheme}://127.0.0.1:10001")
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}://127.0.0.1:10001")
    with pytest.raises(BadInput, match=f"^--address auto: RAY_ADDRESS={scheme}://"):
        join("auto")


@pytest.mark.parametrize("address", ["head", "127.0.0.1:port"])
def test_no_address_at_all(address: str, deserted: str) -> None:
    with pytest.raises(BadInput, match=f"^--address {address}: .*; give (auto or )?HOST:PORT"):
        join(address)


def test_cores_that_others_hold_are_told_and_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    free = [{"CPU": 0.5}, {"CPU": 0.5}, {"CPU": 2.0}]
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: free.pop(0) if free else {})
    monkeypatch.setattr(session, "_LOOK_S", 0.0)
    monkeypatch.setattr(session, "_TELL_S", -1.0)
    session.wait_for({"CPU": 1.5})
    assert "waiting: 1.5 CPU needed, 0.5 of 2 free" in capfd.readouterr().err
    monkeypatch.setattr(session, "_MOST_WAIT_S", 0.0)
    with pytest.raises(RunFailed, match=r"1 GPU needed, 0 of 0 free"):
        session.wait_for({"GPU": 1})
