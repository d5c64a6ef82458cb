"""What a recording's name says of it: file-name layouts and the columns they fill."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from ray_asd.errors import BadInput
from ray_asd.tables import DOMAINS, LABELS, SPLITS


@dataclass(frozen=True)
class Named:
    """A recording's own columns, as far as its name tells them."""

    machine_type: str
    section: str = "00"
    domain: str = "unknown"
    split: str = "unknown"
    label: str = "unknown"
    attributes: dict[str, str] = field(default_factory=dict)
    recorded_at: datetime | None = None
    fields: dict[str, str] = field(default_factory=dict)


class Layout(Protocol):
    """Reads the names of an archive."""

    def parse(self, relative: str, root: str = "") -> Named | None:
        """The columns of the file ``relative`` to the folder ``root``; None where it fits not."""


def layout_of(text: str) -> Layout:
    """The layout that ``text`` names: ``dcase``, or a template with fields in braces.

    Raises:
        BadInput: neither, or a malformed template.

    >>> layout_of("{site}/{machine_type}/{section}/{file}").parse("north/fan/00/1.wav").fields
    {'site': 'north', 'file': '1.wav'}
    """
    if text == "dcase":
        return DcaseLayout()
    if "{" in text or "}" in text:
        return TemplateLayout(text)
    raise BadInput(
        f"layout {text!r}: there is no such layout; there are dcase and templates such as "
        "{site}/{machine_type}/{section}/{file}"
    )


class DcaseLayout:
    """DCASE Challenge Task 2, 2021 to 2025: ``<machine>/{train,test}/section_NN_….wav``.

    The name goes on ``{source|target}_{train|test}_{normal|anomaly}_NNNN_<attributes>``, or,
    for unlabelled test clips, only ``NNNN``. The machine type and the split are the two folders
    above the file. Where the listing began below the machine type, they come from the
    listed folder's own path, so that ``rec``, ``rec/fan`` and ``rec/fan/train`` all work.
    """

    _LABELLED = re.compile(
        r"section_(\d+)_(source|target)_(train|test)_(normal|anomaly)_\d+(?:_(.*))?"
    )
    _UNLABELLED = re.compile(r"section_(\d+)_\d+")

    def parse(self, relative: str, root: str = "") -> Named | None:
        """See :class:`Layout`; a name whose split is not its folder's fits not."""
        parts = [part for part in f"{root}/{relative}".split("/") if part]
        if len(parts) < 3:
            return None
        machine_type, folder, file = parts[-3:]
        stem = file.rpartition(".")[0]
        if folder not in ("train", "test"):
            return None
        if match := self._UNLABELLED.fullmatch(stem):
            return Named(machine_type, section=match[1], split=folder)
        match = self._LABELLED.fullmatch(stem)
        if match is None or match[3] != folder:
            return None
        section, domain, split, label, tail = match.groups()
        return Named(machine_type, section, domain, split, label, read_attributes(tail or ""))


def read_attributes(text: str) -> dict[str, str]:
    """Attributes from the end of a DCASE name: names and values in turn, ``_`` between them.

    ``noAttribute`` and nothing are none. A last token without a value (2022's
    ``strength_1_ambient``) is kept as the attribute named ``attribute``; the values of a name
    that comes twice are joined, so that no two different texts say the same.

    >>> read_attributes("car_B1_spd_31V_mic_1")
    {'car': 'B1', 'spd': '31V', 'mic': '1'}
    """
    tokens = [token for token in text.split("_") if token]
    if tokens in ([], ["noAttribute"]):
        return {}
    if len(tokens) % 2:
        tokens.insert(-1, "attribute")
    found: dict[str, str] = {}
    for key, value in zip(tokens[::2], tokens[1::2], strict=True):
        found[key] = f"{found[key]}_{value}" if key in found else value
    return found


_COLUMNS = {"domain": DOMAINS, "split": SPLITS, "label": LABELS}
_TIMES = ("date", "time")
# What strptime reads for each directive.
_DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": r"\d{1,2}", "d": r"\d{1,2}", "j": r"\d{1,3}",
    "H": r"\d{1,2}", "I": r"\d{1,2}", "M": r"\d{1,2}", "S": r"\d{1,2}", "f": r"\d{1,6}",
    "p": r"[AaPp][Mm]", "b": r"[A-Za-z]+", "B": r"[A-Za-z]+", "z": r"(?:Z|[+-]\d{2}:?\d{2})",
}  # fmt: skip


