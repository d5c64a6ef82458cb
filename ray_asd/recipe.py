"""Every setting of one system, as frozen models; YAML in and out.

The models carry no defaults: the numbers stand in ``recipes/first_shot.yaml`` and nowhere else.
What alone may be left out is a backbone's ``front_end``: its changes to the recipe's.
A recipe that names another in ``extends`` says only what it changes. A bundle holds the recipe
it was fitted with, whole, so that every score can be traced to it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from ray_asd.errors import BadInput

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Settings(BaseModel):
    """A part of a recipe: frozen, and without room for a key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """16 hexadecimal digits that change with any of these settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _count_or_bins(value: Any) -> Any:
    # A union of types would name both of its branches in an error's place.
    if value == "bins" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("a number of mel bands greater than 0, or bins")


def _front_end_changes(value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if key not in FrontEnd.model_fields:
            raise ValueError(f"no setting {key}; {_nearest(key, list(FrontEnd.model_fields))}")
    return value


class FrontEnd(Settings):
    """How a waveform becomes a spectrogram, by mel bands or by the STFT's own bins."""

    sample_rate_hz: Positive
    n_fft: Positive
    hop: Positive
    mels: Annotated[int | Literal["bins"], BeforeValidator(_count_or_bins)]
    low_hz: Annotated[float, Field(ge=0)]
    high_hz: Annotated[float, Field(gt=0)]
    scale: Literal["log", "linear"]
    floor: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _bands_lie_below_nyquist(self) -> FrontEnd:
        if not self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise ValueError("low_hz < high_hz <= sample_rate_hz / 2 must hold")
        if not self.bands:
            raise ValueError("no bin of the STFT lies from low_hz to high_hz")
        return self

    @property
    def bands(self) -> int:
        """Bands of a spectrogram."""
        return self.mels if isinstance(self.mels, int) else len(self.bins)

    @property
    def bins(self) -> range:
        """Numbers of the STFT's bins that lie from ``low_hz`` to ``high_hz``."""
        spacing_hz = self.sample_rate_hz / self.n_fft
        return range(math.ceil(self.low_hz / spacing_hz), int(self.high_hz / spacing_hz) + 1)


class Clips(Settings):
    """How a recording is cut into clips, and a clip into segments."""

    segment_s: Annotated[float, Field(gt=0)]
    segments: Positive
    longest_s: Annotated[float, Field(gt=0)]
    cut_s: Annotated[float, Field(gt=0)]
    longest_recording_s: Annotated[float, Field(gt=0)]
    largest_file_bytes: Positive

    @model_validator(mode="after")
    def _a_clip_holds_a_segment(self) -> Clips:
        if not self.segment_s <= self.cut_s <= self.longest_s <= self.longest_recording_s:
            raise ValueError("segment_s <= cut_s <= longest_s <= longest_recording_s must hold")
        return self


class Backbone(Settings):
    """One backbone: what every kind has in common. Each kind adds its own in a subclass."""

    trained: ClassVar[bool] = True
    """whether it has weights that training finds"""

    kind: str
    front_end: Annotated[
        dict[str, Any] | None,
        BeforeValidator(_front_end_changes),
        Field(exclude_if=lambda changes: changes is None),
    ] = None
    """what it hears otherwise than the recipe's front end says; see :meth:`Recipe.front_end_of`"""

    @property
    def stays_frozen(self) -> bool:
        """Whether it keeps its first weights, to compare with; kinds that can say ``frozen``."""
        return bool(getattr(self, "frozen", False))

    def embedding_width(self, embedding: int, mels: int) -> int:
        """Length of its embeddings, by ``upstream.embedding`` and the bands of a segment."""
        return embedding


class EfficientNet(Backbone):
    """A timm EfficientNet-B0 over the segment as a one-channel image."""

    kind: Literal["efficientnet_b0"]
    pretrained: bool
    frozen: bool


class Transformer(Backbone):
    """A Transformer encoder over the segment's mel frames."""

    kind: Literal["transformer"]
    frozen: bool
    width: Positive
    layers: Positive
    heads: Positive
    feed_forward: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        return self


class Statistics(Backbone):
    """Mean and standard deviation of each band over the segment's frames; not trained."""

    trained: ClassVar[bool] = False

    kind: Literal["statistics"]

    def embedding_width(self, embedding: int, mels: int) -> int:
        """Two values a band."""
        return 2 * mels


BACKBONES: dict[str, type[Backbone]] = {
    "efficientnet_b0": EfficientNet,
    "statistics": Statistics,
    "transformer": Transformer,
}
"""Settings model of each kind of backbone; ``ray_asd.upstream.register`` adds to it."""


