"""The page itself: one HTML file that needs nothing outside it, kept below a size."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from ray_asd.errors import BadInput

What = Literal["player", "picture"]


@dataclass(frozen=True)
class View:
    """A clip of one recording: what is to be seen and to be heard of it."""

    uri: str
    start_s: float
    picture: str = ""
    """SVG; empty where there is none."""
    player: str = ""
    """A ``data:`` URL; empty where there is none."""
    missing: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Clip:
    """One of the most anomalous clips, beside the normal training clip that comes nearest."""

    number: int
    """From 1, by score."""
    row: Mapping[str, Any]
    """Its row of the scores table."""
    group: str
    """Its asset; empty where the layout names none."""
    heard: View
    nearest: View

    def weight(self, what: What) -> int:
        """Bytes that the clip's and the nearest one's ``what`` take."""
        return len(getattr(self.heard, what)) + len(getattr(self.nearest, what))

    def without(self, what: What) -> Clip:
        """The same clip, less that."""
        nothing: dict[str, Any] = {what: ""}
        return replace(
            self,
            heard=replace(self.heard, **nothing),
            nearest=replace(self.nearest, **nothing),
        )


@dataclass(frozen=True)
class Page:
    """A page, and of how many clips what was left out of it to keep it small."""

    html: bytes
    left_out: dict[What, int]


def build(clips: Sequence[Clip], largest_bytes: int, **said: Any) -> Page:
    """Render the page; where it would be too large, leave something out, and say so in it.

    First to go are the players, those of the last clips first, then the spectrograms likewise.

    Args:
        clips: the most anomalous clips, the highest score first.
        largest_bytes: how large the page may be.
        said: what else ``template.html.jinja`` names.

    Raises:
        BadInput: without any player and spectrogram it is still larger.
    """
    shown = list(clips)
    page = _render(shown, clips, said)
    kinds: tuple[What, ...] = ("player", "picture")
    for what in kinds:
        # Again where the lines that tell of it take more than what was freed too much.
        while len(page.html) > largest_bytes and any(clip.weight(what) for clip in shown):
            excess = len(page.html) - largest_bytes
            for place in reversed(range(len(shown))):
                if excess <= 0:
                    break
                excess -= shown[place].weight(what)
                shown[place] = shown[place].without(what)
            page = _render(shown, clips, said)
    if len(page.html) > largest_bytes:
        raise BadInput(
            f"--largest-mb {largest_bytes / 1e6:g}: the page takes {len(page.html) / 1e6:.2f} MB "
            "without any sound and spectrogram; allow more, or show fewer clips with --top"
        )
    return page


def _render(shown: Sequence[Clip], clips: Sequence[Clip], said: Mapping[str, Any]) -> Page:
    groups: dict[str, list[Clip]] = {}
    for clip in shown:
        groups.setdefault(clip.group, []).append(clip)
    kinds: tuple[What, ...] = ("player", "picture")
    left_out = {
        what: sum(bool(c.weight(what)) for c in clips) - sum(bool(c.weight(what)) for c in shown)
        for what in kinds
    }
    script = _source("page.js")
    text = _ENVIRONMENT.get_template("template.html.jinja").render(
        **said,
        groups=groups,
        left_out=left_out,
        style=_source("page.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return Page(text.encode(), left_out)


def _source(name: str) -> str:
    return _LOADER.get_source(_ENVIRONMENT, name)[0]


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"


def _at(start_s: float) -> str:
    """Where in a recording; nothing for its start."""
    minutes, seconds = divmod(start_s, 60)
    return f"{int(minutes)}:{seconds:04.1f}" if start_s else ""


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


_LOADER = PackageLoader("ray_asd.reporting", ".")
_ENVIRONMENT = Environment(
    loader=_LOADER,
    # By name it would not know that a template.html.jinja is HTML.
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"percent": _percent, "figure": _figure, "at": _at, "time": _time}
