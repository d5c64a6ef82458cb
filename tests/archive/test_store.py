import os
from pathlib import Path

import pytest

from ray_asd.archive import store
from ray_asd.errors import BadInput


def test_a_local_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.resolve("rec")[1] == str(tmp_path / "rec")
    assert store.resolve(str(tmp_path / "100%?.wav"))[1] == str(tmp_path / "100%?.wav")


def test_uris_are_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    assert store.resolve(f"file://{tmp_path}/a%20b")[1] == f"{tmp_path}/a b"
    assert store.resolve("file:///")[1] == "/"
    query = "?region=eu-west-1&endpoint_override=http://localhost:1"
    first, path = store.resolve(f"s3://plant/rec/a%23b.wav{query}")
    assert path == "plant/rec/a#b.wav"
    assert store.resolve(f"s3://plant/other{query}")[0] is first


@pytest.mark.parametrize("uri", ["nope://x/y", "s3://b b/x", "file://elsewhere/x"])
def test_a_uri_that_cannot_be_read_is_bad_input(uri: str) -> None:
    with pytest.raises(BadInput, match=uri) as refused:
        store.resolve(uri)
    assert "\n" not in str(refused.value)


def test_join_keeps_the_query_and_encodes_names() -> None:
    uri = "s3://plant/rec/?region=eu-west-1"
    joined = store.join(uri, "fan 1", "a#b?.wav")
    assert joined == "s3://plant/rec/fan%201/a%23b%3F.wav?region=eu-west-1"
    assert store.resolve(joined)[1] == "plant/rec/fan 1/a#b?.wav"
    assert store.name(joined) == "a#b?.wav"
    assert store.join("/rec", "fan 1", "a%.wav") == "/rec/fan 1/a%.wav"
    assert store.name("/rec/fan 1/a%20.wav") == "a%20.wav"


def test_listing_is_ordered_and_leaves_hidden_files_out(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.wav", "a b/3.wav", "z.wav", ".hidden/4.wav", "b/.5.wav", "b.wav"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(name.encode())
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    listed = list(store.list_files(str(tmp_path)))
    names = ["b.wav", "z.wav", "a b/3.wav", "b/1.wav", "b/2.wav"]
    assert [entry.relative for entry in listed] == names
    assert [entry.uri for entry in listed] == [str(tmp_path / name) for name in names]
    assert all(store.stat(entry.uri).fingerprint == entry.fingerprint for entry in listed)
    by_uri = list(store.list_files(f"file://{tmp_path}"))
    assert [store.read_bytes(entry.uri) for entry in by_uri] == [name.encode() for name in names]


def test_what_is_no_folder_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        store.list_files(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        store.list_files(str(tmp_path / "file"))


def test_a_fingerprint_follows_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"1")
    os.utime(file, ns=(10**18, 10**18))
    first = store.stat(str(file))
    assert first is not None
    assert (first.bytes, first.modified_ns) == (1, 10**18)
    os.utime(file, ns=(10**18, 10**18 + 1))
    later = store.stat(str(file))
    file.write_bytes(b"12")
    os.utime(file, ns=(10**18, 10**18))
    longer = store.stat(str(file))
    assert later is not None
    assert longer is not None
    assert len({first.fingerprint, later.fingerprint, longer.fingerprint}) == 3
    assert store.stat(str(tmp_path)) is None
    assert store.stat(str(tmp_path / "none")) is None


def test_an_atomic_write_replaces_or_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    store.write_atomic(str(file), b"old")
    store.write_atomic(str(file), b"new")
    assert file.read_bytes() == b"new"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=f"No space .*{file}"):
            store.write_atomic(str(file), b"half")
    assert file.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_object_store_is_written_listed_and_read() -> None:
    # pyarrow's in-memory store has folders and paths as a bucket has.
    root = "mock:///plant"
    store.make_dir(store.join(root, "fan 1"))
    assert store.exists(root)
    uri = store.join(root, "fan 1", "a.wav")
    assert not store.exists(uri)
    store.write_atomic(uri, b"sound")
    assert store.read_bytes(uri) == b"sound"
    assert [(e.uri, e.relative, e.bytes) for e in store.list_files(root)] == [
        (uri, "fan 1/a.wav", 5)
    ]
