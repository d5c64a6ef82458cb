"""Finds machines that sound wrong, in archives too large for one computer.

Each verb of the command line is a function here of the same name. They are loaded when first
used, so that the parts which need no Ray can be imported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_asd.pipelines.demo import demo
    from ray_asd.pipelines.download import download
    from ray_asd.pipelines.enroll import enroll
    from ray_asd.pipelines.evaluate import evaluate
    from ray_asd.pipelines.fit import fit
    from ray_asd.pipelines.index import index
    from ray_asd.pipelines.nightly import nightly
    from ray_asd.pipelines.report import report
    from ray_asd.pipelines.score import score
    from ray_asd.pipelines.submit import submit
    from ray_asd.pipelines.train import train
    from ray_asd.pipelines.tune import tune
    from ray_asd.scores import read_rejections, read_scores

_HOMES = {
    "demo": "ray_asd.pipelines.demo",
    "download": "ray_asd.pipelines.download",
    "enroll": "ray_asd.pipelines.enroll",
    "evaluate": "ray_asd.pipelines.evaluate",
    "fit": "ray_asd.pipelines.fit",
    "index": "ray_asd.pipelines.index",
    "nightly": "ray_asd.pipelines.nightly",
    "read_rejections": "ray_asd.scores",
    "read_scores": "ray_asd.scores",
    "report": "ray_asd.pipelines.report",
    "score": "ray_asd.pipelines.score",
    "submit": "ray_asd.pipelines.submit",
    "train": "ray_asd.pipelines.train",
    "tune": "ray_asd.pipelines.tune",
}

__all__ = [
    "demo",
    "download",
    "enroll",
    "evaluate",
    "fit",
    "index",
    "nightly",
    "read_rejections",
    "read_scores",
    "report",
    "score",
    "submit",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
