from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_asd.archive import build, held_out, listing, manifest, read, store, training, write
from ray_asd.archive.manifest import in_hash_order
from ray_asd.errors import BadInput
from ray_asd.tables import RECORDINGS
from tests.conftest import Bucket

TRAIN = "fan/train/section_00_source_train_normal_0001_m-n_X.wav"
OTHER = "fan/train/section_00_source_train_normal_0002_m-n_X.FLAC"
TEST = "fan/test/section_00_0001.wav"


def archive(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return str(root)


def test_a_manifest_has_a_row_for_every_recording(tmp_path: Path) -> None:
    root = archive(tmp_path, TRAIN, OTHER, TEST, "fan/train/odd.wav", "fan/readme.txt")
    index = build(root)
    assert index.table.schema.equals(RECORDINGS)
    assert index.table["uri"].to_pylist() == [str(tmp_path / n) for n in (TEST, TRAIN, OTHER)]
    assert index.table["split"].to_pylist() == ["test", "train", "train"]
    assert index.table["domain"].to_pylist() == ["unknown", "source", "source"]
    assert index.table["bytes"].to_pylist() == [len(n) for n in (TEST, TRAIN, OTHER)]
    assert index.skipped == ["fan/train/odd.wav"]
    assert index.notes == []
    below = build(f"{root}/fan/train").table
    assert below["machine_type"].to_pylist() == ["fan", "fan"]


def test_the_attribute_table_wins_over_the_name(tmp_path: Path) -> None:
    root = archive(tmp_path, TRAIN, OTHER, TEST)
    (tmp_path / "fan/attributes_00.csv").write_text(
        "file_name,d1p,d1v,d2p,d2v\n"
        f"{TRAIN},m-n,X,,\n"
        f"{OTHER.replace('FLAC', 'wav')},m-n,Y,spd,3\n"
        f"{TEST},noAttribute\n"
        "fan/train/never_recorded.wav,m-n,Z\n"
    )
    index = build(root)
    found = [dict(pairs) for pairs in index.table["attributes"].to_pylist()]
    assert found == [{}, {"m-n": "X"}, {"m-n": "Y", "spd": "3"}]
    assert len(index.notes) == 1
    assert "fan/attributes_00.csv" in index.notes[0]
    assert "1 recordings" in index.notes[0]
    assert OTHER in index.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"name,d1p,d1v\n",
        b"file_name,d1p\n",
        b"file_name,d1p,d1v\na.wav,m-n,X,Y\n",
        b"file_name,d1p,d1v\n,m-n,X\n",
        b'file_name,d1p,d1v\n"a.wav,m-n,X\n',
        b"\xff\xfe\x00",
    ],
)
def test_a_malformed_attribute_table_is_named(tmp_path: Path, text: bytes) -> None:
    root = archive(tmp_path, TRAIN)
    (tmp_path / "fan/attributes_00.csv").write_bytes(text)
    with pytest.raises(BadInput, match=r"attributes_00\.csv: ") as refused:
        build(root)
    assert "\n" not in str(refused.value)


def test_a_root_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        build(str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"no \.wav or \.flac"):
        build(archive(tmp_path, "notes.txt"))
    with pytest.raises(BadInput, match=r"none of its 1 recordings .*a/b\.wav.*--layout"):
        build(archive(tmp_path, "a/b.wav"))
    assert build(str(tmp_path), "{machine_type}/{file}").table["machine_type"][0].as_py() == "a"


def test_a_manifest_reads_back_as_written(tmp_path: Path) -> None:
    index = build(archive(tmp_path / "rec", TRAIN, TEST))
    path = str(tmp_path / "manifest.parquet")
    write(index.table, path)
    assert read(path).equals(index.table)
    # Other writers choose other orders and types for the same columns.
    strange = index.table.select(RECORDINGS.names[::-1]).append_column("more", pa.array([1, 2]))
    place = strange.column_names.index("machine_type")
    column = strange["machine_type"].dictionary_encode()
    pq.write_table(strange.set_column(place, "machine_type", column), path)
    assert read(path).equals(index.table)


