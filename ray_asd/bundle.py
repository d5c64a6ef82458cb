"""A trained system on disk: weights, detectors, calibration and the recipe. Nothing executes.

::

    bundle.json                  format, bundle id, library versions, the sections,
                                 and a SHA-256 of every other file and of itself without it
    recipe.yaml                  the recipe it was fitted with, whole
    backbones/<name>.safetensors
    sections/<number>.safetensors, .json
                                 of one (machine type, section): detectors' arrays and settings,
                                 calibration, and the reference clips' names and embeddings
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import numpy as safetensors

from ray_asd import recipe as recipes
from ray_asd.archive import store
from ray_asd.downstream import Detector, restore
from ray_asd.ensemble import Calibration
from ray_asd.errors import BadInput
from ray_asd.recipe import Recipe

FORMAT = 1
Arrays = dict[str, npt.NDArray[Any]]
Key = tuple[str, str]

_CHANGED = (
    "{}: its checksum differs from the bundle's; the file was changed or damaged: copy the bundle "
    "again, or fit it anew"
)


@dataclass(frozen=True)
class Neighbours:
    """The reference clips of a section, to name the nearest one.

    ``embeddings`` is ``(clips, embedding)`` float32, unit length, of the first backbone.
    """

    uris: list[str]
    starts_s: list[float]
    embeddings: npt.NDArray[np.float32]

    def nearest(self, points: npt.NDArray[Any]) -> list[tuple[str, float]]:
        """Recording and start in seconds of the clip closest in angle to each point (m, d)."""
        similarity = points.astype(np.float64) @ self.embeddings.T.astype(np.float64)
        return [(self.uris[i], self.starts_s[i]) for i in similarity.argmax(1)]


@dataclass(frozen=True)
class Section:
    """All that scores one (machine type, section)."""

    detectors: dict[str, Detector]
    calibration: Calibration
    neighbours: Neighbours
    trust: dict[str, Any] = field(default_factory=dict)
    """How far the calibration can be trusted: clips, folds, warnings."""


@dataclass(frozen=True)
class Bundle:
    """A trained system in memory."""

    recipe: Recipe
    backbones: dict[str, bytes]
    """Weights of the trained backbones, as safetensors files."""
    sections: dict[Key, Section]
    bundle_id: str = ""
    digests: dict[Key, str] = field(default_factory=dict)


def save(bundle: Bundle, uri: str) -> Bundle:
    """Write ``bundle`` under ``uri``, and return it with its id and section digests.

    ``bundle.json`` is written last: a folder without it is no bundle.
    """
    files: dict[str, bytes] = {"recipe.yaml": bundle.recipe.to_yaml().encode()}
    for name, weights in bundle.backbones.items():
        files[f"backbones/{name}.safetensors"] = weights
    shared = _digest(
        *sorted(f"{name} {_sha(weights)}" for name, weights in bundle.backbones.items()),
        *(
            f"{name} {settings.digest()}"
            for name, settings in sorted(bundle.recipe.upstream.backbones.items())
            if not settings.trained
        ),
        bundle.recipe.hearing_digest(),
        bundle.recipe.downstream.precision,
        bundle.recipe.downstream.engine,
        json.dumps(bundle.recipe.model_dump(mode="json")["ensembles"], sort_keys=True),
    )
    sections, digests = [], {}
    for number, (key, section) in enumerate(sorted(bundle.sections.items())):
        arrays, settings = _pack(section)
        stem = f"sections/{number:04d}"
        files[f"{stem}.safetensors"] = arrays
        files[f"{stem}.json"] = settings
        digests[key] = _digest(shared, *key, _sha(arrays), _sha(settings))
        sections.append(
            {"machine_type": key[0], "section": key[1], "stem": stem, "digest": digests[key]}
        )
    checksums = {name: _sha(data) for name, data in files.items()}
    bundle_id = _digest(*(f"{name} {sha}" for name, sha in sorted(checksums.items())))
    index = {
        "format": FORMAT,
        "bundle_id": bundle_id,
        "precision": bundle.recipe.downstream.precision,
        "engine": bundle.recipe.downstream.engine,
        "versions": {
            name: version(name) for name in ("ray-asd", "torch", "openvino", "scikit-learn")
        },
        "sections": sections,
        "sha256": checksums,
    }
    index["sha256_index"] = _sha(_canonical(index))
    for folder in ("", "backbones", "sections"):
        store.make_dir(store.join(uri, folder) if folder else uri)
    for name, data in files.items():
        store.write_atomic(store.join(uri, name), data)
    store.write_atomic(
        store.join(uri, "bundle.json"), (json.dumps(index, indent=2) + "\n").encode()
    )
    return Bundle(bundle.recipe, bundle.backbones, bundle.sections, bundle_id, digests)


def load(uri: str, *, weights: bool = True, sections: bool = True) -> Bundle:
    """Read the bundle under ``uri``; every file that is read is checked against its checksum.

    Args:
        uri: its folder.
        weights: whether the backbones' weights are read.
        sections: whether the sections are read; their digests always are.

    Raises:
        BadInput: no bundle there, one of another format, a missing or a changed file.
    """
    index = _index(uri)

    def checked(name: str) -> bytes:
        data = _file(uri, name)
        if _sha(data) != index["sha256"].get(name):
            raise BadInput(_CHANGED.format(f"{uri}/{name}"))
        return data

    recipe = recipes.parse(checked("recipe.yaml").decode(), f"{uri}/recipe.yaml")
    backbones = {
        name: checked(f"backbones/{name}.safetensors")
        for name in (recipe.trained_backbones() if weights else ())
    }
    found, digests = {}, {}
    for entry in index["sections"]:
        key, stem = (entry["machine_type"], entry["section"]), entry["stem"]
        digests[key] = entry["digest"]
        if sections:
            found[key] = _unpack(checked(f"{stem}.safetensors"), checked(f"{stem}.json"))
    return Bundle(recipe, backbones, found, index["bundle_id"], digests)


class Weights(NamedTuple):
    """Where a backbone's weights lie, and what they must be."""

    uri: str
    sha256: str | None = None
    """None where nothing says."""

    def read(self) -> bytes:
        """The safetensors file.

        Raises:
            BadInput: its checksum differs.
        """
        data = store.read_bytes(self.uri)
        if self.sha256 is not None and _sha(data) != self.sha256:
            raise BadInput(_CHANGED.format(self.uri))
        return data


