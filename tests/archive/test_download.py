"""Downloads, from a server of this machine that has every fault a server can have."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

import ray_asd
from ray_asd.archive import fetch, manifest, zenodo
from ray_asd.archive.unpack import unpack
from ray_asd.errors import BadInput, RunFailed
from tests.conftest import run_cli

FAN, BANDSAW_TRAIN, BANDSAW_TEST = (
    "dev_fan.zip",
    "eval_data_bandsaw_train.zip",
    "eval_data_bandsaw_test.zip",
)
RECORDS = {7882613: [FAN], 7830345: [BANDSAW_TRAIN], 7860847: [BANDSAW_TEST]}


def sound(name: str) -> bytes:
    """Bytes that no zip can make small."""
    return b"".join(hashlib.sha256(f"{name}{n}".encode()).digest() for n in range(2000))


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data, usedforsecurity=False).hexdigest()}"


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2023, 5, 1, 12, 0, 0)), content)
    return buffer.getvalue()


def clips(machine: str, split: str, *names: str) -> dict[str, bytes]:
    return {f"{machine}/{split}/{name}.wav": sound(name) for name in names}


CONTENT = {
    FAN: {
        **clips("fan", "train", "section_00_source_train_normal_0000_m-n_W"),
        **clips("fan", "test", "section_00_target_test_anomaly_0000_m-n_X"),
        "fan/attributes_00.csv": b"file_name,d1p,d1v\n",
        "__MACOSX/fan/train/._section_00_source_train_normal_0000_m-n_W.wav": b"clutter",
        "fan/.DS_Store": b"clutter",
        "readme.txt": b"beside the folder",
    },
    BANDSAW_TRAIN: clips("bandsaw", "train", "section_00_source_train_normal_0000_vel_1"),
    BANDSAW_TEST: clips("bandsaw", "test", "section_00_0000", "section_00_0001"),
}


class Asked(NamedTuple):
    """One request that the server was sent."""

    name: str
    range: str | None


@dataclass
class Server:
    """Zenodo, as far as downloads know it, and what is wrong with it."""

    files: dict[str, bytes]
    asked: list[Asked] = field(default_factory=list)
    drop_after: dict[str, list[int]] = field(default_factory=dict)  # bytes, an answer each
    statuses: dict[str, list[int]] = field(default_factory=dict)  # an answer each
    wrong_bytes: Counter[str] = field(default_factory=Counter)  # answers with one
    was: dict[str, bytes] = field(default_factory=dict)  # what the first answer is from
    ranges: bool = True
    range_status: int = 200  # the answer to a range where there are none
    meet: threading.Barrier | None = None  # answers wait for each other
    headers: dict[str, str] = field(default_factory=dict)

    def counts(self) -> Counter[str]:
        return Counter(asked.name for asked in self.asked)

    def listing(self, number: int) -> bytes:
        files = [
            {
                "key": name,
                "size": len(self.files[name]),
                "checksum": md5(self.files[name]),
                "links": {"self": f"/api/records/{number}/files/{name}/content"},
            }
            for name in RECORDS[number]
        ]
        return json.dumps({"id": number, "files": [*files, self._readme()]}).encode()

    def _readme(self) -> dict[str, object]:
        return {"key": "README.md", "size": 1, "checksum": f"md5:{'0' * 32}", "links": {}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    zenodo: Server

    def do_GET(self) -> None:
        own, path = self.zenodo, self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        own.asked.append(Asked(name, self.headers["Range"]))
        assert self.headers["User-Agent"].startswith("ray-asd/")
        if own.meet:
            own.meet.wait(30)
        statuses = own.statuses.get(name)
        if statuses and (status := statuses.pop(0)) != 200:
            return self._answer(status, b"", own.headers)
        if path.startswith("/api/records/"):
            return self._answer(200, own.listing(int(name)))
        first = own.counts()[name] == 1
        data = own.was.get(name, own.files[name]) if first else own.files[name]
        tag = f'"{md5(data)}"'
        begin = self._begin(tag)
        if begin and not own.ranges:
            if own.range_status != 200:
                return self._answer(own.range_status, b"")
            begin = 0
        headers = {"ETag": tag}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = bytearray(data[begin:])
        if own.wrong_bytes[name]:
            own.wrong_bytes[name] -= 1
            body[len(body) // 2] ^= 1
        drops = own.drop_after.get(name)
        return self._answer(
            206 if begin else 200, bytes(body), headers, drops.pop(0) if drops else None
        )

    def _begin(self, tag: str) -> int:
        asked = self.headers["Range"]
        if asked is None or self.headers["If-Range"] not in (None, tag):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    own = Server({name: zipped(members) for name, members in CONTENT.items()})
    handler = type("Own", (Handler,), {"zenodo": own})
    with Quiet(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(zenodo, "ORIGIN", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.001)
        monkeypatch.setattr(fetch, "_CHUNK", 1 << 12)
        yield own
        http.shutdown()


def check(out: Path, *names: str) -> None:
    """What lies in ``out`` is, byte for byte, what the zips ``names`` hold, and nothing more."""
    expected = {
        path: content
        for name in names
        for path, content in CONTENT[name].items()
        if path.endswith((".wav", ".csv")) and "._" not in path
    }
    root = out / "recordings"
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".unpacked"
    }
    assert found == expected
    uris = manifest.read(str(out / "manifest.parquet"))["uri"].to_pylist()
    assert sorted(uris) == sorted(str(root / path) for path in expected if path.endswith(".wav"))
    assert not list((out / "zips").glob("*.zip*"))


def test_all_of_it_comes_once(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = ray_asd.download("dcase2023", str(out))
    check(out, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    assert first["machines"] == {"bandsaw": {"test": 2, "train": 1}, "fan": {"test": 1, "train": 1}}
    assert first["fetched"] == 3
    assert first["bytes"] == sum(map(len, server.files.values()))
    assert set(server.counts().values()) == {1}
    fingerprints = manifest.read(first["manifest"])["fingerprint"].to_pylist()

    server.asked.clear()
    second = ray_asd.download("dcase2023", str(out))
    assert server.asked == []
    assert (second["fetched"], second["recordings"]) == (0, first["recordings"])
    check(out, FAN, BANDSAW_TRAIN, BANDSAW_TEST)

    shutil.rmtree(out)
    ray_asd.download("dcase2023", str(out))
    assert manifest.read(first["manifest"])["fingerprint"].to_pylist() == fingerprints


def test_machine_types_can_be_had_one_by_one(server: Server, tmp_path: Path) -> None:
    ray_asd.download("dcase2023", str(tmp_path), machines=["bandsaw"])
    check(tmp_path, BANDSAW_TRAIN, BANDSAW_TEST)
    assert server.counts()[FAN] == 0
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    assert set(server.counts().values()) == {1}


def test_several_come_at_once(server: Server, tmp_path: Path) -> None:
    ray_asd.download("dcase2023", str(tmp_path / "first"), machines=["fan"])
    shutil.copytree(tmp_path / "first" / "zips", tmp_path / "zips")  # the records are known
    server.meet = threading.Barrier(3)
    ray_asd.download("dcase2023", str(tmp_path), parallel=3)
    assert not server.meet.broken


def test_dropped_connections_are_carried_on(server: Server, tmp_path: Path) -> None:
    size = len(server.files[FAN])
    # More drops than tries in a row: each came further.
    server.drop_after = {FAN: [size // 10] * (fetch.TRIES + 2), BANDSAW_TEST: [0, 9000]}
    ray_asd.download("dcase2023", str(tmp_path))
    check(tmp_path, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    begins = [int((a.range or "bytes=0-")[6:-1]) for a in server.asked if a.name == FAN]
    assert len(begins) == fetch.TRIES + 3
    assert begins == sorted(set(begins))
    assert begins[-1] > size // 2


def test_a_later_run_carries_on_where_the_first_gave_up(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.drop_after, server.statuses = {FAN: [50_000]}, {FAN: [200] + [503] * 99}
    ask = ("download", "dcase2023", "--out", str(tmp_path), "--machine", "fan")
    code, out, err = run_cli(*ask, capfd=capfd)
    assert (code, out) == (1, "")
    assert "dev_fan.zip: the server answers 503, 6 times in a row" in err.splitlines()[-1]
    part = tmp_path / "zips" / f"{FAN}.part"
    there = part.stat().st_size
    assert 40_000 < there <= 50_000
    server.asked.clear()
    server.statuses.clear()
    code, out, _ = run_cli(*ask, capfd=capfd)
    assert code == 0
    assert "1 zips" in out
    assert server.asked == [Asked(FAN, f"bytes={there}-")]
    check(tmp_path, FAN)


@pytest.mark.parametrize("status", [200, 416])
def test_a_server_that_refuses_ranges_is_asked_for_the_whole(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.ranges, server.range_status = False, status
    server.drop_after = {FAN: [60_000, 20_000]}
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN)


def test_a_server_that_refuses_ranges_and_drops_for_ever_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.ranges, server.drop_after = False, {FAN: [20_000] * 100}
    with pytest.raises(
        RunFailed, match=r"dev_fan\.zip: the connection broke off, 6 times in a row"
    ):
        ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.was = {FAN: bytes(len(server.files[FAN]))}
    server.drop_after = {FAN: [60_000]}
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN)
    assert server.counts()[FAN] == 2


def test_a_part_of_another_file_is_found_out_by_the_checksum(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / f"{FAN}.part").write_bytes(bytes(30_000))
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN)
    assert [a.range for a in server.asked if a.name == FAN] == ["bytes=30000-", None]


@pytest.mark.parametrize("excess", [0, 10_000])
def test_a_part_that_is_whole_or_too_long(server: Server, tmp_path: Path, excess: int) -> None:
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / f"{FAN}.part").write_bytes(server.files[FAN] + bytes(excess))
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN)
    assert server.counts()[FAN] == (1 if excess else 0)


def test_a_wrong_byte_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.wrong_bytes[FAN] = 1
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    check(tmp_path, FAN)
    assert [a.range for a in server.asked if a.name == FAN] == [None, None]


def test_a_byte_that_stays_wrong_keeps_nothing_else_back(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.wrong_bytes[FAN] = 99
    code, out, err = run_cli("download", "dcase2023", "--out", str(tmp_path), capfd=capfd)
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"ray-asd: {tmp_path}/zips/{FAN}: ")
    assert "twice; run the same command later" in last
    assert sorted(os.listdir(tmp_path / "recordings")) == ["bandsaw"]
    assert not list((tmp_path / "zips").glob("*.zip*"))
    server.wrong_bytes.clear()
    server.asked.clear()
    ray_asd.download("dcase2023", str(tmp_path))
    check(tmp_path, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    assert server.counts() == {FAN: 1}


def test_errors_that_pass_are_waited_for(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.statuses = {"7882613": [500, 429], FAN: [500, 503], BANDSAW_TEST: [502, 500]}
    ray_asd.download("dcase2023", str(tmp_path))
    check(tmp_path, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    server.headers, server.statuses = {"Retry-After": "1"}, {FAN: [429]}
    capfd.readouterr()
    ray_asd.download("dcase2023", str(tmp_path / "more"), machines=["fan"])
    assert "dev_fan.zip: the server answers 429; trying again in 1 s" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["7830345", FAN])
def test_what_is_not_there_is_asked_for_once(server: Server, tmp_path: Path, name: str) -> None:
    server.statuses = {name: [404] * 9}
    with pytest.raises(RunFailed, match=rf"{name}.*: the server answers 404 Not Found; open"):
        ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])
    assert server.counts()[name] == 1


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(zenodo, "ORIGIN", "http://127.0.0.1:9")
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.001)
    with pytest.raises(RunFailed, match=r"records/7882613: no connection .*, 6 times") as failed:
        ray_asd.download("dcase2023", str(tmp_path))
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Down for maintenance</html>",
        b"[]",
        b'{"files": 3}',
        b'{"files": [{"key": "dev_fan.zip", "size": 3, "checksum": "md5:"}]}',
        b'{"files": [{"key": "dev_fan.zip", "checksum": "md5:%s"}]}' % (b"0" * 32),
        b'{"files": [{"key": "other.zip", "size": 3, "checksum": "md5:%s"}]}' % (b"0" * 32),
    ],
)
def test_an_answer_that_describes_no_record_is_refused_in_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(server, "listing", lambda number: answer)
    with pytest.raises(RunFailed, match=f"^{zenodo.ORIGIN}.*records/7882613") as failed:
        ray_asd.download("dcase2023", str(tmp_path))
    assert "\n" not in str(failed.value)
    monkeypatch.undo()


def test_bad_input_is_one_line(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*more: str) -> str:
        ask = ("download", "dcase2023", "--out", str(tmp_path), *more)
        code, out, err = run_cli(*ask, capfd=capfd)
        assert (code, out) == (2, "")
        assert len(err.strip().splitlines()) == 1, err
        return err

    assert "no such machine type; there are bandsaw, fan" in refused("--machine", "pump")
    (tmp_path / "recordings" / "fan").mkdir()
    assert "recordings/fan: is there" in refused("--machine", "fan")
    with (tmp_path / "zips" / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another download is at work" in refused()
    assert server.counts()[FAN] == 0


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, server.files.values()))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size - 1))
    with pytest.raises(BadInput, match=r"needs 0\.0 GB, and 0\.0 GB are free; make room"):
        ray_asd.download("dcase2023", str(tmp_path))
    assert not any(asked.name.endswith(".zip") for asked in server.asked)
    ray_asd.download("dcase2023", str(tmp_path), machines=["fan"])


def test_a_run_that_dies_while_it_unpacks_leaves_nothing_half(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj

    def full(source: object, file: io.BufferedWriter, length: int) -> None:
        if file.name.endswith("0001.wav"):
            raise OSError(28, "No space left on device")
        copy(source, file, length)

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space"):
            ray_asd.download("dcase2023", str(tmp_path), machines=["bandsaw"])
    assert os.listdir(tmp_path / "recordings") == [".bandsaw.unpacking"]
    server.asked.clear()
    ray_asd.download("dcase2023", str(tmp_path), machines=["bandsaw"])
    check(tmp_path, BANDSAW_TRAIN, BANDSAW_TEST)
    assert server.asked == []


def test_a_zip_fetched_by_hand_is_taken_if_it_is_the_right_one(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / FAN).write_bytes(server.files[FAN])
    (tmp_path / "zips" / BANDSAW_TEST).write_bytes(b"something else")
    ray_asd.download("dcase2023", str(tmp_path))
    check(tmp_path, FAN, BANDSAW_TRAIN, BANDSAW_TEST)
    assert (server.counts()[FAN], server.counts()[BANDSAW_TEST]) == (0, 1)


def test_a_fetch_that_is_stopped_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()
    remote = zenodo.zips_by_machine("dcase2023", tmp_path, stop)["fan"][0]
    came: list[int] = []

    def advance(count: int) -> None:
        came.append(count)
        if sum(came) > 20_000:
            stop.set()

    with pytest.raises(fetch.Stopped):
        fetch.fetch(remote, tmp_path / FAN, advance, stop)
    assert fetch.part_of(tmp_path / FAN).stat().st_size == sum(came) < 40_000
    server.statuses = {FAN: [500]}
    with pytest.raises(fetch.Stopped):  # also instead of waiting
        fetch.fetch(remote, tmp_path / FAN, advance, stop)


def _plain(archive: zipfile.ZipFile) -> None:
    archive.writestr("fan/train/a.wav", b"a")


def _above(archive: zipfile.ZipFile) -> None:
    archive.writestr("fan/../../outside.wav", b"a")


def _absolute(archive: zipfile.ZipFile) -> None:
    archive.writestr("/fan/outside.wav", b"a")


def _windows(archive: zipfile.ZipFile) -> None:
    archive.writestr("fan\\..\\outside.wav", b"a")


def _link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("fan/train/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, b"/etc")


@pytest.mark.parametrize("spoil", [_above, _absolute, _windows, _link])
def test_a_zip_that_leads_out_of_its_folder_is_not_unpacked(
    tmp_path: Path, spoil: Callable[[zipfile.ZipFile], None]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        _plain(archive)
        spoil(archive)
    with pytest.raises(RunFailed, match=r"a\.zip: .* is no plain file below its folder"):
        unpack([tmp_path / "a.zip"], "fan", tmp_path / "rec" / "fan", "receipt")
    assert not (tmp_path / "rec" / "fan").exists()
    assert not list(tmp_path.rglob("*outside*"))


def test_a_zip_that_is_broken_or_another_machines(tmp_path: Path) -> None:
    whole = zipped(clips("fan", "train", "a", "b"))
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    for content, says in ((whole[:-30], "not a whole zip"), (bytes(broken), "not a whole zip")):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(RunFailed, match=says):
            unpack([tmp_path / "a.zip"], "fan", tmp_path / "fan", "")
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(RunFailed, match="holds no folder pump"):
        unpack([tmp_path / "a.zip"], "pump", tmp_path / "pump", "")
    unpack([tmp_path / "a.zip"], "fan", tmp_path / "fan", "")
    assert (tmp_path / "fan" / "train" / "a.wav").read_bytes() == sound("a")


def test_two_zips_of_a_machine_may_bring_the_same_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        content = {**clips("fan", "train", name), "fan/attributes_00.csv": name.encode()}
        (tmp_path / f"{name}.zip").write_bytes(zipped(content))
    unpack([tmp_path / "a.zip", tmp_path / "b.zip"], "fan", tmp_path / "fan", "")
    assert (tmp_path / "fan" / "attributes_00.csv").read_bytes() == b"a"
    assert sorted(os.listdir(tmp_path / "fan" / "train")) == ["a.wav", "b.wav"]
    assert "b.zip: brings fan/attributes_00.csv again" in capfd.readouterr().err


def test_a_download_needs_no_ray() -> None:
    code = "import ray_asd, sys; ray_asd.download; assert not {'ray', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
