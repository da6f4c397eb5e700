"""A LiteRT file: token ids in, logits out, at any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf
from keras_hub.layers import ReversibleEmbedding
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from kerasbig.export.parity import ExportError
from kerasbig.export.tokenizer_json import hugging_face_tokenizer
from kerasbig.export.twin import litert_twin

MODEL_FILE = "model.tflite"
TOKENIZER_FILE = "tokenizer.json"
STEPS_AN_OCTAVE = 8
_MOST_CLUSTERS = 256
_LOG_2 = float(np.log(2.0))
INPUTS = ("token_ids", "padding_mask", "segment_ids")


def write_litert(model: keras_hub.models.BertTextClassifier, folder: Path, quantize: str | None) -> None:
    """Writes `model.tflite` and `tokenizer.json` into a folder.

    The file's inputs are int32 (1, T) with T left open: resize them to the length of the text before each length's
    first run. XNNPACK takes the operations after a resize as it does at a fixed length.

    Args:
        model: A float32 classifier with its preprocessor.
        folder: An existing folder.
        quantize: "dynamic" for int8 weights (the embedding tables included) and float activations; "int8" for int8
            activations too, in the layers that `kerasbig.compress.quantize_model` gave ranges; "float16" for float16
            weights, None for float32.

    Raises:
        ExportError: If the converter fails.
    """
    hugging_face_tokenizer(model.preprocessor).save(str(folder / TOKENIZER_FILE), pretty=False)
    copy = litert_twin(model, int8=quantize == "int8")
    if quantize in ("dynamic", "int8"):
        _scale_rows(copy.backbone.token_embedding, rounded=quantize == "int8")
    (folder / MODEL_FILE).write_bytes(_convert(copy, quantize))


class _RowScaledEmbedding(ReversibleEmbedding):
    """An embedding table with rows of like size and, apart from it, the size of each row."""

    row_exponents: tf.Tensor
    rounded: bool  # beside int8 activations the converter leaves a table as it is, unless it is marked

    @property
    def embeddings(self) -> tf.Tensor:
        table = tf.convert_to_tensor(super().embeddings)
        return tf.quantization.fake_quant_with_min_max_args(table, -1.0, 1.0, narrow_range=True) if self.rounded else table

    def call(self, inputs: tf.Tensor, reverse: bool = False) -> tf.Tensor:
        sizes = tf.exp(_LOG_2 * tf.cast(tf.gather(self.row_exponents, inputs), tf.float32) / STEPS_AN_OCTAVE)
        return super().call(inputs, reverse) * sizes[..., None]


def _scale_rows(layer: ReversibleEmbedding, *, rounded: bool) -> None:
    """Lets int8 quantize each row of a table by its own size.

    The converter takes one scale for the whole table, set by its largest value: frequent words, whose rows are small,
    lose most. It would quantize a table of float sizes as well, so they are kept as whole numbers of an eighth of an octave.
    """
    table = layer.embeddings.numpy()  # (V, D)
    exponents = row_exponents(table, rounded=rounded)
    layer.embeddings.assign(table / np.exp2(exponents[:, None] / STEPS_AN_OCTAVE))
    layer.row_exponents, layer.rounded = tf.constant(exponents), rounded
    layer.__class__ = _RowScaledEmbedding


def row_exponents(table: np.ndarray, *, rounded: bool = False) -> np.ndarray:
    """Returns the size of each row of (V, D) in whole eighths of an octave, int32 (V,): no value is above it.

    Example:
        >>> row_exponents(np.float32([np.linspace(0, 0.5, 300), np.linspace(-3, 3, 300)])).tolist()
        [-8, 13]
    """
    largest = np.maximum(np.abs(table).max(axis=1), 1e-12)
    if len(np.unique(table)) <= _MOST_CLUSTERS:  # one size keeps the few values of a clustered table few
        largest[:] = largest.max()
    elif rounded:  # as `kerasbig.compress` rounds rows in training
        largest *= 127.0 / 127.5
    return np.ceil(np.log2(largest) * STEPS_AN_OCTAVE).astype("int32")


def _convert(model: keras_hub.models.BertTextClassifier, quantize: str | None) -> bytes:
    specs = [tf.TensorSpec((1, None), tf.int32, name=name) for name in INPUTS]

    @tf.function(input_signature=specs, autograph=False)
    def logits(token_ids: tf.Tensor, padding_mask: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        features = {"token_ids": token_ids, "padding_mask": padding_mask, "segment_ids": segment_ids}
        return tf.identity(model(features, training=False), name="logits")

    return converted(logits, quantize)


def converted(function: Any, quantize: str | None) -> bytes:
    """Converts a function of fixed signature, with its weights, to a LiteRT file.

    Args:
        function: A `tf.function`.
        quantize: As in `write_litert`.

    Raises:
        ExportError: If the converter fails.
    """
    # With variables in place the converter writes a small file that answers NaN, without an error.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    # A converter remembers its last mode: one for each conversion.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        file: bytes = converter.convert()
    except Exception as error:
        # The converter raises nearly anything, with a page of MLIR.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"Expected the model to convert to LiteRT. The converter says: {reason}") from error
    return file