class CrossEntropy(Settings):
    """Cross-entropy of both heads: the weight of each in their sum."""

    kind: Literal["cross_entropy"]
    machine_type: Annotated[float, Field(ge=0)]
    attributes: Annotated[float, Field(ge=0)]


class AdaCos(Settings):
    """Sub-cluster AdaCos at its fixed scale, on the joint label; centres are trained."""

    kind: Literal["adacos"]
    sub_clusters: Positive


class Masking(Settings):
    """Bands of frames and of mels that a training crop is robbed of (SpecAugment)."""

    enabled: bool
    time_bands: Annotated[int, Field(ge=0)]
    widest_time_s: Annotated[float, Field(ge=0)]
    mel_bands: Annotated[int, Field(ge=0)]
    widest_mels: Annotated[int, Field(ge=0)]


class Mixup(Settings):
    """Mixing of a normal clip with one of another machine type."""

    enabled: bool
    alpha: Annotated[float, Field(gt=0)]


def _of_its_kind(value: Any, known: dict[str, Any], what: str) -> Any:
    if not isinstance(value, dict) or "kind" not in value:
        return value
    model = known.get(str(value["kind"]))
    if model is None:
        raise ValueError(
            f"no {what} of the kind {value['kind']}; there are {', '.join(sorted(known))}"
        )
    return model.model_validate(value)


def _backbone_of_its_kind(value: Any) -> Any:
    return _of_its_kind(value, BACKBONES, "backbone")


class Upstream(Settings):
    """The backbones and how they are trained."""

    embedding: Positive
    backbones: Annotated[
        # A union would be closed: a kind that another package registers has its place here too.
        dict[Name, Annotated[SerializeAsAny[Backbone], BeforeValidator(_backbone_of_its_kind)]],
        Field(min_length=1),
    ]
    loss: Annotated[CrossEntropy | AdaCos, Field(discriminator="kind")]
    mixup: Mixup
    masking: Masking
    batch: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)]
    checkpoint_epochs: Positive
    checkpoints_kept: Positive


class Detector(Settings):
    """One detector: what every kind has in common. Each kind adds its own in a subclass."""

    kind: str
    size: Positive
    metric: Literal["cosine", "euclidean"]
    per: Literal["clip", "segment"]
    pool: Literal["mean", "max"]
    source_centroids: Annotated[int, Field(ge=0)]
    domain_wise: bool


class Knn(Detector):
    """Mean distance to the ``size`` nearest reference points."""

    kind: Literal["knn"]
    density_neighbours: Annotated[int, Field(ge=0)]


class Lof(Detector):
    """Local outlier factor over ``size`` neighbours."""

    kind: Literal["lof"]


class Gmm(Detector):
    """Negative log-likelihood under a mixture of ``size`` Gaussians."""

    kind: Literal["gmm"]
    starts: Positive
    regularization: Annotated[float, Field(gt=0)]


DETECTORS: dict[str, type[Detector]] = {"gmm": Gmm, "knn": Knn, "lof": Lof}
"""Settings model of each kind of detector; ``ray_asd.downstream.register`` adds to it."""


def _detector_of_its_kind(value: Any) -> Any:
    return _of_its_kind(value, DETECTORS, "detector")


# A union would be closed: a kind that another package registers has its place here too.
AnyDetector = Annotated[SerializeAsAny[Detector], BeforeValidator(_detector_of_its_kind)]
"""A detector's settings, in the model of its kind."""

Reference = Literal["all", "source", "target", "held_out"]


class Downstream(Settings):
    """The detectors and what they are fitted on."""

    precision: Literal["fp32", "bf16"]
    engine: Literal["eager", "openvino"]
    reference: Reference
    pseudo_normals: Annotated[int, Field(ge=0)]
    pseudo_normal_space: Literal["embedding", "waveform"]
    folds: Annotated[int, Field(ge=2)]
    fewest_held_out: Annotated[int, Field(ge=2)]
    detectors: Annotated[dict[Name, AnyDetector], Field(min_length=1)]

    @property
    def waveform_mixes(self) -> int:
        """Pseudo-normals per section that are mixed as waveforms."""
        return self.pseudo_normals if self.pseudo_normal_space == "waveform" else 0


class Ensemble(Settings):
    """Which members' standardized scores are combined, and how."""

    members: Literal["all"] | Annotated[list[str], Field(min_length=1)]
    combine: Literal["mean", "min", "max"]
    threshold: Literal["empirical", "gamma"]


