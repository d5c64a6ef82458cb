from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """Real recordings beside the checkout, where there are any."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "recordings"
    if not folder.is_dir():
        pytest.skip("no real recordings beside this checkout")
    return folder
