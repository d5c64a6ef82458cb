"""The rules of the house, and what it stands on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_asd

ROOT = Path(__file__).parents[1]


def test_lint_imports_holds() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_but_the_pipelines_runs_without_ray() -> None:
    parts = "frontend, upstream, downstream, metrics, ensemble, bundle, scores, challenge"
    code = "; ".join(f"import ray_asd.{part.strip()}" for part in parts.split(","))
    code += "; import sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_detectors_stages_start_without_torch() -> None:
    code = "import ray_asd.pipelines.stages, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_drives_a_run_starts_without_torch() -> None:
    parts = "enroll", "evaluate", "fit", "score", "tune"
    code = "; ".join(f"import ray_asd.pipelines.{part}" for part in parts)
    code += "; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torch_torchaudio_and_torchvision_share_one_cuda() -> None:
    import torch
    import torchaudio
    import torchvision

    builds = {m.__version__.partition("+")[2] for m in (torch, torchaudio, torchvision)}
    assert len(builds) == 1, builds
    assert torchaudio.functional.melscale_fbanks(9, 0.0, 8.0, 2, 16).shape == (9, 2)
    assert torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5).tolist() == [0]


def test_the_public_names_are_there() -> None:
    for name in ray_asd.__all__:
        assert callable(getattr(ray_asd, name))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        ray_asd.nothing_of_the_kind  # noqa: B018


def test_the_lock_file_names_no_address_and_hashes_everything() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"^[a-z0-9._-]+(?:\[[a-z,]+\])?==", text, re.MULTILINE)
    assert len(pins) > 50
    assert text.count("--hash=sha256:") >= len(pins)
