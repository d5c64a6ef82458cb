"""What the upstream learns to tell apart: machine types, and their joint attribute values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from ray_asd import tables
from ray_asd.errors import BadInput

Attributes = Mapping[str, str] | Iterable[tuple[str, str]]
"""Attribute name to value, or the pairs that Arrow makes of a map."""


class AttributeClass(NamedTuple):
    """One joint attribute value of one (machine type, section)."""

    machine_type: str
    section: str
    text: str


def joint_text(attributes: Attributes) -> str:
    """All attributes as one value, by name: the order in which they came does not matter.

    >>> joint_text({"spd": "31V", "car": "B1", "mic": "1"})
    'car=B1,mic=1,spd=31V'
    """
    return ",".join(f"{name}={value}" for name, value in sorted(dict(attributes).items()))


@dataclass(frozen=True)
class Classes:
    """The classes of both heads, sorted; an index into either tuple is a label."""

    machine_types: tuple[str, ...]
    attribute_values: tuple[AttributeClass, ...]

    @classmethod
    def of(cls, recordings: pa.Table) -> Classes:
        """Classes of training recordings: rows of a manifest, all of which are taken.

        A machine type without attributes has no attribute class; an attribute that never varies
        is a class nevertheless.

        Raises:
            BadInput: no row.
        """
        tables.validate(recordings.schema, tables.RECORDINGS, "manifest")
        if not recordings.num_rows:
            raise BadInput(
                "manifest: no normal training recording, so there is nothing to train on; index "
                "a folder that holds some"
            )
        rows = recordings.select(["machine_type", "section", "attributes"]).to_pylist()
        return cls(
            machine_types=tuple(sorted({row["machine_type"] for row in rows})),
            attribute_values=tuple(
                sorted(
                    {
                        AttributeClass(
                            row["machine_type"], row["section"], joint_text(row["attributes"])
                        )
                        for row in rows
                        if row["attributes"]
                    }
                )
            ),
        )

    def labels(self, machine_type: str, section: str, attributes: Attributes) -> tuple[int, int]:
        """Indices of a clip's machine type and attribute class.

        The attribute class is -1 where the clip has no attributes, or none seen in training.

        Raises:
            BadInput: a machine type that is not among the classes.
        """
        if machine_type not in self._type_index:
            raise BadInput(
                f"machine type {machine_type}: not among those trained on "
                f"({', '.join(self.machine_types)}); train on a manifest that holds it"
            )
        key = AttributeClass(machine_type, section, joint_text(attributes))
        return self._type_index[machine_type], self._attribute_index.get(key, -1)

    def to_dict(self) -> dict[str, Any]:
        """These classes as JSON values."""
        return {
            "machine_types": list(self.machine_types),
            "attribute_values": [list(value) for value in self.attribute_values],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Classes:
        """Classes from what :meth:`to_dict` made."""
        return cls(
            machine_types=tuple(tree["machine_types"]),
            attribute_values=tuple(AttributeClass(*value) for value in tree["attribute_values"]),
        )

    @cached_property
    def _type_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.machine_types)}

    @cached_property
    def _attribute_index(self) -> dict[AttributeClass, int]:
        return {value: i for i, value in enumerate(self.attribute_values)}