class TemplateLayout:
    """An archive's own layout: ``{site}/{machine_type}/{section}/{date:%Y-%m-%d}/{asset}.flac``.

    A field matches the shortest text without ``/`` that lets the rest match. ``machine_type`` is
    required; ``section`` (``00`` where not named), ``domain``, ``split``, ``label``
    (``unknown``) and ``attributes`` (as in a DCASE name) fill the columns of that name;
    ``date`` and ``time`` with a strptime format together give ``recorded_at``, in UTC where
    they name no zone; every other field goes to ``fields``. The template stands for the whole
    path below the listed folder.

    Raises:
        BadInput: the template is malformed; says what is wrong with it.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._names: list[str] = []
        self._formats: dict[str, str] = {}
        pattern = ""
        after_field = False
        for literal, key, spec in self._parts():
            pattern += re.escape(literal)
            if key is None:
                continue
            if after_field and not literal and not spec:
                self._refuse(f"nothing separates {{{key}}} from the field before it")
            pattern += f"(?P<{self._group(key, spec)}>{_pattern(spec) if spec else '[^/]+?'})"
            after_field = not spec
        self._pattern = re.compile(pattern)
        if "machine_type" not in self._names:
            self._refuse("it has no {machine_type}; name the part that is the machine type")
        if self._formats and not re.search("%[Yy]", " ".join(self._formats.values())):
            self._refuse("a time needs its date; add {date:%Y-%m-%d}, or drop the format")
        self._try_formats()

    def parse(self, relative: str, root: str = "") -> Named | None:
        """See :class:`Layout`; a domain, split or label that is none, or a date, fits not."""
        match = self._pattern.fullmatch(relative)
        if match is None:
            return None
        texts = match.groupdict()
        columns = {key: texts[key] for key in ("section", *_COLUMNS) if key in texts}
        if any(columns.get(key, "unknown") not in allowed for key, allowed in _COLUMNS.items()):
            return None
        try:
            recorded_at = self._time(texts)
        except ValueError:
            return None
        own = {"machine_type", "section", "attributes", *_COLUMNS, *self._formats}
        return Named(
            texts["machine_type"],
            attributes=read_attributes(texts.get("attributes", "")),
            recorded_at=recorded_at,
            fields={key: text for key, text in texts.items() if key not in own},
            **columns,
        )

    def _parts(self) -> Iterator[tuple[str, str | None, str]]:
        try:
            parts = list(string.Formatter().parse(self._template.strip("/")))
        except ValueError as error:
            self._refuse(f"{error}; write a brace that is part of a name twice")
        for literal, key, spec, conversion in parts:
            if key is not None and (conversion or not re.fullmatch(r"[A-Za-z]\w*", key)):
                self._refuse(f"{{{key}}} is no field; fields are letters, digits and _")
            yield literal, key, spec or ""

    def _group(self, key: str, spec: str) -> str:
        """A name for the field in the pattern; a date may stand in several parts."""
        if not spec:
            if key in self._names:
                self._refuse(f"{{{key}}} stands in it twice; give the second another name")
            self._names.append(key)
            return key
        if key not in _TIMES:
            self._refuse(f"{{{key}:{spec}}} has a format; only date and time take one")
        for directive in re.findall("%(.?)", spec):
            if directive not in _DIRECTIVES:
                known = " ".join(f"%{one}" for one in _DIRECTIVES)
                self._refuse(f"%{directive} is no part of a date here; there are {known}")
        group = f"{key}__{len(self._formats)}"
        self._formats[group] = spec
        return group

    def _time(self, texts: dict[str, str]) -> datetime | None:
        if not self._formats:
            return None
        text = " ".join(texts[group] for group in self._formats)
        found = datetime.strptime(text, " ".join(self._formats.values()))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def _try_formats(self) -> None:
        try:
            self._time({key: datetime.now(UTC).strftime(f) for key, f in self._formats.items()})
        except (ValueError, re.error) as error:
            self._refuse(f"its date and time cannot be read together: {error}")

    def _refuse(self, why: str) -> NoReturn:
        raise BadInput(f"layout {self._template!r}: {why}")


def _pattern(spec: str) -> str:
    """The pattern of a text that ``strptime`` can read in the format ``spec``."""
    parts = re.split("(%.)", spec)
    return "".join(_DIRECTIVES[p[1]] if p.startswith("%") else re.escape(p) for p in parts)
