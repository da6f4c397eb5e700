"""An ONNX file from a function of the graph; needs `pip install 'kerasbig[onnx]'`."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from kerasbig.export.parity import ExportError
from kerasbig.export.to_litert import INPUTS
from kerasbig.export.tokenizer_json import hugging_face_tokenizer
from kerasbig.export.twin import litert_twin

ONNX_FILE = "model.onnx"
# What onnxruntime has run since 2022.
OPSET = 17
_PACKAGES = ("onnx", "tf2onnx", "onnxruntime")


def require_onnx() -> None:
    """Raises an ImportError if a package of the extra is missing.

    Example:
        >>> require_onnx()
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            message = f"Expected the package {package!r} to export ONNX, which is not installed. Run: pip install 'kerasbig[onnx]'"
            raise ImportError(message, name=package) from error


def write_text_onnx(model: keras_hub.models.BertTextClassifier, folder: Path) -> None:
    """Writes `model.onnx` of a text classifier, from token ids to logits, with its tokenizer in its metadata.

    Inputs: `token_ids`, `padding_mask` and `segment_ids`, int32 (B, T), both left open. Output: `logits`, float32 (B, C).

    Args:
        model: A float32 classifier with its preprocessor.
        folder: An existing folder.

    Raises:
        ExportError: If the converter fails.
    """
    copy = litert_twin(model, int8=False)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, name=name) for name in INPUTS], autograph=False)
    def logits(token_ids: tf.Tensor, padding_mask: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        return copy({"token_ids": token_ids, "padding_mask": padding_mask, "segment_ids": segment_ids}, training=False)

    tokenizer = hugging_face_tokenizer(model.preprocessor).to_str()
    write_onnx(logits, folder, ("logits",), {"task": "text-classifier", "tokenizer": tokenizer})


def write_onnx(function: Any, folder: Path, outputs: Sequence[str], metadata: Mapping[str, str]) -> None:
    """Writes `model.onnx` into a folder.

    Args:
        function: A `tf.function` of fixed signature.
        folder: An existing folder.
        outputs: What its outputs are to be called.
        metadata: What the file says of itself.

    Raises:
        ExportError: If the converter fails, or knows an operation not.
    """
    import onnx
    import tf2onnx

    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    inputs = [tensor.name for tensor in frozen.inputs]
    log = logging.getLogger("tensorflow")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of TensorFlow's functions that the converter calls
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=inputs,
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=OPSET,
            custom_op_handlers={"Erfc": (_complement, [])},
        )
    except Exception as error:
        # The converter raises nearly anything.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"Expected the model to convert to ONNX. The converter says: {reason}") from error
    finally:
        log.setLevel(level)
    unknown = sorted({node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, max_inclusive_version=OPSET)})
    if unknown:
        raise ExportError(f"Expected operations that ONNX has. Received: {', '.join(unknown)}. Export another format.")
    names = {name: name.split(":")[0] for name in inputs} | dict(zip([each.name for each in model.graph.output], outputs, strict=True))
    _rename(model.graph, names)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())


def _complement(context: Any, node: Any, name: str, _: Any) -> None:
    """Writes Erfc, which the converter lacks, as 1 - Erf."""
    source, target = node.input[0], node.output[0]
    shapes, dtypes = [context.get_shape(target)], [context.get_dtype(target)]
    context.remove_node(name)
    one = context.make_const(f"{name}_one", np.array(1, "float32")).output[0]
    error = context.make_node("Erf", [source], shapes=shapes, dtypes=dtypes, name=f"{name}_erf").output[0]
    context.make_node("Sub", [one, error], outputs=[target], shapes=shapes, dtypes=dtypes, name=name)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Gives inputs and outputs the names of the signature instead of the graph's own."""
    for node in graph.node:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = names.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
