import os
from pathlib import Path

import pytest
from pyarrow import fs

from ray_asd.archive import store, walk
from ray_asd.errors import BadInput
from tests.conftest import Bucket

NAMES = (
    ".hidden/a.wav",
    "B/1.wav",
    "a/.5.wav",
    "a/1.wav",
    "a/b/1.wav",
    "a/b/2.wav",
    "a.wav",
    "a#/100% ?+.wav",
    "d/1.wav",
    "d/2.wav",
    "d/3/1.wav",
    "d/4.wav",
    "z.wav",
    "ü/é.wav",
)


def fill(bucket: Bucket) -> tuple[fs.FileSystem, str]:
    filesystem, path = store.resolve(bucket.uri("rec"))
    for name in NAMES:
        store.write_atomic(store.join(bucket.uri("rec"), *name.split("/")), name.encode())
    # What a client leaves where it made a folder, and an empty file.
    filesystem.create_dir(f"{path}/empty")
    store.write_atomic(bucket.uri("rec", "d", "0.wav"), b"")
    return filesystem, path


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_a_bucket_is_walked_like_a_disk(
    bucket: Bucket, tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_PAGE", page)
    filesystem, path = fill(bucket)
    root = bucket.uri("rec").replace("rec?", "rec/?")
    listed = list(store.list_files(root))
    assert [(e.relative, e.bytes, e.modified_ns) for e in listed] == list(
        walk.by_folder(filesystem, path)
    )
    for entry in listed:
        seen = store.stat(entry.uri)
        assert seen is not None
        assert seen.fingerprint == entry.fingerprint
        assert store.read_bytes(entry.uri) in (b"", entry.relative.encode())
    for name in (*NAMES, "d/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    on_disk = [found.relative for found in walk.on_disk(str(tmp_path))]
    assert [entry.relative for entry in listed] == on_disk
    assert len(on_disk) == len(NAMES) - 1
    whole = [entry.relative for entry in store.list_files(bucket.uri())]
    assert whole == [f"rec/{name}" for name in on_disk]


def test_names_that_pages_do_not_serve_keep_nothing_back(bucket: Bucket) -> None:
    filesystem, path = fill(bucket)
    before = [found.relative for found in walk.by_folder(filesystem, path)]
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{bucket.endpoint}", region_name="us-east-1")
    client.put_object(Bucket=bucket.name, Key="rec/a/b//nameless.wav", Body=b"1")
    client.put_object(Bucket=bucket.name, Key="rec/d/4.wav/../1.wav", Body=b"1")
    after = [entry.relative for entry in store.list_files(bucket.uri("rec"))]
    assert [name for name in after if name in before] == before


def test_a_link_to_nothing_and_what_is_no_file_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").symlink_to("gone")
    (tmp_path / "c.wav").symlink_to("a.wav")
    os.mkfifo(tmp_path / "d.wav")
    assert [f.relative for f in walk.on_disk(str(tmp_path))] == ["a.wav", "c.wav"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone: cannot be listed: No such file"):
        list(walk.on_disk(str(tmp_path / "gone")))


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")).touch()
    with pytest.raises(BadInput, match=r"the name \\xff\.wav is not UTF-8"):
        list(walk.on_disk(str(tmp_path)))