def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    table = build(archive(tmp_path / "rec", TRAIN)).table
    path = tmp_path / "manifest.parquet"
    for content, says in (
        (None, "no such file"),
        (b"", "Parquet"),
        (b"not Parquet at all", "Parquet"),
        (pa.table({"uri": ["a"]}), "column bytes is missing"),
        (table.set_column(1, "bytes", pa.array(["1"])), "column bytes is string"),
        (table.set_column(0, "uri", pa.array([None], pa.string())), "null"),
        (table.set_column(6, "domain", pa.array(["nowhere"])), "'nowhere'"),
    ):
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            pq.write_table(content, path)
        with pytest.raises(BadInput) as refused:
            read(str(path))
        line = str(refused.value)
        assert str(path) in line
        assert says in line
        assert "ray-asd index" in line
        assert "\n" not in line
    with pytest.raises(BadInput, match="cannot be written"):
        write(table, str(tmp_path / "none" / "manifest.parquet"))


def test_rows_come_some_at_a_time_and_are_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_ROWS", 2)
    names = [f"fan/test/section_00_{n:04d}.wav" for n in range(5)]
    root = archive(tmp_path / "rec", *names)
    listed = listing.Listing(root, "dcase")
    path = str(tmp_path / "m.parquet")
    write(listed.tables(), path)
    assert manifest.row_groups(path) == [2, 2, 1]
    assert read(path).equals(build(root).table)
    assert [len(table) for table in manifest.scan(path, [1, 2])] == [3]
    (tmp_path / "rec" / names[0]).rename(tmp_path / "rec" / "fan" / "test" / "odd.wav")
    (tmp_path / "rec" / "fan" / "attributes_00.csv").write_bytes(b"odd")
    before = Path(path).read_bytes()
    with pytest.raises(BadInput, match="attributes_00"):
        write(listed.tables(), path)
    assert Path(path).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "rec"]


def test_what_the_rows_lack_is_not_told_of_the_file(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.Table]:
        yield RECORDINGS.empty_table()
        raise OSError("the bucket is gone")

    with pytest.raises(OSError, match="the bucket is gone"):
        write(broken(), str(tmp_path / "m.parquet"))
    assert not list(tmp_path.iterdir())


def test_a_manifest_is_put_into_a_bucket_whole(tmp_path: Path, bucket: Bucket) -> None:
    # Larger than one call of an upload takes.
    table = recordings([("fan", "source", "test", "normal")] * 60_000)
    table = table.set_column(3, table.schema.field(3), pa.array(token_hex(8) for _ in table["uri"]))
    for place in (bucket.uri("a b", "m.parquet"), "mock:///m.parquet"):
        write(table, place)
        assert read(place).equals(table)


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_the_attribute_table_wins_wherever_a_store_lists_it(
    tmp_path: Path, bucket: Bucket, where: str
) -> None:
    # In the order of their bytes, the tables' names come last.
    machines = {f"{n}/{m}": f"v{n}{m}" for n in "ab" for m in ("fan", "pump")}
    names = [f"{m}/{s}/section_00_0001.wav" for m in machines for s in ("TRAIN", "test", "train")]
    places = dict.fromkeys(names, b"") | {
        f"{machine}/attributes_00.csv": (
            f"file_name,d1p,d1v\ntest/section_00_0001.wav,m-n,{value}\n"
        ).encode()
        for machine, value in machines.items()
    }
    root = str(tmp_path) if where == "disk" else bucket.uri("rec")
    for name, data in places.items():
        uri = store.join(root, *name.split("/"))
        if where == "disk":
            store.make_dir(str(Path(uri).parent))
        store.write_atomic(uri, data)
    index = build(root)
    assert len(index.skipped) == 4
    below = f"{store.resolve(root)[1]}/"
    found = {
        store.resolve(row["uri"])[1].removeprefix(below): dict(row["attributes"])
        for row in index.table.to_pylist()
    }
    assert found == {
        f"{machine}/{split}/section_00_0001.wav": {"m-n": value} if split == "test" else {}
        for machine, value in machines.items()
        for split in ("test", "train")
    }


