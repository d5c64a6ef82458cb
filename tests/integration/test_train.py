"""Training that cannot go on says why."""

from pathlib import Path

import pytest

from tests.conftest import TINY, System, run_cli

pytestmark = pytest.mark.integration


def test_a_diverging_loss_ends_with_one_line_that_says_what_to_lower(
    system: System, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "transformer.yaml"
    recipe.write_text("extends: demo\nupstream: {backbones: {efficientnet: null}}\n")
    settings = [
        *TINY,
        "upstream.epochs=4",
        "upstream.checkpoint_epochs=1",
        "upstream.learning_rate=1e30",
        "upstream.gradient_clip=1e30",
    ]
    arguments = ["train", system.manifest, "--out", str(tmp_path / "run"), "--workers", "2"]
    arguments += ["--recipe", str(recipe), "--features", f"{system.upstream}/features"]
    for setting in settings:
        arguments += ["--set", setting]
    code, _, said = run_cli(*arguments, capfd=capfd)
    assert code == 1
    (told,) = [line for line in said.splitlines() if line.startswith("ray-asd: ")]
    assert "training of transformer diverged at step" in told
    assert "lower upstream.learning_rate" in told
    assert "Traceback" not in said