class Recipe(Settings):
    """All of one system's settings."""

    name: Name
    seed: int
    front_end: FrontEnd
    clips: Clips
    held_out: Share
    upstream: Upstream
    downstream: Downstream
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]
    false_alarm_rate: Share

    @model_validator(mode="after")
    def _ensembles_name_members(self) -> Recipe:
        known = self.members()
        for name, ensemble in self.ensembles.items():
            for member in [] if ensemble.members == "all" else ensemble.members:
                if member not in known:
                    raise ValueError(
                        f"ensemble {name} names the member {member}; there are {', '.join(known)}"
                    )
        return self

    @model_validator(mode="after")
    def _backbones_hear_the_same_recordings(self) -> Recipe:
        rate_hz = self.front_end.sample_rate_hz
        for name, settings in self.upstream.backbones.items():
            place = ("upstream", "backbones", name, "front_end")
            own_hz = (settings.front_end or {}).get("sample_rate_hz", rate_hz)
            if own_hz != rate_hz:
                raise ValueError(
                    f"{'.'.join(place)}: sample_rate_hz {own_hz}, and that of front_end is "
                    f"{rate_hz}; a recording is decoded once, for all backbones: leave it out"
                )
            try:
                self.front_end_of(name)
            except ValidationError as error:
                raise ValueError(_explain(error, place)) from None
        for own in [self.front_end, *self.front_ends()]:
            if own.n_fft // 2 >= round(self.clips.segment_s * own.sample_rate_hz):
                raise ValueError(
                    f"n_fft {own.n_fft}: half a window is as long as clips.segment_s "
                    f"{self.clips.segment_s:g} or longer; take shorter windows"
                )
        return self

    def front_end_of(self, backbone: str) -> FrontEnd:
        """What ``backbone`` hears: the recipe's front end, with the changes that it names."""
        changes = self.upstream.backbones[backbone].front_end
        if changes is None:
            return self.front_end
        return FrontEnd.model_validate({**self.front_end.model_dump(), **changes})

    def front_ends(self, backbones: Iterable[str] | None = None) -> list[FrontEnd]:
        """The different front ends of ``backbones``, in their order; of all of them if None."""
        names = self.upstream.backbones if backbones is None else backbones
        return list(dict.fromkeys(map(self.front_end_of, names)))

    def members(self) -> list[str]:
        """Names of all members: ``backbone/detector``, backbones first in their order."""
        return [
            f"{backbone}/{detector}"
            for backbone in self.upstream.backbones
            for detector in self.downstream.detectors
        ]

    def trained_backbones(self) -> list[str]:
        """Names of the backbones that training leaves weights of, in their order."""
        return [name for name, settings in self.upstream.backbones.items() if settings.trained]

    def epochs_of(self, backbone: str) -> int:
        """Epochs that ``backbone`` is trained for; 0 where it keeps its first weights."""
        frozen = self.upstream.backbones[backbone].stays_frozen
        return 0 if frozen else self.upstream.epochs

    def embedding_width(self, backbone: str) -> int:
        """Length of the embeddings of ``backbone``."""
        settings = self.upstream.backbones[backbone]
        return settings.embedding_width(self.upstream.embedding, self.front_end_of(backbone).bands)

    def used_members(self) -> list[str]:
        """Names of the members that some ensemble names, in the order of :meth:`members`.

        Only these are fitted and run.
        """
        used = {member for name in self.ensembles for member in self.ensemble_members(name)}
        return [member for member in self.members() if member in used]

    def ensemble_members(self, name: str) -> list[str]:
        """Names of the members of the ensemble ``name``."""
        members = self.ensembles[name].members
        return self.members() if members == "all" else list(members)

    def features_digest(self, front_end: FrontEnd) -> str:
        """Digest of all that decides a features table: the front end and the cutting of clips."""
        text = front_end.digest() + self.clips.digest()
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def hearing_digest(self) -> str:
        """Digest of all that decides what the backbones hear.

        Where all of them hear the same it is :meth:`features_digest`, so that what one front end
        scored keeps its section digests.
        """
        heard = {
            name: self.features_digest(self.front_end_of(name)) for name in self.upstream.backbones
        }
        different = set(heard.values())
        if len(different) == 1:
            return different.pop()
        text = json.dumps(heard, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """This recipe, whole, as YAML that ``load`` reads back to an equal recipe."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("ray_asd") / "recipes"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(name_or_file: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Load a shipped recipe by name, or a YAML file, and apply ``key=value`` overrides.

    Args:
        name_or_file: a name from :func:`shipped`, or the path of a YAML file.
        overrides: ``dotted.key=value`` each, the value in YAML; the key must exist.

    Raises:
        BadInput: no such recipe, not YAML, an unknown or a wrong setting.

    >>> load("first_shot", ["upstream.epochs=3"]).upstream.epochs
    3
    """
    return _finish(_read(str(name_or_file), seen=()), str(name_or_file), overrides)


def parse(text: str, origin: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Make a recipe of YAML text that :meth:`Recipe.to_yaml` or a person wrote.

    Raises:
        BadInput: as :func:`load`; ``origin`` names the text in errors.
    """
    return _finish(_tree(text, origin, seen=()), origin, overrides)


def _finish(tree: dict[str, Any], origin: str, overrides: list[str] | tuple[str, ...]) -> Recipe:
    for override in overrides:
        _set(tree, override)
    return validate(tree, origin)


def validate(tree: dict[str, Any], origin: str) -> Recipe:
    """Make a recipe of a parsed tree; ``origin`` names it in errors.

    Raises:
        BadInput: an unknown, missing or wrong setting, each named in one line.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise BadInput(f"recipe {origin}: {_explain(error)}") from None


def _read(name_or_file: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name_or_file in seen:
        raise BadInput(f"recipe {name_or_file}: extends itself through {' -> '.join(seen)}")
    if name_or_file in shipped():
        text = (resources.files("ray_asd") / "recipes" / f"{name_or_file}.yaml").read_text("utf-8")
    else:
        path = Path(name_or_file)
        if not path.is_file():
            raise BadInput(
                f"recipe {name_or_file}: no such file, nor one of the shipped recipes "
                f"({', '.join(shipped())})"
            )
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"recipe {name_or_file}: cannot be read: {error}") from None
    return _tree(text, name_or_file, seen)


def _tree(text: str, origin: str, seen: tuple[str, ...]) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"recipe {origin}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"recipe {origin}: holds no settings")
    base = tree.pop("extends", None)
    return tree if base is None else _merge(_read(str(base), (*seen, origin)), tree)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it; a null removes a key, a new ``kind`` replaces all."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise BadInput(f"--set {override}: not of the form key=value")
    try:
        value = yaml.load(text, _Numbers)  # noqa: S506, a SafeLoader with one more number
    except yaml.YAMLError:
        raise BadInput(f"--set {override}: the value is not YAML") from None
    *path, last = key.split(".")
    place = tree
    for i, step in enumerate([*path, last]):
        left_out = i == len(path) and step in _keys_at(path, optional=True)
        if not isinstance(place, dict) or not (step in place or left_out):
            where = ".".join(path[:i]) or "the recipe"
            there = list(place) if isinstance(place, dict) else []
            raise BadInput(f"--set {override}: {where} has no {step}; {_nearest(step, there)}")
        if i < len(path):
            place = place[step]
    place[last] = value


class _Numbers(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a string; on a command line it is a number."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), None
)


def _nearest(word: str, there: list[str]) -> str:
    close = difflib.get_close_matches(word, there, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(there) or 'none'}"


def _explain(error: ValidationError, within: tuple[str, ...] = ()) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in (*within, *first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        *parents, key = (str(step) for step in first["loc"])
        return f"unknown setting {place}; {_nearest(key, _keys_at(parents))}{more}"
    if first["type"] == "missing":
        return f"{place} is missing; add it, or start the file with `extends: first_shot`{more}"
    message = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    # What is wrong between the parts of a recipe names its places itself.
    return f"{place}: {message[:1].lower()}{message[1:]}{value}{more}" if place else message


def _keys_at(path: list[str], optional: bool = False) -> list[str]:
    """Names of the settings at ``path``, or of those that may be left out.

    Found by following the models by their fields.
    """
    models: list[Any] = [Recipe]
    for step in path:
        following: list[Any] = []
        for model in models:
            if isinstance(model, type) and issubclass(model, BaseModel):
                if step in model.model_fields:
                    following += _models_in(model.model_fields[step].annotation)
                elif model.model_fields.get("kind"):
                    # a discriminated union puts the kind's own name into the path
                    following.append(model)
            else:
                following.append(model)
        models = following
    fields = [
        field for m in models if hasattr(m, "model_fields") for field in m.model_fields.items()
    ]
    return sorted({key for key, field in fields if not (optional and field.is_required())})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *annotation.__subclasses__()]
    return [model for part in get_args(annotation) for model in _models_in(part)]
