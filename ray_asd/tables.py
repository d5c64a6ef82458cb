"""The Arrow schema of every table that crosses a boundary; units stand in field metadata.

Whoever reads a table validates it with :func:`validate`, so that a file of another kind is
refused with one line that names it.
"""

from collections.abc import Iterable

import pyarrow as pa

from ray_asd.errors import BadInput

DOMAINS = ("source", "target", "unknown")
SPLITS = ("train", "test", "unknown")
LABELS = ("normal", "anomaly", "unknown")


def _field(name: str, kind: pa.DataType, what: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"what": what})


_TEXTS = pa.map_(pa.string(), pa.string())

RECORDINGS = pa.schema(
    [
        _field("uri", pa.string(), "where the file lies: a path, or a URI that pyarrow.fs reads"),
        _field("bytes", pa.int64(), "size of the file in bytes"),
        _field("modified_ns", pa.int64(), "modification time, nanoseconds since 1970 UTC"),
        _field("fingerprint", pa.string(), "of size and modification time"),
        _field("machine_type", pa.string(), "machine type"),
        _field("section", pa.string(), "section of the machine type, as in the file name"),
        _field("domain", pa.string(), f"one of {', '.join(DOMAINS)}"),
        _field("split", pa.string(), f"one of {', '.join(SPLITS)}"),
        _field("label", pa.string(), f"one of {', '.join(LABELS)}"),
        _field("attributes", _TEXTS, "attribute name to value; empty where none are known"),
        _field("recorded_at", pa.timestamp("us", "UTC"), "time of the recording", nullable=True),
        _field("fields", _TEXTS, "what else the layout named: site, asset, …"),
    ]
)
"""The manifest: one row is one file of the archive."""

_CLIP = [
    _field("start_s", pa.float64(), "start of the clip in its recording, seconds"),
    _field("duration_s", pa.float64(), "duration of the clip, seconds"),
]

CLIPS = pa.schema([*RECORDINGS, *_CLIP])
"""A clip's keys: its recording's columns, and where in the recording it lies."""

FEATURES = pa.schema(
    [
        *CLIPS,
        _field("frames", pa.int32(), "mel frames of the clip"),
        _field("mel", pa.large_binary(), "float16 little-endian, (mels, frames), row by row"),
    ]
)
"""One clip's mel tensor under one front-end digest."""


def embeddings(backbones: Iterable[str]) -> pa.Schema:
    """One row is one clip; a column ``embedding/<backbone>`` for each backbone.

    The column holds float32 (segments × the backbone's embedding width), row by row; ``segments``
    says how many.
    """
    return pa.schema(
        [
            *CLIPS,
            _field("segments", pa.int32(), "segments of the clip"),
            *(
                _field(f"embedding/{name}", pa.list_(pa.float32()), "(segments, embedding)")
                for name in backbones
            ),
        ]
    )


_MEMBERS = pa.map_(pa.string(), pa.float64())
_NIGHT = _field("night", pa.string(), "UTC date on which the run began, YYYY-MM-DD")

SCORES = pa.schema(
    [
        *CLIPS,
        _field("ensemble", pa.string(), "name of the ensemble"),
        _field("score", pa.float64(), "standard deviations above normal; higher = more anomalous"),
        _field("percentile", pa.float64(), "share of reference normals that score lower, 0 to 1"),
        _field("decision", pa.int8(), "1 where the score is above the section's threshold"),
        _field("members_raw", _MEMBERS, "each member's score before standardization"),
        _field("members", _MEMBERS, "each member's score after standardization"),
        _field("segment_scores", pa.list_(pa.float64()), "the ensemble's score of each segment"),
        _field("segment_starts_s", pa.list_(pa.float64()), "start in the clip, seconds"),
        _field("nearest_uri", pa.string(), "recording of the nearest normal training clip"),
        _field("nearest_start_s", pa.float64(), "start of that clip in its recording, seconds"),
        _field("section_digest", pa.string(), "of all that decides this section's scores"),
        _field("bundle_id", pa.string(), "the bundle"),
        _field("run_id", pa.string(), "the run"),
        _field("scored_at", pa.timestamp("us", "UTC"), "when this row was computed"),
        _NIGHT,
    ]
)
"""One row is one clip × one ensemble."""

REJECTIONS = pa.schema(
    [
        *CLIPS,
        _field("reason", pa.string(), "one of ray_asd.errors.Reason"),
        _field("detail", pa.string(), "what is wrong, in words"),
        _field("section_digest", pa.string(), "of the section; empty where the bundle has none"),
        _field("run_id", pa.string(), "the run"),
        _NIGHT,
    ]
)
"""One row is one clip or file that could not be scored."""


def validate(found: pa.Schema, contract: pa.Schema, origin: str) -> None:
    """Check that a table read from ``origin`` has all columns of ``contract``, in their types.

    More columns, another order and another nullability are accepted.

    Raises:
        BadInput: names the file, the first differing column and what it should be.
    """
    for field in contract:
        index = found.get_field_index(field.name)
        if index < 0:
            raise BadInput(
                f"{origin}: not a table of this kind: the column {field.name} is missing; "
                f"it has {', '.join(found.names[:6]) or 'no columns'}"
            )
        kind = found.field(index).type
        if _plain(kind) != _plain(field.type):
            raise BadInput(
                f"{origin}: the column {field.name} is {kind}, and should be {field.type}"
            )


def _plain(kind: pa.DataType) -> str:
    """The type as text, without field names and nullability, which writers choose freely."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_map(kind):
        return f"map<{_plain(kind.key_type)}, {_plain(kind.item_type)}>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_plain(kind.value_type)}>"
    return str(kind).removeprefix("large_")
