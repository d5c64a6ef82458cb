"""What became of an archive's recordings, by their names."""

from collections import Counter
from pathlib import Path

import numpy as np

import ray_asd
from ray_asd.archive import store


def outcomes(out: Path | str) -> tuple[Counter[str], dict[str, str]]:
    """How often each recording was scored, by name, and the reasons of those rejected."""
    scored = ray_asd.read_scores(str(out), latest=False)["uri"].to_pylist()
    rejected = ray_asd.read_rejections(str(out)).to_pylist()
    reasons = {store.name(row["uri"]): row["reason"] for row in rejected}
    assert len(reasons) == len(rejected)
    return Counter(map(store.name, scored)), reasons


def sound(archive: Path) -> Counter[str]:
    """Every recording of the archive, once."""
    return Counter(file.name for file in archive.rglob("*.wav"))


def scores_of(out: Path | str) -> dict[str, float]:
    """Each recording's latest score."""
    rows = ray_asd.read_scores(str(out))
    names = map(store.name, rows["uri"].to_pylist())
    return dict(zip(names, rows["score"].to_pylist(), strict=True))


def assert_same_scores(out: Path | str, expected: dict[str, float]) -> None:
    """Those recordings that ``expected`` holds were all scored, to the same figures."""
    found = scores_of(out)
    assert expected.keys() <= found.keys()
    names = sorted(expected)
    np.testing.assert_allclose(
        [found[name] for name in names], [expected[name] for name in names], rtol=0, atol=1e-5
    )


def commits(out: Path) -> list[Path]:
    """The ledger's commit records."""
    return list((out / "ledger" / "shards").glob("*.parquet"))
