"""A scores table made by hand, beside recordings and a bundle that match it. No Ray."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from ray_asd import bundle as bundles
from ray_asd import recipe
from ray_asd.archive import manifest
from ray_asd.bundle import Bundle, Neighbours, Section
from ray_asd.ensemble import calibrate
from tests.test_scores import publish

# Nothing in it is trained, so that what is heard again is embedded as in a real bundle.
RECIPE = recipe.load(
    "demo",
    [
        "clips.segments=3",
        "front_end.mels=64",
        "upstream.backbones={statistics: {kind: statistics}}",
    ],
)
ENSEMBLE = next(iter(RECIPE.ensembles))
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Scored:
    """Recordings, what was scored of them, and by what."""

    fleet: Path
    bundle: str
    scores: str
    rows: list[dict[str, Any]]
    loaded: Bundle


@pytest.fixture(scope="session")
def trained(small_fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bundle]:
    """A bundle of both machines of the small fleet: calibration and neighbours, no detectors."""
    table = manifest.training(manifest.build(str(small_fleet)).table).to_pylist()
    random = np.random.default_rng(0)
    sections = {}
    for machine_type in ("fan", "valve"):
        uris = [row["uri"] for row in table if row["machine_type"] == machine_type]
        raw = {member: random.normal(5, 2, 40) for member in RECIPE.used_members()}
        width = RECIPE.embedding_width("statistics")
        points = np.eye(len(uris), width, dtype=np.float32)
        sections[machine_type, "00"] = Section(
            {}, calibrate(raw, RECIPE), Neighbours(uris, [0.0] * len(uris), points), {}
        )
    weights = {name: save({"w": random.random(3)}) for name in RECIPE.trained_backbones()}
    place = str(tmp_path_factory.mktemp("trained") / "bundle")
    return place, bundles.save(Bundle(RECIPE, weights, sections), place)


def scored_row(recording: dict[str, Any], loaded: Bundle, score: float, **changes: Any) -> Any:
    """A row of the scores table, as the bundle would have it."""
    key = recording["machine_type"], recording["section"]
    section = loaded.sections[key]
    values = np.array([score])
    members = RECIPE.ensemble_members(ENSEMBLE)
    return {
        **recording,
        "start_s": 0.0,
        "duration_s": 3.0,
        "ensemble": ENSEMBLE,
        "score": score,
        "percentile": float(section.calibration.percentile(ENSEMBLE, values)[0]),
        "decision": int(section.calibration.decide(ENSEMBLE, values)[0]),
        "members_raw": [(name, score) for name in members],
        "members": [(name, score) for name in members],
        "segment_scores": [score - 0.5, score + 1.0, score - 0.5],
        "segment_starts_s": [0.0, 0.496, 0.992],
        "nearest_uri": section.neighbours.uris[0],
        "nearest_start_s": 0.0,
        "section_digest": loaded.digests[key],
        "bundle_id": loaded.bundle_id,
        "run_id": "20260101T000000Z-abcdef01",
        "scored_at": DAY,
        "night": f"{DAY:%Y-%m-%d}",
        **changes,
    }


def rejected_row(recording: dict[str, Any], reason: str, **changes: Any) -> Any:
    """A row of the rejections table: the whole recording."""
    return {
        **recording,
        "start_s": 0.0,
        "duration_s": 0.0,
        "reason": reason,
        "detail": f"it is {reason}",
        "section_digest": "",
        "run_id": "20260101T000000Z-abcdef01",
        "night": f"{DAY:%Y-%m-%d}",
        **changes,
    }


@pytest.fixture(scope="session")
def scored(
    small_fleet: Path, trained: tuple[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Scored:
    """Three nights: test clips of both machines; a fan that gets worse. Read only."""
    place, loaded = trained
    table = manifest.build(str(small_fleet)).table.to_pylist()
    test = [row for row in table if row["split"] == "test"]
    random = np.random.default_rng(1)
    rows = []
    for i, recording in enumerate(test):
        night = DAY + timedelta(days=i % 3)
        score = random.normal() + 4 * (recording["label"] == "anomaly")
        rows.append(
            scored_row(
                recording,
                loaded,
                float(score),
                run_id=f"{night:%Y%m%dT%H%M%SZ}-abcdef01",
                scored_at=night + timedelta(minutes=i),
                night=f"{night:%Y-%m-%d}",
            )
        )
    uri = str(tmp_path_factory.mktemp("scored") / "scores")
    publish(uri, *rows)
    broken = {**test[0], "uri": "/archive/broken.wav"}
    publish(uri, rejected_row(broken, "truncated"), kind="rejections")
    return Scored(small_fleet, place, uri, rows, loaded)
