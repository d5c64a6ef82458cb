"""The page in a real browser; skipped where there is no Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ray_asd
from tests.reporting.conftest import Scored

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def page(scored: Scored, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "report.html"
    ray_asd.report(scored.scores, scored.bundle, str(out), top=6)
    return out


def opened(page: Path, fragment: str = "", *options: str) -> tuple[str, list[str]]:
    """The page as its script leaves it, and what the browser's console says."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={page.parent / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            *options,
            "--dump-dom",
            f"{page.as_uri()}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def shown(dom: str) -> list[tuple[str, float]]:
    """Machine type and score of the clips that are not hidden, in their order."""
    clips = []
    for tag in re.findall(r"<article ([^>]*)>", dom):
        said = dict(re.findall(r'data-(\w+)="([^"]*)"', tag))
        if " hidden" not in tag:
            clips.append((said["machine"], float(said["score"])))
    return clips


def test_nothing_is_wrong_with_it(page: Path) -> None:
    dom, console = opened(page)
    assert console == []
    assert '<form class="controls" id="controls">' in dom
    assert dom.count("<th><button") > 3
    assert dom.count("<svg") > 12
    scores = [score for _, score in shown(dom)]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


def test_sort_and_filter_stand_in_the_address(page: Path) -> None:
    dom, console = opened(page, "#sort=score+up&machine=fan&find=ANOMALY")
    assert console == []
    clips = shown(dom)
    assert 0 < len(clips) < 6
    assert {machine for machine, _ in clips} == {"fan"}
    assert [score for _, score in clips] == sorted(score for _, score in clips)
    assert shown(opened(page, "#find=no+such+thing")[0]) == []
    assert len(shown(opened(page, "#sort=nonsense&machine=none")[0])) == 6


PROBE = """
<script>
const player = document.querySelector("audio");
player.addEventListener("playing", () => {
  document.title = `plays ${player.duration.toFixed(1)} s`;
});
player.play().catch((error) => { document.title = `failed: ${error}`; });
const head = document.querySelector("#machines th:nth-child(3) button");
head.click();
</script></body>
"""


def test_a_player_plays_and_a_table_sorts(page: Path) -> None:
    # The page's own policy would keep the probe out.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    probed = page.with_name("probed.html")
    probed.write_text(text.replace("</body>", PROBE))
    dom, _ = opened(probed, "", "--autoplay-policy=no-user-gesture-required")
    assert "<title>plays 3." in dom
    assert dom.count('aria-sort="descending"') == 1
