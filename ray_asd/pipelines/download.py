"""A published data set → an archive and its manifest. Needs no Ray."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any

from ray_asd import console
from ray_asd.archive import unpack, zenodo
from ray_asd.archive.fetch import Remote, fetch, matches, part_of
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import index

_MB = 10**6

Zips = dict[str, list[Remote]]
"""Files by machine type."""


def download(
    dataset: str, out: str, *, machines: Sequence[str] | None = None, parallel: int = 4
) -> dict[str, Any]:
    """Fetch a published data set, unpack and index it; what is there is not fetched again.

    Args:
        dataset: ``dcase2023``: development, additional training and evaluation data of the
            DCASE 2023 Challenge Task 2.
        out: a folder; ``recordings/`` and ``manifest.parquet`` come into it, and ``zips/``,
            which holds each zip until it is unpacked.
        machines: machine types; all of them where None.
        parallel: files fetched at once.

    Returns:
        Where recordings and manifest lie, what :func:`ray_asd.index` tells of them, how many
        zips and bytes were fetched now, and seconds.

    Raises:
        BadInput: an unknown data set or machine type; a folder that cannot be used, is in use,
            or lies on a disk without room.
        RunFailed: a file cannot be had, or is not what its publisher lists. The other files
            are fetched and unpacked nevertheless.

    >>> download("dcase2023", "dcase", machines=["fan"])  # doctest: +SKIP
    """
    began = time.monotonic()
    pages = ", ".join(zenodo.page(record) for record in zenodo.records(dataset))
    if "://" in out or (Path(out).exists() and not Path(out).is_dir()):
        raise BadInput(f"--out {out}: a download wants a folder of this machine")
    place = Path(out)
    recordings, zips = place / "recordings", place / "zips"
    for folder in (recordings, zips):
        folder.mkdir(parents=True, exist_ok=True)
    stop = Event()
    with _alone(zips):
        known = zenodo.zips_by_machine(dataset, zips, stop)
        missing = _missing(_choose(known, machines, dataset), recordings)
        wanted = [remote for remotes in missing.values() for remote in remotes]
        if wanted:
            console.say(f"{dataset}: its licence and whom to cite: {pages}")
        _check_room(wanted, zips)
        fetched = _fetch_and_unpack(missing, zips, recordings, parallel, stop)
    manifest = str(place / "manifest.parquet")
    return {
        **index.index(str(recordings), manifest),
        "dataset": dataset,
        "root": str(recordings),
        "fetched": len(fetched),
        "bytes": sum(remote.bytes for remote in fetched),
        "seconds": round(time.monotonic() - began, 1),
    }


def _choose(known: Zips, machines: Sequence[str] | None, dataset: str) -> Zips:
    for name in machines or ():
        if name not in known:
            raise BadInput(
                f"--machine {name}: {dataset} has no such machine type; there are "
                f"{', '.join(known)}"
            )
    return {name: known[name] for name in known if not machines or name in machines}


def _missing(chosen: Zips, recordings: Path) -> Zips:
    """What is not unpacked yet."""
    missing = {}
    for machine_type, remotes in chosen.items():
        folder = recordings / machine_type
        if unpack.receipt_in(folder) == _receipt(remotes):
            continue
        if folder.exists():
            raise BadInput(
                f"{folder}: is there, and not from this data set's zips; move it away, or name "
                "another --out"
            )
        missing[machine_type] = remotes
    return missing


def _receipt(remotes: list[Remote]) -> str:
    return "".join(f"{remote.checksum}  {remote.name}\n" for remote in remotes)


def _check_room(wanted: list[Remote], zips: Path) -> None:
    # Recordings hardly compress: unpacked they take about the room of their zips again.
    left = sum(2 * remote.bytes - _there(zips / remote.name) for remote in wanted)
    unpack.check_room(zips, left, f"the data ({len(wanted)} zips, and unpacked)")


def _there(place: Path) -> int:
    return sum(p.stat().st_size for p in (place, part_of(place)) if p.exists())


def _fetch_and_unpack(
    missing: Zips, zips: Path, recordings: Path, parallel: int, stop: Event
) -> list[Remote]:
    """Fetch in threads, unpack a machine type here as soon as its last zip is there.

    Returns:
        What had to be fetched.
    """
    wanted = [(name, remote) for name, remotes in missing.items() for remote in remotes]
    fetched = [remote for _, remote in wanted if not _whole(zips / remote.name, remote)]
    size = sum(remote.bytes - _there(part_of(zips / remote.name)) for remote in fetched)
    left = {name: len(remotes) for name, remotes in missing.items()}
    failures: list[RunFailed] = []
    if not wanted:
        return []
    with (
        console.track("download", max(0, size) // _MB, "MB") as advance,
        ThreadPoolExecutor(parallel) as pool,
    ):
        meter = _Meter(advance)
        running: dict[Future[None], str] = {
            pool.submit(_bring, remote, zips / remote.name, meter, stop): name
            for name, remote in wanted
        }
        try:
            for done in as_completed(running):
                name = running[done]
                try:
                    done.result()
                    left[name] -= 1
                    if not left[name]:
                        _unpack(name, missing[name], zips, recordings)
                except RunFailed as error:
                    console.warn(str(error))
                    failures.append(error)
        finally:
            # Also on Ctrl-C: the pool waits for its threads, and they must not go on for hours.
            stop.set()
    if failures:
        more = f" (and {len(failures) - 1} more files)" if len(failures) > 1 else ""
        raise RunFailed(f"{failures[0]}{more}")
    return fetched


def _bring(remote: Remote, place: Path, meter: _Meter, stop: Event) -> None:
    # What stands there is whole: the others were put out of the way.
    if not place.exists():
        fetch(remote, place, meter, stop)


def _whole(place: Path, remote: Remote) -> bool:
    """Whether the zip lies there already; one that is another is put out of the way."""
    if not place.exists():
        return False
    if matches(place, remote):
        return True
    console.warn(f"{place}: not what its publisher lists; it is fetched anew")
    place.unlink()
    return False


def _unpack(name: str, remotes: list[Remote], zips: Path, recordings: Path) -> None:
    files = [zips / remote.name for remote in remotes]
    unpack.unpack(files, name, recordings / name, _receipt(remotes))
    for file in files:
        file.unlink()


class _Meter:
    """Bytes, from any thread, as whole megabytes of progress."""

    def __init__(self, advance: console.Advance) -> None:
        self._advance, self._lock = advance, Lock()
        self._bytes = self._shown = 0

    def __call__(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            reached = max(0, self._bytes) // _MB
            if reached != self._shown:
                self._advance(reached - self._shown, "")
                self._shown = reached


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out: two that append to one file make neither."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{folder}: another download is at work here; wait for its end"
            ) from None
        yield
