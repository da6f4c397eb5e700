"""The float32 copy of a model that every export starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.export.signatures import trim

_IMAGE_TASKS = (keras_hub.models.ImageClassifier, keras_hub.models.ObjectDetector)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def float32_twin(model: keras.Model) -> keras.Model:
    """Rebuilds a model in float32 with the same weights, those of clustered, quantized and LoRA layers as they compute.

    A model built under `mixed_bfloat16` keeps its variables in float32 and computes in bfloat16; the twin computes in
    float32 too. The twin shares the model's preprocessor and is not compiled; the model itself is left as it is.

    Args:
        model: A KerasHub BERT classifier, CausalLM, ImageClassifier or ObjectDetector with its preprocessor.

    Returns:
        A new model of the same class and with the same `class_names`.

    Raises:
        TypeError: If `model` is no such model.
        ValueError: If it has weights that its configuration does not know, or an activation on its logits.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_wordpiece(["a film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, dtype="mixed_bfloat16")
        >>> float32_twin(model).dtype_policy.name
        'float32'
    """
    if isinstance(model, keras_hub.models.CausalLM):
        return _rebuilt_generator(model)
    if isinstance(model, _IMAGE_TASKS):
        return _rebuilt_image_task(model)
    require_classifier(model)
    return _rebuilt(model, model.backbone.max_sequence_length)


def litert_twin(model: keras.Model, *, int8: bool) -> keras.Model:
    """Returns a float32 twin as a LiteRT file is made of it.

    The position table of a text classifier ends at `sequence_length`, beyond which no token ever stands.

    Args:
        model: A classifier of texts or an image task.
        int8: Whether layers from `kerasbig.compress.quantize_model` keep their quantizers.
    """
    if isinstance(model, _IMAGE_TASKS):
        twin = _rebuilt_image_task(model)
    else:
        twin = _rebuilt(model, min(model.backbone.max_sequence_length, model.preprocessor.sequence_length))
    if int8:
        for own, source in zip(_kernel_layers(twin), _kernel_layers(model), strict=True):
            if hasattr(source, "compression"):
                source.compression.repeat_for_litert(own)
    return twin


def is_quantized(model: keras.Model) -> bool:
    """Returns whether a model comes from `kerasbig.compress.quantize_model`, not stripped."""
    return any(getattr(getattr(layer, "compression", None), "weight_quantizer", None) is not None for layer in _kernel_layers(model))


def require_tensorflow() -> None:
    """Raises a ValueError if Keras runs on another backend.

    Example:
        >>> require_tensorflow()
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras to run on TensorFlow. Received: the backend {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )


def require_classifier(model: object) -> None:
    """Raises if `model` is nothing that can be exported.

    Raises:
        TypeError: If it is no KerasHub BERT classifier, or has no preprocessor.
        ValueError: If it gives no logits, its class names do not fit, or Keras runs on another backend.
    """
    require_tensorflow()
    if not isinstance(model, keras_hub.models.BertTextClassifier):
        raise TypeError(
            f"Expected model to be a keras_hub.models.BertTextClassifier. Received: {type(model).__name__}. "
            "Build it with kerasbig.text.bert_classifier."
        )
    if getattr(model.preprocessor, "tokenizer", None) is None:
        raise TypeError("Expected model to have its preprocessor, which goes into the exported files. Received: model.preprocessor=None.")
    activation = keras.activations.serialize(model.activation)
    if activation != "linear":
        raise ValueError(f"Expected model to return logits (activation=None). Received: activation={activation!r}.")
    names = class_names_of(model)
    if len(names or ("value",)) != model.num_classes:
        raise ValueError(
            f"Expected model.class_names to name the model's {model.num_classes} outputs. Received: class_names={names}. "
            "Set one name an output, or None for regression with one output."
        )


def class_names_of(model: keras.Model) -> tuple[str, ...] | None:
    """Returns the model's class names as a tuple; None for regression."""
    names = getattr(model, "class_names", None)
    return None if names is None else tuple(str(name) for name in names)


def tokenized(model: keras_hub.models.BertTextClassifier, texts: Sequence[str]) -> dict[str, tf.Tensor]:
    """Tokenizes N texts as an exported graph does: int32 (N, T) features without columns of padding alone."""
    with tf.device("/CPU:0"):
        # Called outside a graph, KerasHub tokenizes in Python, which gives other tokens for rare characters.
        return trim(tf.function(model.preprocessor, autograph=False)(tf.constant(list(texts))))


def logits_of(model: keras_hub.models.BertTextClassifier, features: Mapping[str, tf.Tensor]) -> np.ndarray:
    """Computes float32 (N, C) logits in this process, on the CPU as the fresh processes do."""
    with tf.device("/CPU:0"):
        return np.asarray(tf.cast(model(dict(features), training=False), tf.float32))


def reference_logits(model: keras_hub.models.BertTextClassifier, texts: Sequence[str]) -> np.ndarray:
    """Computes float32 (N, C) logits of raw texts."""
    return logits_of(model, tokenized(model, texts))


def _rebuilt_generator(model: keras_hub.models.CausalLM) -> keras_hub.models.CausalLM:
    _require_float(model)
    with tf.device("/CPU:0"):
        backbone = type(model.backbone).from_config({**model.backbone.get_config(), "dtype": "float32"})
        twin = type(model)(backbone=backbone, preprocessor=model.preprocessor)
        for own, (_, value) in zip(twin.weights, _checked_weights(model, twin), strict=True):
            own.assign(value)
    twin.class_names = None
    return twin


def _rebuilt_image_task(model: Any) -> Any:
    _require_float(model)
    with tf.device("/CPU:0"):
        backbone = type(model.backbone).from_config({**model.backbone.get_config(), "dtype": "float32"})
        task = {name: value for name, value in model.get_config().items() if name != "name"}
        twin = type(model)(**{**task, "backbone": backbone, "preprocessor": model.preprocessor})
        for own, (_, value) in zip(twin.weights, _checked_weights(model, twin), strict=True):
            own.assign(value)
    twin.class_names = class_names_of(model)
    return twin


def _rebuilt(model: keras_hub.models.BertTextClassifier, positions: int) -> keras_hub.models.BertTextClassifier:
    _require_float(model)
    config = {**model.backbone.get_config(), "dtype": "float32", "max_sequence_length": positions}
    with tf.device("/CPU:0"):
        backbone = keras_hub.models.BertBackbone.from_config(config)
        twin = keras_hub.models.BertTextClassifier(backbone, model.num_classes, preprocessor=model.preprocessor, dropout=model.dropout)
        table = model.backbone.position_embedding.position_embeddings
        for own, (source, value) in zip(twin.weights, _checked_weights(model, twin), strict=True):
            own.assign(value[:positions] if source is table else value)
    twin.class_names = class_names_of(model)
    return twin


def _require_float(model: keras.Model) -> None:
    modes = {layer.quantization_mode for layer in _kernel_layers(model) if getattr(layer, "quantization_mode", None)}
    if modes:
        raise ValueError(
            f"Expected float weights. Received: a model that Keras's own quantize made {', '.join(sorted(modes))}, "
            "which no exported format can hold. Export the float model: quantize='dynamic' writes int8 weights."
        )


def _checked_weights(model: keras.Model, twin: keras.Model) -> list[tuple[keras.Variable, np.ndarray]]:
    weights = _plain_weights(model)
    if len(twin.weights) != len(weights):
        raise ValueError(
            f"Expected the {len(twin.weights)} weights of a plain {type(twin).__name__}. Received: {len(weights)}. "
            "Remove what training added, with kerasbig.compress.strip, before the export."
        )
    return weights


def _kernel_layers(model: keras.Model) -> list[keras.layers.Layer]:
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding, *_CONVOLUTIONS)
    return [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]


def _plain_weights(model: keras.Model) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns the variables that a plain model has, each with its value; a compressed layer's kernel as it computes."""
    compressions = [layer.compression for layer in _kernel_layers(model) if hasattr(layer, "compression")]
    added = {id(variable) for compression in compressions for variable in compression.variables}
    finished = {}
    for layer in _kernel_layers(model):
        if hasattr(layer, "compression"):
            variable, value = layer.compression.finished_kernel(layer)
            finished[id(variable)] = value
        elif getattr(layer, "lora_enabled", False):
            embedding = isinstance(layer, keras.layers.Embedding)
            # The public value is the sum of the frozen weights and what was trained beside them.
            finished[id(layer._embeddings if embedding else layer._kernel)] = _float32(layer.embeddings if embedding else layer.kernel)
            parts = ("lora_embeddings_a", "lora_embeddings_b") if embedding else ("lora_kernel_a", "lora_kernel_b")
            added |= {id(getattr(layer, part)) for part in parts}
    return [(own, finished[id(own)] if id(own) in finished else _float32(own)) for own in model.weights if id(own) not in added]


def _float32(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
