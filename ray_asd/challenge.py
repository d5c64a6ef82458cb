"""The challenge's files: score and decision CSVs of a system, and the official ground truth."""

import csv
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_asd.errors import BadInput
from ray_asd.metrics import DOMAINS, Rows

# As submitted (anomaly_score_fan_section_00_test.csv; 2020: _id_00; 2021: _source_test), or as the
# official baselines name theirs (anomaly_score_DCASE2023T2fan_section_00_test_seed13711_….csv).
_NAME = re.compile(
    r"(?P<kind>anomaly_score|decision_result|ground_truth)_(?:DCASE\d{4}T2)?"
    r"(?P<machine_type>.+?)_(?:section|id)_(?P<section>\d+)"
    r"(?:_(?:(?P<domain>source|target)_)?test(?:_seed\d+.*)?)?\.csv"
)
_CLIP = re.compile(
    r"section_\d+_(?P<domain>source|target)_test_(?P<label>normal|anomaly)_"
    r"|(?P<label_2020>normal|anomaly)_id_\d+_"
)
LABELS = ("normal", "anomaly")

Key = tuple[str, str]


Truth = dict[str, tuple[str, str]]
"""Domain and label by the clip's file name."""


@dataclass(frozen=True)
class _Cell:
    """A number of a CSV, and where it stands."""

    value: float
    place: str


def file_name(kind: str, machine_type: str, section: str) -> str:
    """The official name of a section's file; ``kind`` is anomaly_score or decision_result.

    Raises:
        BadInput: no such name would be read back as this machine type and section.
    """
    name = f"{kind}_{machine_type}_section_{section}_test.csv"
    read = _NAME.fullmatch(name)
    if read is None or (read["machine_type"], read["section"]) != (machine_type, section):
        raise BadInput(
            f"{machine_type} section {section}: the challenge's files have no name for it; "
            "its sections are numbers, such as 00"
        )
    return name


def read_challenge_scores(folder: str | Path, ground_truth: str | Path | None = None) -> Rows:
    """Read a system's ``anomaly_score_…csv`` files, and ``decision_result_…csv`` if there.

    Args:
        folder: holds the files, without headers: a clip's file name, a number.
        ground_truth: the official evaluator's folder, with ``ground_truth_data`` (0 normal,
            1 anomaly) and ``ground_truth_domain`` (0 source, 1 target). Without it, label and
            domain are read from the clips' official names.

    Raises:
        BadInput: names the file, and the line where it is one: no score file, a name of no
            known form, a clip that is doubled, missing or unknown, a number that is none.
    """
    folder = Path(folder)
    scores, decisions = _files(folder, "anomaly_score"), _files(folder, "decision_result")
    if not scores:
        raise BadInput(
            f"{folder}: no anomaly_score_<machine>_section_<id>_test.csv there; "
            "name a folder of the challenge's score files"
        )
    for key in sorted(decisions.keys() - scores.keys()):
        raise BadInput(f"{decisions[key][0]}: there is no anomaly_score file of its section")
    truths = None if ground_truth is None else _ground_truth(Path(ground_truth))
    rows: list[tuple[str, str, str, str, float, int]] = []
    for key, files in scores.items():
        values = _read(files)
        if truths is not None and key not in truths:
            raise BadInput(f"{files[0]}: the ground truth has no {key[0]} section {key[1]}")
        truth = _named(values) if truths is None else truths[key].of(values, files[0])
        called = {}
        if key in decisions:
            called = {name: _binary(cell) for name, cell in _read(decisions[key]).items()}
            _same(values, called, decisions[key][0])
        rows += [(*key, *truth[n], c.value, called.get(n, 0)) for n, c in values.items()]
    for key in sorted((truths or {}).keys() - scores.keys()):
        raise BadInput(f"{folder}: no anomaly_score file of {key[0]} section {key[1]}; add it")
    machine_type, section, domain, label, score, decision = zip(*rows, strict=True)
    return Rows(
        np.array(machine_type),
        np.array(section),
        np.array(domain),
        np.array(label),
        np.array(score, dtype=np.float64),
        # Decisions of some sections alone would make the false-alarm rate of all misleading.
        np.array(decision, dtype=np.int8) if decisions.keys() == scores.keys() else None,
    )


