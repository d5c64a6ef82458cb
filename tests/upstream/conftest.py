from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_asd import recipe, tables
from ray_asd.upstream import Batch, Classes

MELS = 12

Features = Callable[..., pa.Table]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Callable[..., recipe.Recipe]:
    """The shipped recipe, made small: 12 bands, a Transformer of width 16, 17 frames."""

    def make(*overrides: str) -> recipe.Recipe:
        return recipe.load(
            "first_shot",
            [
                f"front_end.mels={MELS}",
                "clips.segment_s=0.256",
                "upstream.embedding=8",
                "upstream.backbones.transformer.width=16",
                "upstream.backbones.transformer.heads=2",
                "upstream.backbones.transformer.layers=2",
                "upstream.backbones.transformer.feed_forward=32",
                *overrides,
            ],
        )

    return make


@pytest.fixture
def features() -> Features:
    """A features table of (machine type, attributes, domain) rows.

    Log-mel like noise about -8, in which each machine type has a band of its own and each
    attribute value another.
    """

    def make(
        rows: list[tuple[str, dict[str, str], str]], frames: int = 40, seed: int = 0
    ) -> pa.Table:
        rng = np.random.default_rng(seed)
        types = sorted({machine_type for machine_type, _, _ in rows})
        values = sorted({str(attributes) for _, attributes, _ in rows if attributes})
        made = []
        for i, (machine_type, attributes, domain) in enumerate(rows):
            mel = rng.normal(-8, 1.5, (MELS, frames))
            mel[types.index(machine_type)] += 4
            if attributes:
                mel[len(types) + values.index(str(attributes))] += 4
            made.append(
                {
                    "uri": f"{machine_type}/{domain}/{i:04}.wav",
                    "bytes": 1,
                    "modified_ns": 1,
                    "fingerprint": "f",
                    "machine_type": machine_type,
                    "section": "00",
                    "domain": domain,
                    "split": "train",
                    "label": "normal",
                    "attributes": list(attributes.items()),
                    "recorded_at": None,
                    "fields": [],
                    "start_s": 0.0,
                    "duration_s": 1.0,
                    "frames": frames,
                    "mel": mel.astype("<f2").tobytes(),
                }
            )
        return pa.Table.from_pylist(made, schema=tables.FEATURES)

    return make


@pytest.fixture
def random_batch() -> Callable[..., Batch]:
    """A batch of noise with the given labels; -1 is no attribute class, a plain section."""

    def make(classes: Classes, types: list[int], attributes: list[int], frames: int = 17) -> Batch:
        draws = torch.Generator().manual_seed(0)
        by_type = torch.eye(len(classes.machine_types))
        by_value = torch.eye(len(classes.attribute_values) + 1)[:, :-1]
        plain = torch.tensor(
            [
                [
                    float(value < 0 and machine_type == classes.machine_types[label])
                    for machine_type, _ in classes.plain_sections
                ]
                for label, value in zip(types, attributes, strict=True)
            ]
        )
        return Batch(
            torch.randn(len(types), MELS, frames, generator=draws),
            by_type[types],
            by_value[attributes],
            plain,
        )

    return make


@pytest.fixture
def three_types() -> Classes:
    """Two machine types with attributes and one without."""
    return Classes.from_dict(
        {
            "machine_types": ["fan", "gearbox", "valve"],
            "attribute_values": [
                ["fan", "00", "m=a"],
                ["fan", "00", "m=b"],
                ["valve", "00", "v=1"],
            ],
            "plain_sections": [["gearbox", "00"]],
        }
    )
