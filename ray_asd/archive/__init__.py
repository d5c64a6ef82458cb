from ray_asd.archive.audio import decode
from ray_asd.archive.layout import Layout, Named, layout_of
from ray_asd.archive.manifest import Index, build, held_out, read, training, write

__all__ = [
    "Index",
    "Layout",
    "Named",
    "build",
    "decode",
    "held_out",
    "layout_of",
    "read",
    "training",
    "write",
]
