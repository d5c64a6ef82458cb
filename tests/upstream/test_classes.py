import json

import pyarrow as pa
import pytest

from ray_asd import tables
from ray_asd.errors import BadInput
from ray_asd.upstream import AttributeClass, Classes

ROWS = [
    ("valve", "00", {}),
    ("ToyCar", "00", {"car": "B1", "spd": "31V", "mic": "1"}),
    ("ToyCar", "00", {"mic": "1", "car": "B1", "spd": "31V"}),
    ("ToyCar", "01", {"car": "B1", "spd": "31V", "mic": "1"}),
    ("drone", "00", {"model": "only"}),
]


def manifest(rows: list[tuple[str, str, dict[str, str]]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "uri": str(i),
                "bytes": 1,
                "modified_ns": 1,
                "fingerprint": "f",
                "machine_type": machine_type,
                "section": section,
                "domain": "source",
                "split": "train",
                "label": "normal",
                "attributes": list(attributes.items()),
                "fields": [],
            }
            for i, (machine_type, section, attributes) in enumerate(rows)
        ],
        schema=tables.RECORDINGS,
    )


def test_each_joint_value_of_a_section_is_a_class_and_none_is_made_of_no_attributes() -> None:
    classes = Classes.of(manifest(ROWS))
    assert classes.machine_types == ("ToyCar", "drone", "valve")
    assert classes.attribute_values == (
        AttributeClass("ToyCar", "00", "car=B1,mic=1,spd=31V"),
        AttributeClass("ToyCar", "01", "car=B1,mic=1,spd=31V"),
        AttributeClass("drone", "00", "model=only"),
    )
    assert classes.plain_sections == (("valve", "00"),)
    assert classes.joint == [0, 0, 1, 2]
    assert Classes.of(manifest(ROWS[::-1])) == classes


def test_labels_of_clips_with_without_and_with_unseen_attributes() -> None:
    classes = Classes.of(manifest(ROWS))
    known = [("spd", "31V"), ("car", "B1"), ("mic", "1")]
    assert classes.labels("ToyCar", "01", known) == (0, 1, -1)
    assert classes.labels("valve", "00", {}) == (2, -1, 0)
    assert classes.labels("ToyCar", "00", {"car": "C9"}) == (0, -1, -1)
    with pytest.raises(BadInput, match=r"engine.*ToyCar, drone, valve"):
        classes.labels("engine", "00", {})


def test_round_trip_through_json() -> None:
    classes = Classes.of(manifest(ROWS))
    again = Classes.from_dict(json.loads(json.dumps(classes.to_dict())))
    assert again == classes
    assert again.labels("drone", "00", {"model": "only"}) == (1, 2, -1)


def test_a_manifest_without_training_recordings_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to train on"):
        Classes.of(manifest([]))