def _files(folder: Path, kind: str) -> dict[Key, list[Path]]:
    """The folder's files of a kind by section; two of one section where each has its domain."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    found: dict[Key, dict[str | None, Path]] = {}
    for path in sorted(folder.glob(f"{kind}*.csv")):
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise BadInput(
                f"{path}: not a name of the challenge's, {kind}_<machine>_section_<id>_test.csv"
            )
        same = found.setdefault((name["machine_type"], name["section"]), {})
        if name["domain"] in same or (same and None in {name["domain"], *same}):
            raise BadInput(f"{path}: its section has {next(iter(same.values())).name} already")
        same[name["domain"]] = path
    return {key: list(paths.values()) for key, paths in found.items()}


def _read(files: list[Path]) -> dict[str, _Cell]:
    """The numbers of the files by clip."""
    cells: dict[str, _Cell] = {}
    for path in files:
        for line, row in _lines(path):
            place = f"{path}, line {line}"
            if len(row) != 2:
                raise BadInput(f"{place}: {len(row)} columns; there should be file name, number")
            name, text = row[0].strip(), row[1].strip()
            if not name:
                raise BadInput(f"{place}: the file name is missing")
            if name in cells:
                raise BadInput(f"{place}: {name} is there twice, first in {cells[name].place}")
            cells[name] = _Cell(_number(text, place), place)
    if not cells:
        raise BadInput(f"{files[0]}: holds no scores")
    return cells


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            yield from ((reader.line_num, row) for row in reader if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV: {error}") from None


def _number(text: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise BadInput(f"{place}: {text!r} is not a number") from None
    if not math.isfinite(number):
        raise BadInput(f"{place}: {text} is not a finite number")
    return number


def _binary(cell: _Cell) -> int:
    if cell.value not in (0, 1):
        raise BadInput(f"{cell.place}: {cell.value:g} is neither 0 nor 1")
    return int(cell.value)


def _same(scored: Iterable[str], other: Iterable[str], path: Path) -> None:
    """Check that a file beside the scores is about the same clips."""
    missing, unknown = sorted(set(scored) - set(other)), sorted(set(other) - set(scored))
    if missing:
        raise BadInput(f"{path}: {missing[0]} is missing ({len(missing)} in all)")
    if unknown:
        raise BadInput(f"{path}: {unknown[0]} has no anomaly score ({len(unknown)} in all)")


def _named(values: dict[str, _Cell]) -> Truth:
    """Domain and label as the clips' official names have them."""
    truth: Truth = {}
    for name, cell in values.items():
        match = _CLIP.match(name)
        if match is None:
            raise BadInput(
                f"{cell.place}: the file name {name} carries no label and domain; "
                "name the official ground truth, or see that names are the official ones"
            )
        truth[name] = (match["domain"] or "unknown", match["label"] or match["label_2020"])
    return truth


@dataclass(frozen=True)
class _GroundTruth:
    """The official truth about one section, and the clips' later, telling names, if given."""

    clips: Truth
    aliases: dict[str, str]

    def of(self, values: dict[str, _Cell], path: Path) -> Truth:
        """Domain and label of the scored clips, which must be the section's, each once."""
        official: dict[str, str] = {}
        for name, cell in values.items():
            clip = name if name in self.clips else self.aliases.get(name)
            if clip not in self.clips:
                raise BadInput(f"{cell.place}: {name} is not in the ground truth")
            if clip in official:
                raise BadInput(f"{cell.place}: {name} is there twice, first as {official[clip]}")
            official[clip] = name
        if missing := sorted(self.clips.keys() - official.keys()):
            raise BadInput(f"{path}: {missing[0]} is missing ({len(missing)} in all)")
        return {name: self.clips[clip] for clip, name in official.items()}


def _ground_truth(folder: Path) -> dict[Key, _GroundTruth]:
    """The evaluator's ``ground_truth_data``, ``_domain`` and, where there, ``_attributes``."""
    labels = _files(folder / "ground_truth_data", "ground_truth")
    if not labels:
        raise BadInput(f"{folder}/ground_truth_data: no ground_truth_….csv there")
    found = {}
    for key, files in labels.items():
        of_labels = _read(files)
        of_domains: dict[str, int] = {}
        for path in files:
            # 2021 has a file per domain; since 2022 the domains have files of their own.
            name = _NAME.fullmatch(path.name)
            if name is not None and name["domain"]:
                of_domains |= dict.fromkeys(_read([path]), DOMAINS.index(name["domain"]))
            else:
                beside = folder / "ground_truth_domain" / path.name
                of_domains |= {n: _binary(cell) for n, cell in _read([beside]).items()}
                _same(of_labels, of_domains, beside)
        clips = {n: (DOMAINS[of_domains[n]], LABELS[_binary(c)]) for n, c in of_labels.items()}
        found[key] = _GroundTruth(clips, _aliases(folder / "ground_truth_attributes", files))
    return found


def _aliases(folder: Path, files: list[Path]) -> dict[str, str]:
    """Official short names by the names that the clips were given after the challenge."""
    aliases = {}
    for path in (folder / file.name for file in files):
        for line, row in _lines(path) if path.is_file() else ():
            if len(row) != 2:
                raise BadInput(f"{path}, line {line}: {len(row)} columns, and there should be 2")
            aliases[f"{row[1].strip()}.wav"] = row[0].strip()
    return aliases