def recordings(rows: list[tuple[str, str, str, str]], folder: str = "/rec") -> pa.Table:
    machine, domain, split, label = zip(*rows, strict=True) if rows else ((), (), (), ())
    n = len(rows)
    columns = {
        "uri": [f"{folder}/{m}/{s}/{i}.wav" for i, (m, _, s, _) in enumerate(rows)],
        "bytes": [1] * n, "modified_ns": [1] * n, "fingerprint": ["f"] * n,
        "machine_type": list(machine), "section": ["00"] * n, "domain": list(domain),
        "split": list(split), "label": list(label), "attributes": [[]] * n,
        "recorded_at": [None] * n, "fields": [[]] * n,
    }  # fmt: skip
    return pa.table(columns, schema=RECORDINGS)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["fan", "valve"]),
        st.sampled_from(["source", "target"]),
        st.sampled_from(["train", "train", "test"]),
        st.sampled_from(["normal", "normal", "unknown", "anomaly"]),
    ),
    max_size=60,
)


@given(ROWS, st.floats(0.01, 0.99))
def test_the_held_out_share_is_exact_and_never_all(
    rows: list[tuple[str, str, str, str]], share: float
) -> None:
    chosen = held_out(recordings(rows), share)
    learnt = np.array([s == "train" and x != "anomaly" for _, _, s, x in rows], dtype=bool)
    assert not np.any(chosen & ~learnt)
    for group in {row[:2] for row in rows}:
        own = np.array([row[:2] == group for row in rows]) & learnt
        n = int(own.sum())
        assert chosen[own].sum() == max(0, min(int(n * share + 0.5), n - 1))


@given(ROWS, st.randoms())
def test_the_choice_is_the_clips_own(rows: list[tuple[str, str, str, str]], chance) -> None:  # type: ignore[no-untyped-def]
    table = recordings(rows)
    order = list(range(len(rows)))
    chance.shuffle(order)
    moved = recordings(rows, "s3://plant/other").take(pa.array(order, pa.int64()))
    assert np.array_equal(held_out(moved, 0.3), held_out(table, 0.3)[order])


def test_training_takes_unknown_labels_as_normal() -> None:
    rows = [
        ("fan", "source", split, label)
        for split in ("train", "test", "unknown")
        for label in ("normal", "unknown", "anomaly")
    ]
    learnt = training(recordings(rows))
    assert learnt["split"].to_pylist() == ["train", "train"]
    assert learnt["label"].to_pylist() == ["normal", "unknown"]


def test_real_recordings_are_all_listed(real_recordings: Path) -> None:
    index = build(str(real_recordings))
    assert (index.skipped, index.notes) == ([], [])
    toycar = index.table.filter(pa.compute.equal(index.table["machine_type"], "ToyCar"))
    assert len(toycar) == 358
    assert held_out(toycar, 0.1).sum() == 25 + 1
    assert set(dict(toycar["attributes"][0].as_py())) == {"car", "spd", "mic"}


def test_a_uri_that_stands_twice_is_refused(tmp_path: Path) -> None:
    table = recordings([("fan", "source", "test", "normal")])
    write(pa.concat_tables([table, table]), str(tmp_path / "m.parquet"))
    with pytest.raises(BadInput, match=r"m\.parquet: 1 of its 2 rows name a uri again"):
        read(str(tmp_path / "m.parquet"))


def test_the_order_of_hashes_is_that_of_the_uris_alone_and_keeps_every_row() -> None:
    table = pa.table({"uri": [f"{n}.wav" for n in range(200)], "row": range(200)})
    ordered = in_hash_order(table)
    assert ordered == in_hash_order(table.take(pa.array(range(199, -1, -1))))
    assert sorted(ordered["row"].to_pylist()) == list(range(200))
    assert 60 < sum(ordered["row"].to_pylist()[:100]) / 100 < 140
