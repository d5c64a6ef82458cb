from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import spectrogram
from sklearn.metrics import roc_auc_score

from ray_asd.archive import build, training
from ray_asd.archive.fleet import synthesize
from ray_asd.archive.machines import MACHINES
from ray_asd.errors import BadInput


def files(root: Path) -> dict[str, bytes]:
    found = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    small = {"train_source": 3, "train_target": 1, "test_per_cell": 1, "duration_s": 2.5}
    for name in ("a", "b"):
        assert synthesize(str(tmp_path / name), **small, seed=7) == 4 * (3 + 1 + 4)
    synthesize(str(tmp_path / "other"), **small, seed=8)
    synthesize(str(tmp_path / "more"), **{**small, "train_source": 5}, seed=7)
    first = files(tmp_path / "a")
    assert files(tmp_path / "b") == first
    assert not set(files(tmp_path / "other").values()) & set(first.values())
    more = files(tmp_path / "more")
    sounds = {name: data for name, data in first.items() if name.endswith(".wav")}
    assert {name: more[name] for name in sounds} == sounds
    assert len(set(sounds.values())) == len(sounds)


def test_a_fleet_is_an_archive_in_the_dcase_layout(tmp_path: Path) -> None:
    synthesize(
        str(tmp_path), train_source=30, train_target=6, test_per_cell=2, duration_s=2.0,
        without_attributes=["valve"],
    )  # fmt: skip
    index = build(str(tmp_path))
    assert (index.skipped, index.notes) == ([], [])
    assert len(training(index.table)) == 4 * 36
    rows = index.table.to_pylist()
    for machine_type, machine in MACHINES.items():
        for domain, conditions in (("source", machine.source), ("target", machine.target)):
            told = {
                tuple(r["attributes"])
                for r in rows
                if (r["machine_type"], r["domain"]) == (machine_type, domain)
            }
            every = {tuple(one.items()) for one in conditions}
            assert told == {()} if machine_type == "valve" else told <= every
    info = soundfile.info(rows[0]["uri"])
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (
        16000,
        1,
        "PCM_16",
        32000,
    )
    csv = (tmp_path / "fan" / "attributes_00.csv").read_text().splitlines()
    assert csv[0] == "file_name,d1p,d1v,d2p,d2v"
    assert len(csv) == 1 + 30 + 6 + 8


def test_an_unknown_machine_type_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'pump'; there are fan, gearbox, slider, valve"):
        synthesize(str(tmp_path), machine_types=["pump"])


def test_anomalies_can_be_found_and_are_not_obvious(tmp_path: Path) -> None:
    # The simplest detector there is: distance to the nearest normal log spectrum.
    synthesize(str(tmp_path), train_source=60, train_target=6, test_per_cell=25, duration_s=4.0)
    rows = build(str(tmp_path)).table.to_pylist()
    points = np.stack([_statistics(row["uri"]) for row in rows])
    columns = {
        k: np.array([r[k] for r in rows]) for k in ("machine_type", "split", "domain", "label")
    }
    found: dict[str, list[float]] = {"source": [], "target": []}
    for machine_type in MACHINES:
        own = columns["machine_type"] == machine_type
        train, test = (own & (columns["split"] == split) for split in ("train", "test"))
        distance = np.linalg.norm(points[test][:, None] - points[train][None], axis=2).min(axis=1)
        anomaly, domain = columns["label"][test] == "anomaly", columns["domain"][test]
        for name, aucs in found.items():
            heard = anomaly | (domain == name)
            aucs.append(float(roc_auc_score(anomaly[heard], distance[heard])))
    source, target = np.mean(found["source"]), np.mean(found["target"])
    assert 0.65 < source < 0.95
    assert target < source - 0.05
    assert min(found["source"]) > 0.6


def _statistics(uri: str) -> np.ndarray:
    sound, rate = soundfile.read(uri)
    power = spectrogram(sound / sound.std(), rate, nperseg=1024, noverlap=512)[2]
    bands = np.add.reduceat(power, np.unique(np.geomspace(3, 512, 64).astype(int)), axis=0)
    level = np.log(bands + 1e-10)
    return np.concatenate([level.mean(axis=1), level.std(axis=1)])
