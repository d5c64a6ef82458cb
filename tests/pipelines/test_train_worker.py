"""What a training worker does before it trains, without Ray."""

from types import SimpleNamespace

import pytest

from ray_asd.errors import RunFailed
from ray_asd.pipelines import train_worker


class Log:
    """The log actor, whose calls are answered at once."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.failure = SimpleNamespace(remote=lambda: self.told[0] if self.told else None)
        self.fail = SimpleNamespace(remote=lambda *failure: self.told.append(failure))


def test_what_failed_for_good_is_told_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, tries = Log(), 0

    def diverges(config: object) -> None:
        nonlocal tries
        tries += 1
        raise RunFailed("diverged")

    monkeypatch.setattr(train_worker.ray, "get", lambda answer: answer)
    monkeypatch.setattr(train_worker, "_work", diverges)
    with pytest.raises(RunFailed, match="diverged"):
        train_worker.work({"log": log})
    # The worker group that Ray Train starts in its place ends at once, and ends well.
    train_worker.work({"log": log})
    assert (tries, log.told) == (1, [("RunFailed", "diverged")])
