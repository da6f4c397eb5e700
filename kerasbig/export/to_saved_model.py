"""A TensorFlow SavedModel that takes raw texts."""

from __future__ import annotations

import json
from pathlib import Path

import keras_hub
import tensorflow as tf

from kerasbig.export.parity import ExportError
from kerasbig.export.signatures import TEXT, signatures
from kerasbig.export.twin import class_names_of


def write_saved_model(model: keras_hub.models.BertTextClassifier, folder: Path) -> None:
    """Writes a SavedModel with the tokenizer in its graph and the class names beside it.

    Args:
        model: A float32 classifier with its preprocessor.
        folder: The version folder to write, which must not exist.

    Raises:
        ExportError: If TensorFlow cannot write it.
    """
    class_names = class_names_of(model)
    # Keras's ExportArchive (3.15) writes the weights twice when two endpoints share an inner function.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.functions = {
        name: tf.function(function, input_signature=[TEXT], autograph=False) for name, function in signatures(model, class_names).items()
    }
    try:
        tf.saved_model.save(module, str(folder), signatures={**module.functions})
    except tf.errors.OpError as error:
        raise ExportError(f"Expected to write a SavedModel to {str(folder)!r}. TensorFlow says: {error.message}") from error
    # TF Serving leaves `assets.extra` alone; it lets the folder be loaded by itself.
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / "classes.json").write_text(json.dumps(class_names, ensure_ascii=False), encoding="utf-8")
