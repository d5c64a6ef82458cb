"""How results look on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_asd import console


def stdout() -> Console:
    """Where results go."""
    return Console(highlight=False, markup=False)


def as_json(result: dict[str, Any]) -> None:
    """Print a result as JSON."""
    sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def machines(result: dict[str, Any]) -> None:
    """Print what `index` listed."""
    table = Table("machine type", "train", "test", "unknown", box=None)
    for name, splits in result["machines"].items():
        table.add_row(name, *(str(splits.get(s, 0)) for s in ("train", "test", "unknown")))
    stdout().print(table)


def demo(result: dict[str, Any]) -> None:
    """Print what the demo came to."""
    evaluation(result["trained"])
    out = stdout()
    for which in ("trained", "untrained"):
        score = figure(result[which]["official_score"])
        out.print(f"{f'official score, {which} backbones:':<36} {score}")
    for name, path in result["paths"].items():
        out.print(f"{name + ':':<12} {path}", soft_wrap=True)
    spent = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in result["seconds"].items())
    out.print(f"time: {spent}", soft_wrap=True)


def training(result: dict[str, Any], out: str) -> None:
    """Print how well the backbones of an upstream run learned."""
    for name, line in result["backbones"].items():
        loss, held_out, machine_types, attributes = (
            figure(line.get(key))
            for key in (
                "loss",
                "held_out_loss",
                "held_out_accuracy_machine_type",
                "held_out_accuracy_attributes",
            )
        )
        stdout().print(
            f"{name}: {line['epoch']} epochs, loss {loss}, held-out loss {held_out}, machine "
            f"types right {machine_types}, attributes right {attributes}",
            soft_wrap=True,
        )
    stdout().print(f"upstream run in {out}, {result['seconds']:.0f} s", soft_wrap=True)


def figure(value: float | None) -> str:
    """A figure to four digits, or n/a."""
    return "n/a" if value is None else f"{value:.4f}"


def dry_run(result: dict[str, Any]) -> None:
    """Print what `score` would do."""
    out = stdout()
    for name, count in sorted(result["machines"].items()):
        out.print(f"{name}: {count} recordings", soft_wrap=True)
    left = f", after {result['unfinished']} of a run broken off" if result["unfinished"] else ""
    out.print(
        f"{result['recordings']} recordings would be scored ({result['bytes'] / 1e6:.1f} MB)"
        f"{left}; {result['skipped']} are scored already",
        soft_wrap=True,
    )
    seconds = result["seconds"]
    took = "no run to tell how long it takes" if seconds is None else f"about {seconds:.0f} s"
    out.print(f"at the last run's speed: {took}")


def choices(result: dict[str, Any]) -> None:
    """Print what `tune` chose."""
    out = stdout()
    for objective, choice in result["choices"].items():
        if choice is None:
            out.print(f"by {objective}: cannot be measured")
            continue
        taken = " (taken)" if objective == result["objective"] else ""
        out.print(f"by {objective}{taken}, from {choice['upstream']}:", soft_wrap=True)
        for member, reached in choice["members"].items():
            out.print(f"  {member:<40} {figure(reached)}")
        shown = ", ".join(f"{name} {figure(choice[name])}" for name in result["choices"])
        out.print(f"  reaches {shown}", soft_wrap=True)
    out.print(
        f"rank correlation of the objectives over {result['trials']} trials: "
        f"{figure(result['rank_correlation'])}",
        soft_wrap=True,
    )
    seconds = result["seconds"]
    out.print(
        f"recipe in {result['recipe']}, trials in {result['trials_table']}, drawn in "
        f"{result['trials_plot']}; {result['recorded']} trials were recorded already; "
        f"embedding {seconds['embed']:.0f} s, trials {seconds['trials']:.0f} s",
        soft_wrap=True,
    )


_MOST_ATTENTION = 5


def attention(result: dict[str, Any]) -> None:
    """Print which machines need attention."""
    out = stdout()
    units = result["attention"]
    for unit in units[:_MOST_ATTENTION]:
        named = (unit[name] for name in ("machine_type", "section", "site", "asset"))
        out.print(f"{' '.join(n for n in named if n)}: {'; '.join(unit['why'])}", soft_wrap=True)
    if len(units) > _MOST_ATTENTION:
        out.print(f"and {len(units) - _MOST_ATTENTION} more machines that need attention")
    elif not units:
        out.print("no machine needs attention")
    out.print(
        f"{result['clips']} clips, {result['above']} above the threshold, {result['rejected']} "
        f"rejected; the {result['shown']} most anomalous to hear in {result['report']}, "
        f"{result['bytes'] / 1e6:.1f} MB, {result['seconds']:.0f} s",
        soft_wrap=True,
    )
    for key, what in (
        ("not_heard", "recordings cannot be read"),
        ("without_sound", "clips' sound was left out to keep it small"),
        ("without_spectrogram", "clips' spectrograms were left out to keep it small"),
    ):
        if result[key]:
            console.warn(f"{result['report']}: {result[key]} {what}")


_FIGURES = ("auc_source", "auc_target", "pauc_source", "pauc_target", "pauc")


def evaluation(result: dict[str, Any]) -> None:
    """Print the official figures."""
    figures = [key for key in _FIGURES if key in result["means"]]
    if "auc_source" not in figures:
        figures.insert(0, "auc")
    table = Table("machine type", "section", "clips", *figures, box=None)
    left_out: list[str] = []
    for machine_type, sections in result["machines"].items():
        for name, section in sections.items():
            values = [figure(section[key]) for key in figures]
            table.add_row(machine_type, name, str(section["n"]), *values)
            if section["reason"]:
                left_out.append(f"n/a: {machine_type} section {name}: {section['reason']}")
    means = [figure(result["means"][key]) for key in figures]
    table.add_row("mean", "", "", *means)
    out = stdout()
    out.print(table)
    for line in left_out:
        out.print(line, soft_wrap=True)
    for member, evaluation in result.get("members", {}).items():
        out.print(f"{member:<28} {figure(evaluation['official_score'])}")
    out.print(f"official score: {figure(result['official_score'])}")
    rates = result.get("false_alarms", {})
    if any(rate is not None for rate in rates.values()):
        shown = ", ".join(f"{name} {figure(rate)}" for name, rate in rates.items())
        out.print(f"false alarms on test normals: {shown}", soft_wrap=True)
    for line in result["warnings"]:
        console.warn(line)
