"""A store may refuse calls: those are made again; what it goes on refusing waits for a night."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from ray_asd.archive import store
from tests.conftest import Bucket, make_bucket
from tests.faults.commands import Command, sabotage
from tests.faults.outcome import assert_same_scores, outcomes, sound
from tests.faults.refusing_store import RefusingStore

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

# One attempt fewer than usual: half the wait for what is never answered.
LESS_PATIENT = """
from ray_asd.archive import store
store._ATTEMPTS = 6
"""


@pytest.fixture
def refusing() -> Iterator[RefusingStore]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = RefusingStore(seed=0)
    with made.serving():
        yield made


@pytest.fixture
def bucket(refusing: RefusingStore, archive: Path, random_bundle: str) -> Bucket:
    """Archive and bundle in a bucket of the store, while it still answers every call."""
    made = make_bucket(refusing.endpoint)
    filesystem, _ = store.resolve(made.uri())
    for source, name in ((archive, "archive"), (Path(random_bundle), "bundle")):
        fs.copy_files(
            str(source),
            f"{made.name}/{name}",
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=filesystem,
        )
    return made


def test_a_store_that_refuses_everything_for_ten_seconds_is_waited_for(
    refusing: RefusingStore,
) -> None:
    part = make_bucket(refusing.endpoint).uri("part.parquet")
    refusing.share = 1.0
    again = threading.Timer(10.0, setattr, (refusing, "share", 0.0))
    again.start()
    store.write_atomic(part, b"whole")
    again.join()
    assert refusing.refused.total() > 1
    assert store.read_bytes(part) == b"whole"


def test_a_store_that_refuses_a_tenth_of_all_calls_costs_no_recording(
    refusing: RefusingStore,
    bucket: Bucket,
    archive: Path,
    run: Callable[..., Command],
    undisturbed: dict[str, float],
    tmp_path: Path,
) -> None:
    out, patience = bucket.uri("scores"), sabotage(tmp_path, LESS_PATIENT)
    night = ["score", bucket.uri("archive"), "--bundle", bucket.uri("bundle"), "--out", out]
    unread = min(sound(archive))
    refusing.share, refusing.never = 0.1, f"/{unread}"
    run(*night, **patience).end_well()
    assert set(refusing.refused) == {"error", "busy", "dropped", "lost"}
    scored, reasons = outcomes(out)
    assert scored == sound(archive) - Counter([unread])
    assert reasons == {unread: "unreadable"}
    # The next night it answers.
    refusing.never = ""
    run(*night, **patience).end_well()
    scored, reasons = outcomes(out)
    assert scored == sound(archive)
    assert reasons == {unread: "unreadable"}
    assert_same_scores(out, undisturbed)
