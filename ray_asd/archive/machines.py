"""The machines of the synthetic fleet: how each sounds, and how when something is wrong.

A machine's ``sound`` takes the condition that the file name tells (its attributes) and a
severity: 0 is healthy, 1 a fault that anyone hears. A fault adds to the sound along the lines
that the machine itself draws (orders of its shaft, its own impacts), not loudness.

The physics is textbook: blade-pass tones and imbalance, gear mesh with sidebands, after
R. B. Randall, Vibration-based Condition Monitoring, chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ray_asd.archive.synthesis import (
    RATE_HZ,
    Series,
    Signal,
    Stage,
    crossings,
    impacts,
    one_turn,
    turned,
    unit,
)

Condition = Mapping[str, str]


class Machine(Protocol):
    """One kind of machine, and the conditions that it is recorded under in each domain."""

    source: Sequence[Condition]
    target: Sequence[Condition]

    def sound(self, stage: Stage, condition: Condition, severity: float) -> Signal:
        """The machine alone, without room and background: (samples,)."""


class Fan:
    """Blades pass a strut (orders of the blade number) in broadband flow noise.

    Wrong: imbalance (orders 1 and 2, and all else swelling once a turn), or a blade bent out of
    its place and weakened (every order of the shaft appears between the blade-pass tones).
    """

    source: Sequence[Condition] = tuple(
        {"mdl": m, "spd": s} for m in ("A", "B") for s in ("2400", "2700", "3000")
    )
    target: Sequence[Condition] = tuple(
        {"mdl": m, "spd": s} for m in ("A", "B") for s in ("2400", "3000")
    )
    _BLADES: Mapping[str, int] = {"A": 5, "B": 7}

    def sound(self, stage: Stage, condition: Condition, severity: float) -> Signal:
        """See :class:`Machine`."""
        rng, blades = stage.rng, self._BLADES[condition["mdl"]]
        angle = stage.angle(float(condition["spd"]) / 60 * stage.db(0.05))
        bent, imbalance = severity * rng.multinomial(1, [0.5, 0.5])
        weight = 1 + rng.normal(0, 0.02, blades)
        place = np.arange(blades) / blades
        weight[0] -= bent
        place[0] += 0.3 * bent / blades
        orders = np.arange(1, 120)
        passing = np.exp(-2j * np.pi * orders[:, None] * place) @ weight
        tones = passing * np.exp(-orders / (2.2 * blades)) * stage.db(1.5)
        tones[:2] += np.array([3.0, 1.5]) * imbalance * blades
        shape = one_turn(orders, tones * np.exp(2j * np.pi * rng.random(len(orders))))
        swell = one_turn(np.array([1]), np.array([0.7 * imbalance], dtype=complex))
        gusts = one_turn(np.array([blades]), np.array([0.25], dtype=complex))
        flow = stage.noise([50, 400, 2000, 8000], [-6, 0, -9, -26]) * (1 + turned(gusts, angle))
        passing_blades = unit(turned(shape, angle)) * np.float32(stage.db(1.5, -1))
        return (passing_blades + flow) * (1 + turned(swell, angle))


class Gearbox:
    """Teeth meet (mesh tones) on two shafts whose turns stand around them as sidebands.

    Wrong: a chipped tooth on the slow gear (once a turn of it the mesh falters, and the blow
    rings in the housing), or a bent pinion shaft (its sidebands grow and spread).
    """

    source: Sequence[Condition] = tuple(
        {"volt": v, "wt": w} for v in ("1.0", "1.5", "2.0") for w in ("0", "100")
    )
    target: Sequence[Condition] = tuple({"volt": v, "wt": "100"} for v in ("1.5", "1.75"))
    _PINION, _GEAR = 19, 151

    def sound(self, stage: Stage, condition: Condition, severity: float) -> Signal:
        """See :class:`Machine`."""
        rng, load = stage.rng, float(condition["wt"]) / 100
        chipped, bent = severity * rng.multinomial(1, [0.5, 0.5])
        fast = stage.angle((14 + 14 * float(condition["volt"])) * stage.db(0.05))
        slow = fast * (self._PINION / self._GEAR)
        mesh = np.arange(1, 9)
        level = np.exp(-(mesh - 1) / (2.0 + 1.5 * load)) * 10 ** (rng.normal(0, 1.5, 8) / 20)
        orders, values = [], []
        sidebands = (0.12 + 0.3 * load + 0.9 * bent, 0.05 + 0.15 * load + 0.8 * bent, 0.6 * bent)
        shares = (*sidebands[::-1], 1.0, *sidebands)
        for side, share in zip(range(-3, 4), shares, strict=True):
            orders.append(self._PINION * mesh + side)
            values.append(level * share * np.exp(2j * np.pi * rng.random(8)))
        teeth = turned(one_turn(np.concatenate(orders), np.concatenate(values)), fast)
        swell = 1 + (0.05 + 0.3 * load) * np.cos(2 * np.pi * slow)
        falter = chipped * np.exp(-0.5 * ((slow % 1 - 0.5) / 0.08) ** 2)
        sound = unit(teeth * (swell * (1 - falter)).astype(np.float32))
        at = crossings(slow + 0.5)
        blows = impacts(
            stage,
            at,
            4 * chipped * rng.lognormal(0, 0.25, len(at)),
            rng.uniform(1800, 3200),
            0.006,
        )
        return sound + blows + 0.35 * stage.noise([50, 600, 8000], [0, 0, -18])


class Valve:
    """A solenoid opens and closes in a pattern: two clicks, and between them coil hum and flow.

    Wrong: it sticks (misses strokes, closes late and softly), or leaks (flow goes on hissing
    while closed).
    """

    source: Sequence[Condition] = tuple(
        {"pat": p, "bar": b} for p in ("00", "01", "02") for b in ("2", "6")
    )
    target: Sequence[Condition] = tuple({"pat": p, "bar": "6"} for p in ("00", "02"))
    _PATTERNS: Mapping[str, tuple[float, ...]] = {
        "00": (0.20, 0.30),
        "01": (0.10, 0.15, 0.10, 0.55),
        "02": (0.45, 0.35),
        "03": (0.15, 0.20, 0.35, 0.30),
        "04": (0.25, 0.95),
    }

    def sound(self, stage: Stage, condition: Condition, severity: float) -> Signal:
        """See :class:`Machine`."""
        rng = stage.rng
        leaking, sticking = severity * rng.multinomial(1, [0.5, 0.5])
        pattern = np.array(self._PATTERNS[condition["pat"]]) * stage.db(0.1)
        cycles = int(stage.duration_s / pattern.sum()) + 2
        edges = np.concatenate([[0], np.cumsum(np.tile(pattern, cycles))[:-1]])
        edges += rng.normal(0, 0.002, len(edges)) - rng.random() * pattern.sum()
        strokes = edges.reshape(-1, 2)
        late = np.abs(rng.normal(0.12, 0.06, len(strokes))) * sticking
        strokes[:, 1] += np.minimum(late, 0.8 * pattern[1::2].min())
        opening, closing = strokes[rng.random(len(strokes)) >= 0.6 * sticking].T
        force = rng.lognormal(0, 0.12, (2, len(opening)))
        hz = rng.normal(1.0, 0.03)
        clicks = impacts(stage, opening, 6 * force[0], 1900 * hz, 0.007)
        clicks += impacts(stage, opening, 3 * force[0], 4300 * hz, 0.004)
        clicks += impacts(stage, closing, 4 * (1 - 0.7 * sticking) * force[1], 1200 * hz, 0.011)
        gate = _gate(stage, opening, closing)
        hum = np.sin(2 * np.pi * 100 * np.arange(stage.samples) / RATE_HZ).astype(np.float32)
        flow = stage.noise([50, 2500, 5000, 8000], [-30, -4, 0, -8]) * np.float32(stage.db(1.0))
        flow *= np.float32(0.12 * float(condition["bar"]))
        return clicks + gate * (0.3 * hum + flow) + np.float32(0.9 * leaking) * flow


class Slider:
    """A carriage runs to and fro: friction that rises with speed, and the screw's turning tone.

    Wrong: a scored spot on the rail scrapes whenever the carriage passes it.
    """

    source: Sequence[Condition] = tuple(
        {"vel": v, "ac": a} for v in ("300", "400", "500") for a in ("0.05", "0.10")
    )
    target: Sequence[Condition] = tuple({"vel": v, "ac": "0.05"} for v in ("400", "450"))
    _STROKE_MM, _LEAD_MM, _BALLS = 240.0, 10.0, 7

    def sound(self, stage: Stage, condition: Condition, severity: float) -> Signal:
        """See :class:`Machine`."""
        rng, top = stage.rng, float(condition["vel"]) * stage.db(0.05)
        ramp_s = float(condition["ac"]) * 2
        run_s = self._STROKE_MM / top + ramp_s  # a trapezoid of speed has this area
        begin = rng.integers(int(2 * run_s * RATE_HZ))
        since = np.arange(begin + stage.samples) / RATE_HZ % run_s
        speed = np.clip(np.minimum(since, run_s - since) / ramp_s, 0, 1) * top
        way = (np.cumsum(speed) / RATE_HZ)[begin:]
        since, speed = since[begin:], speed[begin:]
        orders = self._BALLS * np.arange(1, 9)
        phases = np.exp(2j * np.pi * rng.random(8))
        screw = turned(one_turn(orders, phases / np.arange(1, 9) ** 0.7), way / self._LEAD_MM)
        share = (speed / 600).astype(np.float32)
        low = stage.noise([50, 300, 900, 8000], [-10, 0, -4, -30])
        high = stage.noise([50, 1200, 3000, 8000], [-40, -8, 0, -10])
        friction = np.sqrt(share) * low * np.float32(stage.db(1.0)) + share**1.5 * high * 0.8
        there_and_back = np.abs(way % (2 * self._STROKE_MM) - self._STROKE_MM)
        scored = np.exp(-0.5 * ((there_and_back - rng.uniform(60, 180)) / 8) ** 2)
        grip = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * rng.uniform(70, 130) * since))
        scrape = stage.noise([50, 1500, 2600, 4200, 8000], [-40, -12, 0, -3, -25])
        scrape = scrape * (5 * severity * scored * grip).astype(np.float32)
        sound: Signal = friction + 0.5 * share * screw + scrape
        return sound


def _gate(stage: Stage, opening: Series, closing: Series) -> Signal:
    """1 while the valve is open, 0 while it is closed: (samples,)."""
    steps = np.zeros(stage.samples + 1, dtype=np.float32)
    for edges, step in ((opening, 1), (closing, -1)):
        np.add.at(steps, np.clip((edges * RATE_HZ).astype(np.int64), 0, stage.samples), step)
    gate: Signal = np.cumsum(steps[:-1])
    return gate


MACHINES: Mapping[str, Machine] = {
    "fan": Fan(),
    "gearbox": Gearbox(),
    "slider": Slider(),
    "valve": Valve(),
}