def weights_of(uri: str) -> dict[str, Weights]:
    """The trained backbones' weights in the bundle under ``uri``, by name, yet to be read."""
    place = store.absolute(uri)
    checksums = _index(place)["sha256"]
    return {
        PurePosixPath(name).stem: Weights(store.join(place, *name.split("/")), sha256)
        for name, sha256 in checksums.items()
        if name.startswith("backbones/")
    }


def _index(uri: str) -> dict[str, Any]:
    """What ``bundle.json`` says, checked against its own checksum."""
    if not store.exists(store.join(uri, "bundle.json")):
        raise BadInput(f"{uri}: no bundle.json there; name a folder that `ray-asd fit` wrote")
    try:
        index: dict[str, Any] = json.loads(_file(uri, "bundle.json"))
        form, own = index["format"], index.pop("sha256_index")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{uri}/bundle.json: not a bundle's index; fit the bundle anew") from None
    if form != FORMAT:
        raise BadInput(f"{uri}: a bundle of format {form}; this version reads format {FORMAT}")
    if _sha(_canonical(index)) != own:
        raise BadInput(
            f"{uri}/bundle.json: its checksum differs; "
            "the file was changed or damaged: copy the bundle again, or fit it anew"
        )
    return index


def _canonical(index: dict[str, Any]) -> bytes:
    return json.dumps(index, sort_keys=True).encode()


def _pack(section: Section) -> tuple[bytes, bytes]:
    arrays: Arrays = {"neighbours": section.neighbours.embeddings}
    detectors = {}
    for member, detector in section.detectors.items():
        detectors[member] = detector.meta()
        for name, array in detector.arrays().items():
            arrays[f"{member}:{name}"] = np.ascontiguousarray(array)
    settings = {
        "detectors": detectors,
        "calibration": section.calibration.to_dict(),
        "reference": {"uris": section.neighbours.uris, "starts_s": section.neighbours.starts_s},
        "trust": section.trust,
    }
    text = json.dumps(settings, indent=1, ensure_ascii=False, sort_keys=True)
    return safetensors.save(arrays), text.encode()


def _unpack(packed: bytes, text: bytes) -> Section:
    arrays, settings = safetensors.load(packed), json.loads(text)
    detectors = {}
    for member, meta in settings["detectors"].items():
        own = {
            name.split(":", 1)[1]: array
            for name, array in arrays.items()
            if name.startswith(f"{member}:")
        }
        detectors[member] = restore(own, meta)
    return Section(
        detectors=detectors,
        calibration=Calibration.from_dict(settings["calibration"]),
        neighbours=Neighbours(
            settings["reference"]["uris"], settings["reference"]["starts_s"], arrays["neighbours"]
        ),
        trust=settings["trust"],
    )


def _file(uri: str, name: str) -> bytes:
    try:
        return store.read_bytes(store.join(uri, name))
    except FileNotFoundError:
        raise BadInput(f"{uri}/{name}: missing; copy the bundle again, or fit it anew") from None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
