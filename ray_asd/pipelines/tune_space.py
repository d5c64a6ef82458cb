"""What a sweep tries: a space of settings, and its trials. Light: imports neither ray nor torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from ray_asd.errors import BadInput
from ray_asd.recipe import AnyDetector, Name, Recipe, Reference, Settings, Share

Values = Annotated[list[Any], Field(min_length=1)]
Point = dict[str, Any]
"""One value of each axis."""


class Trial(Settings):
    """One detector's setting on one backbone, the same for all machine types and sections.

    There is no place in it for a machine type: a sweep that picked a setting per machine type
    would break the first-shot rule.
    """

    run: str
    """URI of the upstream run."""
    backbone: str
    reference: Reference
    pseudo_normals: int
    detector: AnyDetector

    @property
    def group(self) -> tuple[str, str, int]:
        """What all members of one bundle share: upstream run, reference set, pseudo-normals."""
        return self.run, self.reference, self.pseudo_normals

    @property
    def name(self) -> str:
        """A name for the detector; several may share it that differ in rarer settings."""
        own = self.detector
        pool = [own.pool] if own.per == "segment" else []
        return "-".join([own.kind, str(own.size), own.per, *pool])

    def recipe(self, base: Recipe) -> Recipe:
        """``base`` with this trial's reference set and pseudo-normals."""
        changed = {"reference": self.reference, "pseudo_normals": self.pseudo_normals}
        return base.model_copy(update={"downstream": base.downstream.model_copy(update=changed)})


class Space(Settings):
    """The values to try of each setting; an empty list stands for the recipe's own value."""

    detectors: Annotated[list[Name], Field(min_length=1)]
    aggregations: Annotated[
        list[Literal["clip", "segment/mean", "segment/max"]], Field(min_length=1)
    ]
    references: list[Reference]
    pseudo_normals: list[Annotated[int, Field(ge=0)]]
    settings: dict[Name, Values]
    only: dict[Name, dict[Name, Values]]
    pseudo_anomaly_share: Share
    fewest_normals: Annotated[int, Field(ge=2)]
    """Normal clips below which a section does not count in the label-free objective."""

    def axes(self, runs: dict[str, Recipe]) -> dict[str, list[Any]]:
        """The values of each axis; ``runs`` are upstream runs and the recipe of each.

        Raises:
            BadInput: a detector that a recipe lacks.
        """
        for run, recipe in runs.items():
            for name in {*self.detectors, *self.only} - {*recipe.downstream.detectors}:
                raise BadInput(
                    f"the space names the detector {name}; the recipe of {run} has "
                    f"{', '.join(recipe.downstream.detectors)}"
                )
        first = next(iter(runs.values())).downstream
        return {
            "encoder": list(_encoders(runs)),
            "detector": list(self.detectors),
            "aggregation": list(self.aggregations),
            "reference": list(self.references) or [first.reference],
            "pseudo_normals": list(self.pseudo_normals) or [first.pseudo_normals],
            **self.settings,
            **{
                f"{detector}.{name}": values
                for detector, own in self.only.items()
                for name, values in own.items()
            },
        }

    def mixing(self, runs: dict[str, Recipe]) -> dict[str, Recipe]:
        """By run, the recipe by which it mixes waveforms; its own where it mixes embeddings.

        Waveforms are mixed once, before the trials, and so of one choice of clips and in one
        number; a trial without mixes, or of one domain alone, leaves them out.

        Raises:
            BadInput: the space asks for more.
        """
        axes = self.axes(runs)
        references = {one for one in axes["reference"] if one in ("all", "held_out")}
        counts = {count for count in axes["pseudo_normals"] if count}
        asked = {
            "reference": next(iter(references), axes["reference"][0]),
            "pseudo_normals": next(iter(counts), 0),
        }
        found = dict(runs)
        for run, own in runs.items():
            if own.downstream.pseudo_normal_space != "waveform":
                continue
            if len(references) > 1 or len(counts) > 1:
                raise BadInput(
                    f"the space: {run} mixes waveforms (downstream.pseudo_normal_space); name one "
                    "of the references all and held_out, and one number of pseudo_normals beside 0"
                )
            down = own.downstream.model_copy(update=asked)
            found[run] = own.model_copy(update={"downstream": down})
        return found

    def trial(self, point: Point, runs: dict[str, Recipe]) -> Trial:
        """The trial at one point of the axes.

        Raises:
            BadInput: a setting that the detector does not have, or a value that it refuses.
        """
        run, backbone = _encoders(runs)[point["encoder"]]
        recipe, name = runs[run], point["detector"]
        per, _, pool = point["aggregation"].partition("/")
        changed = {"per": per, **({"pool": pool} if pool else {})}
        changed |= {setting: point[setting] for setting in self.settings}
        changed |= {s: point[f"{name}.{s}"] for s in self.only.get(name, {})}
        base = recipe.downstream.detectors[name]
        try:
            return Trial.model_validate(
                {
                    "run": run,
                    "backbone": backbone,
                    "reference": point["reference"],
                    "pseudo_normals": point["pseudo_normals"],
                    "detector": {**base.model_dump(), **changed},
                }
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            raise BadInput(f"the space, detector {name}: {place}: {first['msg']}") from None

    def points(self, runs: dict[str, Recipe]) -> Iterator[Point]:
        """Every point of the axes."""
        axes = self.axes(runs)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))

    def grid(self, runs: dict[str, Recipe]) -> list[Trial]:
        """Every trial of the space, each once, though several points may stand for it."""
        trials = (self.trial(point, runs) for point in self.points(runs))
        return list({trial.digest(): trial for trial in trials}.values())


def _encoders(runs: dict[str, Recipe]) -> dict[str, tuple[str, str]]:
    """Upstream run and backbone of each trained encoder by a name for both."""
    return {f"{b} of {run}": (run, b) for run, own in runs.items() for b in own.upstream.backbones}


def load(name_or_file: str) -> Space:
    """A shipped space by name, or a YAML file.

    Raises:
        BadInput: no such space, not YAML, an unknown, missing or wrong setting.
    """
    folder = resources.files("ray_asd") / "spaces"
    shipped = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
    file = folder / f"{name_or_file}.yaml" if name_or_file in shipped else Path(name_or_file)
    if not file.is_file():
        raise BadInput(
            f"space {name_or_file}: no such file, nor one of the shipped ({', '.join(shipped)})"
        )
    try:
        return Space.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"space {name_or_file}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the space"
        raise BadInput(f"space {name_or_file}: {place}: {first['msg']}") from None
