"""A LiteRT file without what no interpreter reads: the names of inner tensors, empty tables, a buffer for each tensor without values.

Equal vectors, such as the zero points of each output of a kernel, which are all zero, are written once and pointed at. Of a file with int8
weights, tables that the converter leaves in float32, such as a ViT's positions, are stored in float16.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

# Smaller ones, such as scales and biases, are not worth an operation.
LEAST_TABLE_BYTES = 16_384
_FLOAT32, _FLOAT16, _DEQUANTIZE = schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.BuiltinOperator.DEQUANTIZE
# The first version of the operation that reads float16.
_DEQUANTIZE_VERSION = 3


def slimmed(file: bytes, *, halve_tables: bool = False) -> bytes:
    """Returns a LiteRT file that computes the same with fewer bytes; of a small model a tenth is no weights.

    Args:
        file: What the converter wrote.
        halve_tables: Whether large float32 constants are stored in float16, for files whose weights have fewer digits still.

    Returns:
        The same model; inputs and outputs keep their names.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file, 0))
    if halve_tables:
        for graph in model.subgraphs:
            _store_tables_in_float16(model, graph)
    for graph in model.subgraphs:
        named = {*(int(index) for index in graph.inputs), *(int(index) for index in graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in named:
                tensor.name = None
            if tensor.shapeSignature is not None and list(tensor.shapeSignature) == list(tensor.shape):
                tensor.shapeSignature = None
            if tensor.quantization is not None and _is_empty(tensor.quantization.scale):
                tensor.quantization = None
    _join_empty_buffers(model)
    builder = _SharingBuilder(len(file))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes vectors of the same values once: the format allows many tables to point at one."""

    def __init__(self, size: int):
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> int:  # noqa: N802  (the name that generated code calls)
        """Returns the place of a vector."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def _store_tables_in_float16(model: Any, graph: Any) -> None:
    """Puts an operation in front that widens each large float32 constant, as the converter does for float16 files."""
    first = []
    for index, tensor in enumerate(list(graph.tensors)):
        data = model.buffers[tensor.buffer].data
        if tensor.type != _FLOAT32 or _is_empty(data) or len(data) < LEAST_TABLE_BYTES:
            continue
        with np.errstate(over="ignore"):
            halves = np.frombuffer(bytes(data), "<f4").astype("<f2")
        if not np.isfinite(halves).all():
            continue
        stored = schema.TensorT()
        stored.shape, stored.type, stored.buffer = tensor.shape, _FLOAT16, len(model.buffers)
        buffer = schema.BufferT()
        buffer.data = halves.view("uint8")
        model.buffers.append(buffer)
        operator = schema.OperatorT()
        operator.opcodeIndex = _place_of_dequantize(model)
        operator.inputs, operator.outputs = np.array([len(graph.tensors)], "int32"), np.array([index], "int32")
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.DequantizeOptions, schema.DequantizeOptionsT()
        graph.tensors.append(stored)
        tensor.buffer = 0
        first.append(operator)
    graph.operators = [*first, *graph.operators]


def _place_of_dequantize(model: Any) -> int:
    for place, code in enumerate(model.operatorCodes):
        if code.builtinCode == _DEQUANTIZE:
            code.version = max(code.version, _DEQUANTIZE_VERSION)
            return place
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _DEQUANTIZE
    code.version = _DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _is_empty(values: Any) -> bool:
    return values is None or len(values) == 0


def _join_empty_buffers(model: Any) -> None:
    """Lets all tensors without values share the first buffer, which is empty by the format's own rule."""
    kept, places = [model.buffers[0]], {}
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors} | {entry.buffer for entry in model.metadata or []}
    for place, buffer in enumerate(model.buffers):
        if place in used and place and not _is_empty(buffer.data):
            places[place] = len(kept)
            kept.append(buffer)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = places.get(tensor.buffer, 0)
    for entry in model.metadata or []:
        entry.buffer = places.get(entry.buffer, 0)
    model.buffers = kept
