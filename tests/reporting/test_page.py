"""The page: nothing outside it, nothing in it that was not meant, and no larger than it may be."""

import base64
import hashlib
import re
from typing import Any

import pytest

from ray_asd.errors import BadInput
from ray_asd.reporting import page
from ray_asd.reporting.page import Clip, View
from tests.test_scores import row

EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}{% raw %}"
SAID: dict[str, Any] = {
    "title": f"title {EVIL}",
    "about": f"about {EVIL}",
    "warnings": [f"warning {EVIL}"],
    "attention": [],
    "attention_more": 0,
    "units": "no machines",
    "false_alarm_rate": 0.1,
    "alarms_times": 2,
    "few_clips": 20,
    "far_times": 2,
    "facts": [("clips", EVIL)],
    "last_night": None,
    "machines": [],
    "machines_more": 0,
    "machine_warnings": {EVIL: EVIL},
    "charts": [],
    "charts_more": 0,
    "shown": 3,
    "clips_in_all": "3",
    "grouped": True,
    "group_notes": {EVIL: EVIL},
    "per_asset": 3,
    "machine_types": [EVIL],
    "heard_to_khz": 7.4,
    "segment_s": 2.0,
    "judged": None,
    "judged_charts": [],
    "judged_charts_more": 0,
    "rejections": [(EVIL, 1, EVIL)],
    "rejected_rows": [
        {"uri": EVIL, "start_s": 61.5, "night": EVIL, "reason": EVIL, "detail": EVIL}
    ],
    "runs": [{"run_id": EVIL, "bundle_id": EVIL, "scored": EVIL}],
    "runs_more": 0,
    "closing": "",
}


def clip(number: int, bytes_each: int = 10_000) -> Clip:
    picture, player = "<svg>" + "p" * bytes_each + "</svg>", "data:," + "s" * bytes_each
    views = [
        View(f"{EVIL} {number}", 0.0, picture, player),
        View(f"nearest {EVIL}", 61.5, missing=f"missing {EVIL}"),
    ]
    said = row(
        EVIL,
        machine_type=EVIL,
        section=EVIL,
        label=EVIL,
        attributes=[(EVIL, EVIL)],
        fields=[(EVIL, EVIL)],
        members=[(EVIL, 1.0)],
        night=EVIL,
    )
    return Clip(number, said, EVIL, *views)


def text_of(clips: list[Clip], largest_bytes: int = 10**9) -> str:
    return page.build(clips, largest_bytes, **SAID).html.decode()


def test_whatever_a_name_holds_is_text() -> None:
    text = text_of([clip(1), clip(2)])
    assert text.count("alert(1)") > 30
    assert text.count("<script>alert") == 0
    assert text.count("<script>") == 1
    assert "7 * 7" in text
    # Nor does it leave the attribute that it stands in.
    for tag in re.findall(r"<article[^>]*>", text):
        assert tag.count('"') == 2 * len(re.findall(r" [a-z-]+=\"", tag))


def test_the_page_asks_for_nothing_outside_it() -> None:
    text = text_of([clip(1)])
    assert "http:" not in text
    assert "https:" not in text
    for reference in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", text):
        assert reference.startswith(("data:", "#")), reference
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy[1]


def test_the_clips_stand_under_their_assets() -> None:
    text = text_of([clip(1), clip(2), clip(3)])
    assert text.count('<div class="group">') == 1
    assert re.findall(r'<article id="clip-(\d)"', text) == ["1", "2", "3"]


def test_a_large_page_loses_the_last_clips_sound_then_their_pictures() -> None:
    clips = [clip(number) for number in (1, 2, 3)]
    whole = page.build(clips, 10**9, **SAID)
    assert whole.left_out == {"player": 0, "picture": 0}
    size = len(whole.html)
    for most, players, pictures in (
        (size, 3, 3),
        (size - 1, 2, 3),
        (size - 15_000, 1, 3),
        (size - 25_000, 0, 3),
        (size - 35_000, 0, 2),
        (size - 55_000, 0, 0),
    ):
        built = page.build(clips, most, **SAID)
        text = built.html.decode()
        assert len(built.html) <= most
        assert built.left_out == {"player": 3 - players, "picture": 3 - pictures}
        articles = re.findall(r"<article.*?</article>", text, re.DOTALL)
        assert ["<audio" in article for article in articles] == [n < players for n in range(3)]
        assert ["<svg" in article for article in articles] == [n < pictures for n in range(3)]
        for what in (players, pictures):
            assert what == 3 or f"of {3 - what} clips are left out" in text.replace("is", "are")


def test_a_page_that_is_too_large_without_any_says_what_it_takes() -> None:
    with pytest.raises(BadInput, match=r"--largest-mb 0\.001: the page takes 0\.\d+ MB"):
        text_of([clip(1)], 1000)


def test_a_clip_that_cannot_be_heard_says_why() -> None:
    (article,) = re.findall(r"<article.*?</article>", text_of([clip(1)]), re.DOTALL)
    assert article.count("Not to be heard: missing") == 1
    assert article.count("from 1:01.5") == 1
    assert "left out" not in article
