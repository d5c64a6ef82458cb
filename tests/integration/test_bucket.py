"""Archive, bundle and scores table all lie in a bucket; nothing is written to a disk."""

from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

import ray_asd
from ray_asd.archive import store
from tests.conftest import Bucket, System

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_night_in_a_bucket(system: System, small_fleet: Path, bucket: Bucket) -> None:
    filesystem, _ = store.resolve(bucket.uri())
    for source, name in ((small_fleet / "fan", "archive/fan"), (Path(system.bundle), "bundle")):
        fs.copy_files(
            str(source),
            f"{bucket.name}/{name}",
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=filesystem,
        )
    out = bucket.uri("scores")
    arguments = (bucket.uri("archive"), bucket.uri("bundle"), out)
    result = ray_asd.score(*arguments, split="test")
    assert (result["scored"], result["rejected"]) == (12, 0)
    again = ray_asd.score(*arguments, split="test")
    assert (again["recordings"], again["skipped"]) == (0, 12)
    local = {
        Path(row["uri"]).name: row["score"]
        for row in ray_asd.read_scores(system.scores).to_pylist()
        if row["machine_type"] == "fan"
    }
    rows = ray_asd.read_scores(out).to_pylist()
    assert {store.name(row["uri"]) for row in rows} == set(local)
    for row in rows:
        np.testing.assert_allclose(row["score"], local[store.name(row["uri"])], rtol=0, atol=1e-5)
