"""One night: score what is new, evaluate where there are labels, raise alarms, report."""

from __future__ import annotations

import json
import time
from typing import Any

from ray_asd import alarms, console
from ray_asd.alarms import Budget
from ray_asd.archive import store
from ray_asd.errors import BadInput
from ray_asd.pipelines.evaluate import evaluate
from ray_asd.pipelines.report import report
from ray_asd.pipelines.score import score


def nightly(
    source: str,
    bundle: str,
    out: str,
    *,
    layout: str = "dcase",
    ensemble: str | None = None,
    alarms_per_night: int | None = None,
    false_alarm_rate: float | None = None,
    report_to: str | None = None,
    nights: int = 30,
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Score an archive's new recordings and say who should listen to what.

    Started twice at the same time, the second waits for the first, and finds nothing to do.

    Args:
        source: a manifest, or a folder or bucket to list.
        bundle: the bundle's folder.
        out: the scores table's folder; the summary comes to ``nightly/<run_id>.json`` in it.
        layout: how a folder's names are read.
        ensemble: whose scores count; the first by name if None.
        alarms_per_night: at most so many alarms, the worst.
        false_alarm_rate: alarms only above all but this share of the reference normals.
        report_to: where the HTML report comes to, if anywhere.
        nights: how many nights the report looks back.
        workers: embedding actors; one a core if None.
        address: a Ray cluster's address; None starts a local Ray.

    Returns:
        ``run`` (see :func:`ray_asd.score`), ``evaluation`` (of all test clips that have labels,
        or None), ``alarms`` (:func:`ray_asd.alarms.raised`), ``report``, ``summary`` (where this
        is written), and ``seconds``.

    Raises:
        BadInput, RunFailed: as :func:`ray_asd.score` and :func:`ray_asd.report`.

    >>> nightly("recordings", "bundle", "scores", alarms_per_night=20)["alarms"]  # doctest: +SKIP
    """
    began = time.monotonic()
    run = score(source, bundle, out, layout=layout, workers=workers, address=address)
    runs = [run, *([run["resumed"]] if "resumed" in run else [])]
    found = alarms.raised(
        out,
        run_ids={r["run_id"] for r in runs},
        nights={r["night"] for r in runs},
        ensemble=ensemble,
        budget=Budget(alarms_per_night, false_alarm_rate),
    )
    try:
        evaluation = evaluate(out, ensemble=ensemble)
    except BadInput as reason:
        console.say(f"nightly: nothing to evaluate: {reason}")
        evaluation = None
    if report_to is not None:
        report(out, bundle, report_to, ensemble=ensemble, nights=nights, address=address)
    summary = store.join(out, "nightly", f"{run['run_id']}.json")
    night = {
        "run": run,
        "evaluation": evaluation,
        "alarms": found,
        "report": report_to,
        "summary": summary,
        "seconds": round(time.monotonic() - began, 1),
    }
    store.make_dir(store.join(out, "nightly"))
    store.write_atomic(summary, (json.dumps(night, indent=2, ensure_ascii=False) + "\n").encode())
    return night
