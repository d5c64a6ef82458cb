"""Recordings of made-up archives, and plans of them."""

from pathlib import Path

import pyarrow as pa

from ray_asd import ledger, plans, tables
from ray_asd.plans import Plan


def recordings(*rows: tuple[str, str, int]) -> pa.Table:
    """Of (machine type, uri, bytes) each."""
    return pa.Table.from_pylist(
        [
            {
                "uri": uri,
                "bytes": size,
                "modified_ns": 1,
                "fingerprint": f"f{uri}",
                "machine_type": machine_type,
                "section": "00",
                "domain": "source",
                "split": "test",
                "label": "unknown",
                "attributes": [],
                "recorded_at": None,
                "fields": [],
            }
            for machine_type, uri, size in rows
        ],
        tables.RECORDINGS,
    )


def freeze(place: Path | str, *parts: pa.Table, rows: int = 3, run_id: str = "r1") -> Plan:
    """A plan of these parts, in shards of so many rows."""
    uri = str(place)
    written = [
        plans.write_part(uri, run_id, number, part, rows) for number, part in enumerate(parts)
    ]
    return plans.freeze(uri, written, run_id=run_id, night="2026-01-01", bundle_id="b")


def commit(place: Path, shard: str, table: pa.Table, final: bool = True) -> None:
    """A commit record of some rows, under the digest ``d``."""
    (place / "ledger" / "shards").mkdir(parents=True, exist_ok=True)
    rows = [
        {"uri": r["uri"], "fingerprint": r["fingerprint"], "section_digest": "d", "final": final}
        for r in table.to_pylist()
    ]
    ledger.commit(str(place), shard, rows)


def left(place: Path, table: pa.Table, digest: str = "d") -> list[str]:
    """What is left of them when what is done is subtracted."""
    digests = {(machine_type, "00"): digest for machine_type in ("fan", "valve")}
    return ledger.without(ledger.done(str(place)), table, digests)["uri"].to_pylist()
