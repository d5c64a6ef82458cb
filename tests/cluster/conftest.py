"""Clusters of this machine alone: on the loopback interface, with a token, on free ports."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.head import Head
from tests.faults.conftest import random_bundle, random_run

__all__ = ["random_bundle", "random_run"]


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
        started.wait()
        yield started
    finally:
        started.end()
