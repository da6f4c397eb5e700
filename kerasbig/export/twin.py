"""The float32 copy of a model that every export starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.export.signatures import text_to_logits


def float32_twin(model: keras_hub.models.BertTextClassifier) -> keras_hub.models.BertTextClassifier:
    """Rebuilds a classifier in float32 with the same weights, those of clustered and quantized layers as they compute.

    A model built under `mixed_bfloat16` keeps its variables in float32 and computes in bfloat16; the twin computes in
    float32 too. The twin shares the model's preprocessor and is not compiled; the model itself is left as it is.

    Args:
        model: A KerasHub BERT classifier with its preprocessor.

    Returns:
        A new model of the same class and with the same `class_names`.

    Raises:
        TypeError: If `model` is not such a classifier.
        ValueError: If it has weights that its configuration does not know, or an activation on its logits.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_wordpiece(["a film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, dtype="mixed_bfloat16")
        >>> float32_twin(model).dtype_policy.name
        'float32'
    """
    require_classifier(model)
    return _rebuilt(model, model.backbone.max_sequence_length)


def litert_twin(model: keras_hub.models.BertTextClassifier, *, int8: bool) -> keras_hub.models.BertTextClassifier:
    """Returns a float32 twin whose position table ends at `sequence_length`, beyond which no token ever stands.

    Args:
        model: The model.
        int8: Whether layers from `kerasbig.compress.quantize_model` keep their quantizers.
    """
    twin = _rebuilt(model, min(model.backbone.max_sequence_length, model.preprocessor.sequence_length))
    if int8:
        for own, source in zip(_kernel_layers(twin), _kernel_layers(model), strict=True):
            if hasattr(source, "compression"):
                source.compression.repeat_for_litert(own)
    return twin


def is_quantized(model: keras.Model) -> bool:
    """Returns whether a model comes from `kerasbig.compress.quantize_model`, not stripped."""
    return any(getattr(getattr(layer, "compression", None), "weight_quantizer", None) is not None for layer in _kernel_layers(model))


def require_classifier(model: object) -> None:
    """Raises if `model` is nothing that can be exported.

    Raises:
        TypeError: If it is no KerasHub BERT classifier, or has no preprocessor.
        ValueError: If it gives no logits, its class names do not fit, or Keras runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras to run on TensorFlow. Received: the backend {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )
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


def fingerprint(model: keras_hub.models.BertTextClassifier) -> str:
    """Returns the SHA-256 over all that an answer depends on: weights, tokenizer, sequence length and class names."""
    tokenizer = model.preprocessor.tokenizer
    facts = {
        "classes": class_names_of(model),
        "sequence_length": model.preprocessor.sequence_length,
        "vocabulary": list(tokenizer.get_vocabulary()),
        "rules": [tokenizer.lowercase, tokenizer.strip_accents, tokenizer.split_on_cjk, tokenizer.special_tokens_in_strings],
    }
    digest = hashlib.sha256(json.dumps(facts).encode())
    for value in model.get_weights():
        array = np.ascontiguousarray(value, dtype="float32")
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def reference_logits(model: keras_hub.models.BertTextClassifier, texts: Sequence[str]) -> np.ndarray:
    """Computes float32 (N, C) logits in this process, on the CPU as the fresh processes do."""
    with tf.device("/CPU:0"):
        return np.asarray(text_to_logits(model)(tf.constant(list(texts))), "float32")


def _rebuilt(model: keras_hub.models.BertTextClassifier, positions: int) -> keras_hub.models.BertTextClassifier:
    config = {**model.backbone.get_config(), "dtype": "float32", "max_sequence_length": positions}
    with tf.device("/CPU:0"):
        backbone = keras_hub.models.BertBackbone.from_config(config)
        twin = keras_hub.models.BertTextClassifier(backbone, model.num_classes, preprocessor=model.preprocessor, dropout=model.dropout)
        weights = _plain_weights(model)
        if len(twin.weights) != len(weights):
            raise ValueError(
                f"Expected the {len(twin.weights)} weights of a plain BertTextClassifier. Received: {len(weights)}. "
                "Remove what training added, with kerasbig.compress.strip, before the export."
            )
        table = model.backbone.position_embedding.position_embeddings
        for own, (source, value) in zip(twin.weights, weights, strict=True):
            own.assign(value[:positions] if source is table else value)
    twin.class_names = class_names_of(model)
    return twin


def _kernel_layers(model: keras.Model) -> list[keras.layers.Layer]:
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
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
    return [(own, finished[id(own)] if id(own) in finished else _float32(own)) for own in model.weights if id(own) not in added]


def _float32(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
