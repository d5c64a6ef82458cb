"""Training that cannot go on says why."""

from pathlib import Path

import pytest

from tests.conftest import System, run_cli

pytestmark = pytest.mark.integration


def test_a_diverging_loss_ends_with_one_line_that_says_what_to_lower(
    system: System, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The system's own training, but for what makes it diverge.
    arguments = ["train", system.manifest, "--out", str(tmp_path / "run"), "--workers", "2"]
    arguments += ["--recipe", f"{system.upstream}/recipe.yaml"]
    arguments += ["--features", f"{system.upstream}/features"]
    for name in ("learning_rate", "gradient_clip"):
        arguments += ["--set", f"upstream.{name}=1e30"]
    code, _, said = run_cli(*arguments, capfd=capfd)
    assert code == 1
    (told,) = [line for line in said.splitlines() if line.startswith("ray-asd: ")]
    assert "training of transformer diverged at step" in told
    assert "lower upstream.learning_rate" in told
    assert "Traceback" not in said
