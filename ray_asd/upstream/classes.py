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


class Labels(NamedTuple):
    """A clip's indices into the tuples of :class:`Classes`; -1 for none."""

    machine_type: int
    attributes: int
    plain: int


@dataclass(frozen=True)
class Classes:
    """What there is to tell apart, sorted; an index into any of the tuples is a label.

    The joint label, machine type × section × attributes, has as its classes all attribute
    values and then all plain sections.
    """

    machine_types: tuple[str, ...]
    attribute_values: tuple[AttributeClass, ...]
    plain_sections: tuple[tuple[str, str], ...]
    """(machine type, section) of which some clip has no attributes"""

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
            plain_sections=tuple(
                sorted(
                    {(row["machine_type"], row["section"]) for row in rows if not row["attributes"]}
                )
            ),
        )

    @property
    def joint(self) -> list[int]:
        """Machine type, as a label, of each class of the joint label."""
        return [
            self._type_index[machine_type]
            for machine_type, *_ in (*self.attribute_values, *self.plain_sections)
        ]

    def labels(self, machine_type: str, section: str, attributes: Attributes) -> Labels:
        """Labels of a clip.

        The attribute class is -1 where the clip has no attributes, or none seen in training;
        the plain section is -1 where it has some.

        Raises:
            BadInput: a machine type that is not among the classes.
        """
        if machine_type not in self._type_index:
            raise BadInput(
                f"machine type {machine_type}: not among those trained on "
                f"({', '.join(self.machine_types)}); train on a manifest that holds it"
            )
        key = AttributeClass(machine_type, section, joint_text(attributes))
        return Labels(
            self._type_index[machine_type],
            self._attribute_index.get(key, -1),
            -1 if key.text else self._plain_index.get((machine_type, section), -1),
        )

    def to_dict(self) -> dict[str, Any]:
        """These classes as JSON values."""
        return {
            "machine_types": list(self.machine_types),
            "attribute_values": [list(value) for value in self.attribute_values],
            "plain_sections": [list(key) for key in self.plain_sections],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Classes:
        """Classes from what :meth:`to_dict` made."""
        return cls(
            machine_types=tuple(tree["machine_types"]),
            attribute_values=tuple(AttributeClass(*value) for value in tree["attribute_values"]),
            plain_sections=tuple((key[0], key[1]) for key in tree["plain_sections"]),
        )

    @cached_property
    def _type_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.machine_types)}

    @cached_property
    def _attribute_index(self) -> dict[AttributeClass, int]:
        return {value: i for i, value in enumerate(self.attribute_values)}

    @cached_property
    def _plain_index(self) -> dict[tuple[str, str], int]:
        return {key: i for i, key in enumerate(self.plain_sections)}
