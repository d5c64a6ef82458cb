"""From counts and a bundle to what a person is told: which machines need attention, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from ray_asd import metrics
from ray_asd.bundle import Bundle, Key
from ray_asd.ensemble import Reference
from ray_asd.reporting.tally import ASSET, EDGES, Tally

Counts = npt.NDArray[np.int64]

ALARMS_TIMES = 2
"""A machine needs attention where surely more than so many times as many of its clips lie above
the threshold as of normal ones: sounds drift, and among many machines some are always unlucky."""

FEW_CLIPS = 20
"""With fewer clips than these a share above the threshold tells little …"""

FAR_TIMES = 2
"""… and a clip so many times as far out as the furthest reference normal is told by itself."""


@dataclass(frozen=True)
class Alarms:
    """How many of some clips are above the threshold, and how sure that is."""

    clips: int
    above: int

    @property
    def share(self) -> float:
        """Share above the threshold; 0 of no clips."""
        return self.above / self.clips if self.clips else 0.0

    @cached_property
    def at_least(self) -> float:
        """Lower end of the share's 95 % interval (Clopper and Pearson, Biometrika 1934)."""
        if not self.above:
            return 0.0
        return float(stats.beta.ppf(0.025, self.above, self.clips - self.above + 1))


@dataclass
class Machine:
    """One (machine type, section) as scored, beside what its bundle knows of it."""

    machine_type: str
    section: str
    reference: Reference | None
    """None where the bundle holds not the section, or not the ensemble."""
    warnings: list[str]
    """Why its scores can be trusted less."""
    alarms: Alarms = field(default_factory=lambda: Alarms(0, 0))
    seconds: float = 0.0
    highest: float = -np.inf
    by_kind: dict[tuple[str, str], Counts] = field(default_factory=dict)
    """(bins,) clips by score, of each domain and label; bins as of :data:`EDGES`."""
    nights: dict[str, Alarms] = field(default_factory=dict)
    """The last nights, in order, and all older ones under the empty name."""

    @property
    def counts(self) -> Counts:
        """(bins,) clips by score."""
        total: Counts = np.sum(list(self.by_kind.values()), axis=0)
        return total

    @property
    def median(self) -> float:
        """The median score, as exactly as a bin tells."""
        place = int(np.searchsorted(np.cumsum(self.counts), self.alarms.clips / 2))
        edges = EDGES[max(place - 1, 0) : place + 1]
        return float(edges.mean())


@dataclass(frozen=True)
class Unit:
    """What needs attention: an asset where the layout names one, else a section."""

    machine_type: str
    section: str
    site: str | None
    asset: str | None
    all: Alarms
    last: Alarms
    """Those of the last night."""
    surest: float
    """The higher of their ``at_least``; 0 where its alarms alone say nothing."""
    highest: float
    why: list[str]
    """What speaks for it, in words."""


def machines(tally: Tally, bundle: Bundle, ensemble: str) -> list[Machine]:
    """Every (machine type, section) that was scored, those of most alarms first."""
    found: dict[Key, Machine] = {}
    others = foreign(tally.origins, bundle)
    for cell in _sums(tally.cells, ["night"], ["clips", "above", "seconds", "highest"]):
        key = cell["machine_type"], cell["section"]
        if key not in found:
            section = bundle.sections.get(key)
            reference = section.calibration.ensembles.get(ensemble) if section else None
            warnings = _warnings(key, bundle, reference, others.get(key, []))
            found[key] = Machine(*key, reference, warnings)
        machine = found[key]
        machine.alarms = _plus(machine.alarms, cell)
        machine.seconds += cell["seconds"]
        machine.highest = max(machine.highest, cell["highest"])
        machine.nights[cell["night"]] = Alarms(cell["clips"], cell["above"])
    for cell in _sums(tally.cells, ["domain", "label", "bin"], ["clips"]):
        kinds = found[cell["machine_type"], cell["section"]].by_kind
        kind = cell["domain"], cell["label"]
        kinds.setdefault(kind, np.zeros(len(EDGES) + 1, np.int64))[cell["bin"]] += cell["clips"]
    for machine in found.values():
        machine.nights = dict(sorted(machine.nights.items()))

    def first(machine: Machine) -> tuple[Any, ...]:
        alarms = machine.alarms
        named = machine.machine_type, machine.section
        return -alarms.at_least, -alarms.share, -machine.highest, *named

    return sorted(found.values(), key=first)


