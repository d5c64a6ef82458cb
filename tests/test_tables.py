import pyarrow as pa
import pytest

from ray_asd import tables
from ray_asd.errors import BadInput


def test_every_column_says_what_it_is() -> None:
    for schema in (tables.RECORDINGS, tables.FEATURES, tables.SCORES, tables.REJECTIONS):
        assert len(set(schema.names)) == len(schema.names)
        assert all(field.metadata[b"what"] for field in schema)


def test_more_columns_and_another_order_are_accepted() -> None:
    columns = [pa.field("more", pa.int8()), *reversed(list(tables.RECORDINGS))]
    tables.validate(pa.schema(columns), tables.RECORDINGS, "here")


def test_a_missing_column_is_named() -> None:
    found = tables.RECORDINGS.remove(tables.RECORDINGS.get_field_index("section"))
    with pytest.raises(BadInput, match=r"^here: .*section is missing"):
        tables.validate(found, tables.RECORDINGS, "here")


def test_a_column_of_another_type_is_named() -> None:
    place = tables.RECORDINGS.get_field_index("bytes")
    found = tables.RECORDINGS.set(place, pa.field("bytes", pa.string()))
    with pytest.raises(BadInput, match=r"bytes is string, and should be int64"):
        tables.validate(found, tables.RECORDINGS, "here")
