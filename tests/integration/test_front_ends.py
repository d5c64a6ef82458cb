"""Backbones that hear by front ends of their own, from training to scores."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ray_asd
from ray_asd.errors import BadInput
from ray_asd.upstream.weights import load_tensors
from tests.conftest import TINY, run_whole_path

pytestmark = pytest.mark.integration

RECIPE = """
extends: demo
upstream:
  backbones:
    efficientnet: null
    short:
      {kind: transformer, frozen: false, width: 32, layers: 1, heads: 2, feed_forward: 32,
       dropout: 0.1, front_end: {n_fft: 256, hop: 128, mels: bins}}
    long: {kind: statistics, front_end: {n_fft: 4096}}
  masking: {enabled: true}
downstream: {detectors: {lof: null, gmm: null}}
"""


@pytest.mark.slow
def test_backbones_train_fit_and_score_by_front_ends_of_their_own(
    small_fleet: Path, held_ray: None, tmp_path: Path
) -> None:
    file = tmp_path / "three.yaml"
    file.write_text(RECIPE)
    made = run_whole_path(small_fleet, tmp_path, str(file))

    # One table for each front end that is trained with, of the same clips.
    tables = [Path(table) for table in json.loads(_text(made.upstream, "run.json"))["features"]]
    about = [json.loads((table / "features.json").read_text()) for table in tables]
    assert [a["front_end"]["n_fft"] for a in about] == [2048, 256]
    assert len(list((Path(made.upstream) / "features").iterdir())) == 2
    uris = [
        sorted(uri for part in a["parts"] for uri in pq.read_table(table / part)["uri"].to_pylist())
        for a, table in zip(about, tables, strict=True)
    ]
    assert uris[0] == uris[1]
    assert len(uris[0]) == 30

    for backbone, bands in (("transformer", 224), ("short", 124)):
        text = _text(made.upstream, backbone, "metrics.jsonl")
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["step"] for line in lines] == [3, 6]
        assert all(np.isfinite([line["loss"], line["held_out_loss"]]).all() for line in lines)
        weights = load_tensors(Path(made.upstream) / backbone / "weights.safetensors")
        assert weights["entrance.running_mean"].shape == (bands,)
        assert (weights["entrance.running_mean"] != 0).all()

    rows = ray_asd.read_scores(made.scores).to_pylist()
    assert len(rows) == 24
    assert ray_asd.read_rejections(made.scores).num_rows == 0
    for row in rows:
        assert set(dict(row["members"])) == {"transformer/knn", "short/knn", "long/knn"}
        assert row["score"] == pytest.approx(np.mean([s for _, s in row["members"]]), abs=1e-12)
        assert row["segment_starts_s"] == pytest.approx([0, 0.496, 0.992], abs=1e-9)

    changed = "upstream.backbones.short.front_end.hop=256"
    with pytest.raises(BadInput, match=r"other settings of upstream\.backbones\.short; fit with"):
        ray_asd.fit(made.manifest, made.upstream, str(tmp_path / "other"), settings=[changed])
    settings = [*TINY, "upstream.epochs=2", changed]
    with pytest.raises(BadInput, match=r"other settings of upstream\.backbones\.short; train in"):
        ray_asd.train(made.manifest, made.upstream, recipe=str(file), settings=settings)


def _text(*names: str) -> str:
    return Path(*names).read_text()
