"""All that a page says: counts, charts, clips, runs, put together for its template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_asd import metrics, scores
from ray_asd.archive import store
from ray_asd.bundle import Bundle, Key
from ray_asd.reporting import charts, maps, parts, summary, tally
from ray_asd.reporting.maps import Map
from ray_asd.reporting.page import Clip, View
from ray_asd.reporting.parts import Part
from ray_asd.reporting.sound import Listener, Missing, Sound, players
from ray_asd.reporting.summary import Machine, Unit
from ray_asd.reporting.tally import Tally

# The page is for a person: what is more than this is counted, and neither drawn nor listed.
_MOST_NIGHTS = 30
_MOST_UNITS = 20
_MOST_ROWS = 1000
_MOST_CHARTS = 40
_MOST_REJECTED = 20
_MOST_RUNS = 10

_UNIT = ["machine_type", "section", *tally.ASSET]


def nights_of(found: Sequence[Part]) -> list[str]:
    """The nights that these parts are of, in order."""
    return sorted({part.night for part in found})


def shown_nights(found: Sequence[Part]) -> list[str]:
    """The last of :func:`nights_of`, which are counted apart."""
    return nights_of(found)[-_MOST_NIGHTS:]


@dataclass(frozen=True)
class Found:
    """What was found in a scores table, and the bundle to judge it by."""

    uri: str
    ensemble: str
    bundle: Bundle
    scored: Sequence[Part]
    rejected: Sequence[Part]
    total: Tally
    standing: pa.Table
    """:func:`ray_asd.reporting.tally.standing` rejections."""

    @cached_property
    def machines(self) -> list[Machine]:
        """Every section, those of most alarms first."""
        return summary.machines(self.total, self.bundle, self.ensemble)

    @cached_property
    def attention(self) -> list[Unit]:
        """The machines that need attention, most urgent first."""
        return summary.attention(self.total, self.machines, self._rate, last_night=self._last_night)

    @cached_property
    def judged(self) -> metrics.Evaluation | None:
        """The official figures, where there are labels."""
        return summary.judged(self.total, self._rate)

    @cached_property
    def warnings(self) -> list[str]:
        """What a person should know before they believe any of it."""
        said = []
        origins = self.total.origins.to_pylist()
        unknown = {(row["machine_type"], row["section"]) for row in origins}
        unknown -= set(self.bundle.sections)
        if unknown:
            said.append(
                f"the bundle {self.bundle.bundle_id} does not hold {len(unknown)} of the sections "
                f"that were scored ({' '.join(min(unknown))} first): nothing to compare them with"
            )
        foreign = summary.foreign(self.total.origins, self.bundle)
        clips = sum(row["clips"] for rows in foreign.values() for row in rows)
        if clips:
            ids = sorted({row["bundle_id"] for rows in foreign.values() for row in rows})
            said.append(
                f"{clips:,} clips were scored with another bundle ({', '.join(ids)}) than "
                f"{self.bundle.bundle_id}, whose reference normals and thresholds are shown"
            )
        if self.total.not_finite:
            said.append(f"{self.total.not_finite:,} scores are no numbers, and left out")
        return said

    def clips(self) -> Iterator[Clip]:
        """The most anomalous clips; their recordings are read one by one, and no others."""
        top = self.total.top
        places = list(zip(top["part"].to_pylist(), top["row"].to_pylist(), strict=True))
        rows = parts.take(self.scored, "scores", places)
        thresholds = {
            (m.machine_type, m.section): m.reference.threshold for m in self.machines if m.reference
        }
        listener = Listener(self.bundle.recipe)
        for number, (row, group) in enumerate(zip(rows, self._groups(), strict=True)):
            threshold = thresholds.get((row["machine_type"], row["section"]))
            heard, nearest = _pair(number, row, listener, threshold)
            yield Clip(number + 1, row, group, heard, nearest)

    def to_map(self) -> dict[Key, list[dict[str, Any]]]:
        """Rows of the labelled clips that a map of embeddings is drawn of, by section."""
        if self.judged is None or self.total.labelled is None:
            return {}
        keys = [(m.machine_type, m.section) for m in self.machines]
        known = [key for key in keys if key in self.bundle.sections]
        places = maps.chosen(self.total.labelled, known)
        return {key: parts.take(self.scored, "scores", own) for key, own in places.items()}

    def said(self, clips: Sequence[Clip], mapped: Mapping[Key, Map]) -> dict[str, Any]:
        """What ``template.html.jinja`` names, but for the clips themselves."""
        runs, runs_more = _runs(self.uri)
        recipe, machines = self.bundle.recipe, self.machines
        return {
            "title": f"ray-asd report of {store.name(self.uri) or self.uri}",
            "about": self._about(),
            "warnings": self.warnings,
            "attention": self.attention[:_MOST_UNITS],
            "attention_more": max(len(self.attention) - _MOST_UNITS, 0),
            "units": self._units(),
            "false_alarm_rate": self._rate,
            "facts": self._facts(runs),
            "last_night": self._last_night,
            "machines": machines[:_MOST_ROWS],
            "machines_more": max(len(machines) - _MOST_ROWS, 0),
            "machine_warnings": self._machine_warnings(),
            **self._charts(),
            "shown": len(clips),
            "clips_in_all": f"{sum(m.alarms.clips for m in machines):,}",
            "grouped": any(clip.group for clip in clips),
            "group_notes": self._group_notes(),
            "per_asset": tally.PER_ASSET,
            "alarms_times": summary.ALARMS_TIMES,
            "few_clips": summary.FEW_CLIPS,
            "far_times": summary.FAR_TIMES,
            "machine_types": sorted({clip.row["machine_type"] for clip in clips}),
            "heard_to_khz": 0.46e-3 * recipe.front_end.sample_rate_hz,
            "segment_s": recipe.clips.segment_s,
            "judged": self.judged,
            **self._judged_charts(),
            "maps": [
                (" ".join(key), [charts.embeddings(f"map {place}", drawn)])
                for place, (key, drawn) in enumerate(mapped.items())
            ],
            "first_backbone": next(iter(recipe.upstream.backbones)),
            "rejections": _by_reason(self.standing),
            "rejected_rows": self._newest_rejections(),
            "runs": runs,
            "runs_more": runs_more,
            "closing": self._closing(),
        }

    @property
    def _rate(self) -> float:
        return self.bundle.recipe.false_alarm_rate

    @property
    def _last_night(self) -> str | None:
        """The newest night; None where there is one only."""
        nights = nights_of(self.scored)
        return nights[-1] if len(nights) > 1 else None

    def _about(self) -> str:
        nights = nights_of(self.scored)
        told = f"{len(nights)} nights, {nights[0]} to {nights[-1]}"
        return (
            f"{self.uri}; {nights[0] if len(nights) == 1 else told}; ensemble {self.ensemble}; "
            f"bundle {self.bundle.bundle_id}; written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        )

    def _units(self) -> str:
        units = self.total.units
        return f"{len(self.machines) if units is None else units.num_rows:,} machines"

    def _facts(self, runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
        machines = self.machines
        clips, above = (sum(getattr(m.alarms, n) for m in machines) for n in ("clips", "above"))
        facts = [
            ("clips scored", f"{clips:,}"),
            ("above the threshold", f"{above:,} ({above / clips:.1%})"),
            ("audio hours", f"{sum(m.seconds for m in machines) / 3600:,.2f}"),
            ("machine types", f"{len({m.machine_type for m in machines}):,}"),
            ("sections", f"{len(machines):,}"),
            ("rejected", f"{self.standing.num_rows:,}"),
        ]
        if runs and runs[0].get("audio_hours_per_hour"):
            speed = runs[0]["audio_hours_per_hour"]
            facts.append(("speed of the last run", f"{speed:,.0f} × real time"))
        return facts

    def _machine_warnings(self) -> dict[str, str]:
        """Why scores can be trusted less, and of which sections."""
        found: dict[str, list[str]] = {}
        for machine in self.machines:
            for warning in machine.warnings:
                found.setdefault(warning, []).append(f"{machine.machine_type} {machine.section}")
        return {warning: _some(names) for warning, names in found.items()}

    def _charts(self) -> dict[str, Any]:
        drawn = []
        for place, machine in enumerate(self.machines[:_MOST_CHARTS]):
            reference = machine.reference
            svgs = [charts.distribution(f"distribution {place}", machine.counts, reference)]
            if self._last_night:
                svgs.append(charts.trend(f"trend {place}", machine.nights, self._rate))
            drawn.append((machine, svgs))
        return {"charts": drawn, "charts_more": len(self.machines) - len(drawn)}

    def _judged_charts(self) -> dict[str, Any]:
        """ROC curves and histograms of the sections that have labels."""
        if self.judged is None or self.total.labelled is None:
            return {"judged_charts": [], "judged_charts_more": 0}
        rows, by_type = summary.labelled_rows(self.total.labelled), self.judged.machines
        labelled = [m for m in self.machines if m.section in by_type.get(m.machine_type, {})]
        drawn = []
        for place, machine in enumerate(labelled[:_MOST_CHARTS]):
            own = rows.select(
                (rows.machine_type == machine.machine_type) & (rows.section == machine.section)
            )
            threshold = machine.reference.threshold if machine.reference else None
            svgs = [
                charts.kinds(f"kinds {place}", machine.by_kind, threshold),
                charts.curves(f"curves {place}", own),
            ]
            drawn.append((f"{machine.machine_type} {machine.section}", svgs))
        return {"judged_charts": drawn, "judged_charts_more": len(labelled) - len(drawn)}

    def _groups(self) -> list[str]:
        """What each shown clip stands under; nothing where no asset is named among them."""
        units = self.total.top.select(_UNIT).to_pylist()
        named = any(unit["asset"] is not None for unit in units)
        return [_asset(unit) if named else "" for unit in units]

    def _group_notes(self) -> dict[str, str]:
        """Of each asset of which clips are shown: how many clips it has."""
        if self.total.units is None:
            return {}
        shown = set(self._groups())
        return {
            name: f"{unit['above']:,} of {unit['clips']:,} clips above the threshold"
            for unit in self.total.units.to_pylist()
            if (name := _asset(unit)) in shown
        }

    def _newest_rejections(self) -> list[Any]:
        if not self.standing.num_rows:
            return []
        order = [("night", "descending"), ("run_id", "descending"), ("part", "ascending")]
        newest = self.standing.sort_by(order).slice(0, _MOST_REJECTED)
        places = list(zip(newest["part"].to_pylist(), newest["row"].to_pylist(), strict=True))
        return parts.take(self.rejected, "rejections", places)

    def _closing(self) -> str:
        """What the page could show, and does not."""
        said = []
        if self.total.units is None:
            said.append(
                f"The layout names more than {tally.MOST_ASSETS:,} assets: their sections stand "
                "for them."
            )
        if self.total.labelled is None:
            said.append(
                f"More than {tally.MOST_LABELLED:,} clips are labelled: `ray-asd evaluate` "
                "computes their figures."
            )
        return " ".join(said)


def _pair(
    number: int, row: dict[str, Any], listener: Listener, threshold: float | None
) -> tuple[View, View]:
    """A clip and the normal one that comes nearest: at one loudness, in one range of colours."""
    recipe = listener.recipe
    wanted = [
        (row["uri"], row["start_s"], row["duration_s"], row["fingerprint"]),
        (row["nearest_uri"], row["nearest_start_s"], None, None),
    ]
    heard: list[Sound | Missing] = []
    for one in wanted:
        try:
            heard.append(listener(*one))
        except Missing as missing:
            heard.append(missing)
    sounds = [sound for sound in heard if isinstance(sound, Sound)]
    urls = iter(players(sounds, recipe.front_end.sample_rate_hz))
    strip = (row["segment_scores"], row["segment_starts_s"], recipe.clips.segment_s)
    views = []
    for place, (sound, (uri, start_s, *_)) in enumerate(zip(heard, wanted, strict=True)):
        if isinstance(sound, Missing):
            views.append(View(uri, start_s, missing=str(sound)))
            continue
        picture = charts.spectrogram(
            f"clip {number} {place}",
            sound.picture,
            sound.duration_s,
            recipe.front_end,
            charts.limits([sound.picture for sound in sounds]),
            segments=None if place else strip,
            threshold=threshold,
        )
        views.append(View(uri, start_s, picture, next(urls)))
    return views[0], views[1]


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_UNITS
    return ", ".join(names[:_MOST_UNITS]) + (f" and {more:,} more" if more > 0 else "")


def _asset(unit: dict[str, Any]) -> str:
    """An asset's name; its section's where the layout names none."""
    named = [f"{unit['machine_type']} {unit['section']}"]
    if unit["asset"] is not None:
        named += [unit["site"], unit["asset"]]
    return " · ".join(name for name in named if name is not None)


def _by_reason(standing: pa.Table) -> list[tuple[str, int, str]]:
    """Each reason, how many clips, and of which machine types; the most frequent first."""
    counted: dict[str, Counter[str]] = {}
    if standing.num_rows:
        columns = (standing[name].to_pylist() for name in ("reason", "machine_type"))
        for reason, machine_type in zip(*columns, strict=True):
            counted.setdefault(reason, Counter())[machine_type] += 1
    told = [
        (reason, by.total(), _some([f"{name} {n:,}" for name, n in by.most_common()]))
        for reason, by in counted.items()
    ]
    return sorted(told, key=lambda one: -one[1])


def _runs(uri: str) -> tuple[list[dict[str, Any]], int]:
    """What the newest runs wrote down, the newest first, and how many more there are."""
    folder = store.join(uri, "runs")
    if not store.is_folder(folder):
        return [], 0
    names = [entry.relative for entry in store.list_files(folder)]
    # They begin with the time at which the run began.
    ids = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))[::-1]
    found = []
    for run_id in ids[:_MOST_RUNS]:
        run = scores.read_run(uri, run_id) or {}
        found.append({"bundle_id": "–", **run, "run_id": run_id})
    return found, max(len(ids) - _MOST_RUNS, 0)
