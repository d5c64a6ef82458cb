"""Scores → the challenge's CSVs."""

from __future__ import annotations

from typing import Any

from ray_asd import submission
from ray_asd.pipelines.evaluate import test_clips


def submit(scores_uri: str, out: str, *, ensemble: str | None = None) -> dict[str, Any]:
    """Write one ensemble's scores and decisions of the test clips as the challenge wants them.

    Args:
        scores_uri: what ``ray-asd score`` wrote.
        out: the folder of the CSVs.
        ensemble: which ensemble is submitted; the first by name if None, as in ``evaluate``.

    Returns:
        The ensemble, the files' names, and the number of clips.

    Raises:
        BadInput: no scores of test clips there, or they have no place in the challenge's form.

    >>> submit("scores", "submission")["files"]  # doctest: +SKIP
    """
    table = test_clips(scores_uri, ensemble)
    return {
        "out": out,
        "ensemble": table["ensemble"][0].as_py(),
        "clips": table.num_rows,
        "files": submission.write(table, out),
    }
