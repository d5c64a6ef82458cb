"""A trunk run by OpenVINO on this machine's processor, in place of torch's own kernels.

Torch exports the trunk's graph, and OpenVINO converts and compiles it. Exporting and converting
take seconds and are done once a node, see :mod:`ray_asd.upstream.engine_cache`; each process
compiles the converted graph itself, in a fifth of a second. A graph holds operations by name and
numbers, nothing that executes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as safetensors
from torch import Tensor

from ray_asd.errors import BadInput
from ray_asd.upstream import engine_cache
from ray_asd.upstream.trunk import Trunk
from ray_asd.upstream.weights import pack_weights

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class CompiledTrunk:
    """A trunk in evaluation mode, compiled for inputs of one shape.

    Args:
        trunk: what is compiled.
        settings: the backbone's own, as JSON; part of the cache's key.
        shape: of the input, (segments, mels, frames).
        precision: ``fp32``, or ``bf16`` where the processor has it natively.
        threads: that one call uses.
        cache: folder of converted graphs; this user's if None.

    Raises:
        BadInput: the trunk has an operation that cannot be converted, or the processor lacks
            the precision.
    """

    def __init__(
        self,
        trunk: Trunk,
        settings: str,
        shape: tuple[int, ...],
        *,
        precision: str,
        threads: int,
        cache: Path | None = None,
    ) -> None:
        # Not for a command line that embeds nothing.
        import openvino  # noqa: PLC0415

        core = openvino.Core()
        processor = core.get_property("CPU", "FULL_DEVICE_NAME")
        abilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        if precision == "bf16" and "BF16" not in abilities:
            raise BadInput(
                f"downstream.precision: bf16, which {processor} has not natively; "
                "fit with precision=fp32, or with engine=eager, which emulates it slowly"
            )
        # Whatever may decide the graph. The processor and the precision do not today; a home
        # directory that unlike machines share should not depend on that.
        key = _digest(
            pack_weights(trunk), settings, _source(trunk), shape, precision, processor, abilities,
            *(version(name) for name in ("openvino", "torch", "timm")),
        )  # fmt: skip
        packed = safetensors.load(
            engine_cache.kept(key, lambda: _converted(trunk, shape, settings), cache)
        )
        model = core.read_model(packed["graph"].tobytes(), packed["numbers"].tobytes())
        # One stream of so many threads, none bound to a core: every actor of a node would take
        # the same one.
        self._request = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            },
        ).create_infer_request()

    def __call__(self, entered: Tensor) -> Tensor:
        """(segments, mels, frames) of the compiled shape → (segments, the trunk's width)."""
        self._request.infer({0: np.ascontiguousarray(entered.numpy())}, share_inputs=True)
        # The request's own memory is written anew by the next call.
        return torch.from_numpy(np.array(self._request.get_output_tensor(0).data))


def _converted(trunk: Trunk, shape: tuple[int, ...], settings: str) -> bytes:
    """The trunk as OpenVINO's intermediate representation, packed into one safetensors file."""
    import openvino  # noqa: PLC0415
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder  # noqa: PLC0415

    # What `openvino.convert_model` does, which also would report its use over the network.
    try:
        with torch.inference_mode(False), torch.no_grad(), _without_notes():
            program = torch.export.export(trunk, (torch.zeros(shape),))
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            front_end = FrontEndManager().load_by_framework("pytorch")
            model = front_end.convert(front_end.load(decoder))
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"downstream.engine: openvino cannot run the backbone {settings} ({said}); "
            "set engine=eager"
        ) from error
    model.reshape(list(shape))
    with tempfile.TemporaryDirectory() as folder:
        graph, numbers = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        openvino.serialize(model, graph, numbers)
        packed: bytes = safetensors.save(
            {
                "graph": np.frombuffer(graph.read_bytes(), np.uint8),
                "numbers": np.frombuffer(numbers.read_bytes(), np.uint8),
            }
        )
    return packed


@contextmanager
def _without_notes() -> Iterator[None]:
    """Without the decoder's note, with a traceback, of operations that this torch has not."""

    def other(record: logging.LogRecord) -> bool:
        return "not found in decomp table" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def _source(trunk: Trunk) -> str:
    """Text of the module that says what the trunk computes, empty where there is none."""
    try:
        return inspect.getsource(inspect.getmodule(type(trunk)) or type(trunk))
    except (OSError, TypeError):
        return ""


def _digest(*parts: Any) -> str:
    own = [hashlib.sha256(p).hexdigest() if isinstance(p, bytes) else p for p in parts]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()
