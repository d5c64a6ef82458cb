"""Builds the pages of the Python API from the docstrings: python .ci/api_pages.py FOLDER."""

import sys
import warnings
from pathlib import Path

import pdoc

import ray_asd

MODULES = (
    "ray_asd",
    "ray_asd.archive",
    "ray_asd.bundle",
    "ray_asd.downstream",
    "ray_asd.ensemble",
    "ray_asd.errors",
    "ray_asd.frontend",
    "ray_asd.metrics",
    "ray_asd.recipe",
    "ray_asd.scores",
    "ray_asd.tables",
    "ray_asd.upstream",
)
"""What is there to be imported; their own modules are not."""


def build(folder: Path) -> None:
    """Write the pages; what pdoc would only warn of (a name that is not there) is raised."""
    for name in ray_asd.__all__:
        # pdoc does not see what a module gives only when asked.
        setattr(ray_asd, name, getattr(ray_asd, name))
    pdoc.render.configure(docformat="google", footer_text="ray-asd")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
