"""Planning by the number of recordings: how long it takes, and what the driver holds.

Makes a manifest, and a ledger of what is done, and plans the rest as `score` does; every size in a
process of its own. What Ray takes to start is told apart. Memory is the driver's own, without its
workers and without the object store.

Example: python jobs/benchmark.py plan --rows 100000 --rows 1000000 --done 950000
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from ray_asd import console, ledger, plans, tables
from ray_asd.archive import manifest
from ray_asd.pipelines import planning, session
from ray_asd.pipelines.plan import block_rows
from ray_asd.pipelines.planning import Wanted
from ray_asd.planning import Choice

_TYPES = 40
_SHARD = 64
_ONCE = 20_000
_DIGESTS = {(f"fan{number}", "00"): "d" for number in range(_TYPES)}


def plan(
    rows: Annotated[
        list[int] | None, typer.Option(help="Recordings; default: 100,000 and 1,000,000.")
    ] = None,
    done: Annotated[int, typer.Option(min=0, help="Of these, at most, are scored already.")] = 0,
) -> None:
    """Seconds to plan each number of recordings, and the driver's memory, as JSON."""
    found = []
    for count in rows or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            console.say(f"benchmark: {count} recordings")
            manifest.write(_tables(0, count), str(place / "manifest.parquet"))
            _commit(place / "scores", min(done, count))
            # Of its own, for what other benchmarks import is no part of planning.
            said = subprocess.run(  # noqa: S603, this very file
                [sys.executable, __file__, folder], stdout=subprocess.PIPE, check=True
            )
            found.append({"rows": count, "done": min(done, count), **json.loads(said.stdout)})
    peaks = [size["driver_peak_mb"] for size in found]
    result = {"sizes": found, "driver_peak_grew_mb": round(max(peaks) - peaks[0], 1)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _planned(folder: str) -> dict[str, Any]:
    out, ray_s = f"{folder}/scores", 0.0
    wanted = Wanted(f"{folder}/manifest.parquet", "dcase", Choice(), limit=None, rescore=False)
    with session.lazily() as hold:

        def hold_ray() -> None:
            nonlocal ray_s
            asked = time.monotonic()
            hold()
            ray_s += time.monotonic() - asked

        before, began = _memory_mb("VmRSS"), time.monotonic()
        frozen, skipped = planning.freeze(
            wanted,
            out,
            bundle=folder,
            bundle_id="b",
            digests=_DIGESTS,
            hold_ray=hold_ray,
            still_ours=lambda: None,
            shard_rows=block_rows,
        )
        frozen_s = time.monotonic() - began
        shards = plans.pending(out, frozen)
        seconds, peak = time.monotonic() - began, _memory_mb("VmHWM")
    return {
        "skipped": skipped,
        "planned": sum(shard.rows for shard in shards),
        "shards": len(shards),
        "parts": len(frozen.parts),
        "seconds": round(seconds, 1),
        "of_which_starting_ray": round(ray_s, 1),
        "of_which_reading_its_shards": round(seconds - frozen_s, 1),
        "driver_before_mb": before,
        "driver_peak_mb": peak,
        "driver_grew_mb": round(peak - before, 1),
    }


def _tables(first: int, last: int) -> Iterator[pa.Table]:
    for start in range(first, last, _ONCE):
        yield _rows(np.arange(start, min(start + _ONCE, last)))


def _rows(numbers: Any) -> pa.Table:
    count = len(numbers)
    columns = {
        "uri": [
            f"/archive/plant{n % 7}/fan{n % _TYPES}/2026-11-{n % 28 + 1:02d}/00/{n:012d}.flac"
            for n in numbers.tolist()
        ],
        "bytes": numbers + 320_000,
        "modified_ns": numbers + 10**18,
        "fingerprint": [f"{n * 2654435761 % 2**64:016x}" for n in numbers.tolist()],
        "machine_type": [f"fan{n % _TYPES}" for n in numbers.tolist()],
        "section": ["00"] * count,
        **{name: ["unknown"] * count for name in ("domain", "split", "label")},
        "attributes": [[]] * count,
        "recorded_at": [None] * count,
        "fields": [[]] * count,
    }
    return pa.table(columns, schema=tables.RECORDINGS)


def _commit(out: Path, count: int) -> None:
    """Commit records of the first ``count`` recordings, as full shards leave them."""
    folder = out / "ledger" / "shards"
    folder.mkdir(parents=True)
    for table in _tables(0, count):
        commits = table.select(["uri", "fingerprint"])
        for name, value in (("section_digest", "d"), ("final", True)):
            commits = commits.append_column(name, pa.array([value] * len(table)))
        for start in range(0, len(table), _SHARD):
            shard = commits.slice(start, _SHARD).cast(ledger.COMMITS)
            name = f"{shard['fingerprint'][0].as_py()}{start:04d}"
            pq.write_table(shard, folder / f"{name}.parquet", compression="zstd")


def _memory_mb(which: str) -> float:
    """``VmRSS``, what this process holds, or ``VmHWM``, the most that it ever held."""
    text = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{which}:\s+(\d+) kB", text, re.MULTILINE)
    return round(int(kilobytes) / 1000, 1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_planned(sys.argv[1])))