def attention(
    tally: Tally, found: list[Machine], false_alarm_rate: float, *, last_night: str | None
) -> list[Unit]:
    """The machines that need attention, most urgent first.

    They have far more clips above the threshold than normal machines would, in all or in the
    last night, by the lower end of the share's interval (:data:`ALARMS_TIMES`); or few clips,
    and one of them far beyond any reference normal (:data:`FAR_TIMES`).

    Args:
        tally: the counts.
        found: the :func:`machines` of them.
        false_alarm_rate: what the thresholds are set for.
        last_night: the newest night; None where there is one only.
    """
    by_key = {(machine.machine_type, machine.section): machine for machine in found}
    most = ALARMS_TIMES * false_alarm_rate
    units = []
    for row in _as_units(found, last_night) if tally.units is None else tally.units.to_pylist():
        all_ = Alarms(row["clips"], row["above"])
        last = Alarms(row["clips_last"], row["above_last"])
        why = []
        if last_night is not None and last.at_least > most:
            why.append(_told(last, "in the last night"))
        if all_.at_least > most:
            why.append(_told(all_, "" if last_night is None else "in all"))
        surest = max(all_.at_least, last.at_least) if why else 0.0
        highest = f"highest score {row['highest']:.1f}"
        reference = by_key[row["machine_type"], row["section"]].reference
        far = False
        if reference is not None:
            furthest = float(reference.scores[-1])
            far = all_.clips < FEW_CLIPS and row["highest"] > FAR_TIMES * max(furthest, 0.0)
            highest += f", of the reference normals {furthest:.1f}"
        if why or far:
            named = {name: row[name] for name in ("machine_type", "section", *ASSET)}
            why.append(highest)
            units.append(
                Unit(**named, all=all_, last=last, surest=surest, highest=row["highest"], why=why)
            )

    def first(unit: Unit) -> tuple[Any, ...]:
        named = unit.machine_type, unit.section, unit.site or "", unit.asset or ""
        return -unit.surest, -unit.highest, *named

    return sorted(units, key=first)


def foreign(origins: pa.Table, bundle: Bundle) -> dict[Key, list[dict[str, Any]]]:
    """Of each section the rows of :attr:`Tally.origins` that the bundle would score otherwise."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in origins.to_pylist():
        key = row["machine_type"], row["section"]
        if key in bundle.digests and row["section_digest"] != bundle.digests[key]:
            found.setdefault(key, []).append(row)
    return found


def judged(tally: Tally, false_alarm_rate: float) -> metrics.Evaluation | None:
    """The official figures, as ``ray-asd evaluate`` computes them; None where no label is known.

    Also None where there are more labelled clips than are held at once.
    """
    if tally.labelled is None or not tally.labelled.num_rows:
        return None
    rows = labelled_rows(tally.labelled)
    return metrics.evaluate(rows, false_alarm_rate=false_alarm_rate)


def labelled_rows(table: pa.Table) -> metrics.Rows:
    """:attr:`Tally.labelled` as the metrics take them."""
    machine_type, section, domain, label = (
        np.array(table[name].to_pylist()) for name in ("machine_type", "section", "domain", "label")
    )
    score, decision = np.asarray(table["score"], np.float64), np.asarray(table["decision"], np.int8)
    return metrics.Rows(machine_type, section, domain, label, score, decision)


def _sums(cells: pa.Table, by: list[str], what: list[str]) -> list[dict[str, Any]]:
    """Rows of ``what`` added up by section and ``by``."""
    names = ["machine_type", "section", *by]
    how = [(name, "max" if name == "highest" else "sum") for name in what]
    added = cells.group_by(names, use_threads=False).aggregate(how)
    rows: list[dict[str, Any]] = added.rename_columns([*names, *what]).to_pylist()
    return rows


def _plus(alarms: Alarms, cell: dict[str, Any]) -> Alarms:
    return Alarms(alarms.clips + cell["clips"], alarms.above + cell["above"])


def _told(alarms: Alarms, where: str) -> str:
    counts = f"{alarms.above:,} of {alarms.clips:,} clips above the threshold"
    sure = f"{alarms.share:.0%}, at least {alarms.at_least:.0%}"
    return f"{counts} {where}".rstrip() + f" ({sure})"


def _as_units(found: list[Machine], last_night: str | None) -> list[dict[str, Any]]:
    """Sections as rows of :attr:`Tally.units`, where there are too many assets."""
    rows = []
    for machine in found:
        last = machine.nights.get(last_night or "", Alarms(0, 0))
        rows.append(
            {
                "machine_type": machine.machine_type,
                "section": machine.section,
                "site": None,
                "asset": None,
                "clips": machine.alarms.clips,
                "above": machine.alarms.above,
                "clips_last": last.clips,
                "above_last": last.above,
                "highest": machine.highest,
            }
        )
    return rows


def _warnings(
    key: Key, bundle: Bundle, reference: Reference | None, foreign: list[dict[str, Any]]
) -> list[str]:
    if key not in bundle.sections:
        return ["not in the bundle: there are no reference normals to compare with"]
    if reference is None:
        return ["the bundle has no such ensemble: there are no reference normals to compare with"]
    trust = bundle.sections[key].trust.get("warning")
    said = [] if trust is None else [str(trust)]
    if foreign:
        ids = ", ".join(sorted({row["bundle_id"] for row in foreign}))
        said.append(
            f"scored with another bundle ({ids}), in part or in all: the reference normals and "
            "the threshold shown are not those of all clips"
        )
    return said
