"""Clusters of this machine alone: on the loopback interface, with a token, on free ports."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.head import Head
from tests.faults.conftest import random_bundle, random_run

__all__ = ["random_bundle", "random_run"]

# Ray gives its own processes 30 s to start, which a busy machine may not keep to.
_MORE_STARTS = 2


@pytest.fixture(scope="session")
def fan_archive(small_fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve test recordings of the small fleet's fan. Read only."""
    root = tmp_path_factory.mktemp("archive")
    shutil.copytree(small_fleet / "fan" / "test", root / "fan" / "test")
    return root


@pytest.fixture(scope="session")
def head(_own_home: None) -> Iterator[Head]:
    """One head that the tests of submission and joining share."""
    started = Head()
    try:
        for _ in range(_MORE_STARTS):
            if started.wait():
                break
            started.end()
            started = Head()
        assert started.wait(), started.said()
        yield started
    finally:
        started.end()
