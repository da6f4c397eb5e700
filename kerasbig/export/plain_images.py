"""An image model as plain Keras: layers that Keras and KerasHub know, from pixels to what the model returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from kerasbig.data.image_batches import input_size
from kerasbig.export.parity import ExportError
from kerasbig.export.to_hdf5 import CONFIG_FILE, save_weights

# In `model.json` beside Keras's own keys, which passes over it.
FACTS = "images"
# The only backbones of KerasHub in a plain model: those whose size is checked before they are built.
BACKBONES = ("ViTBackbone", "ViTDetBackbone", "DeiTBackbone")


def plain_model(model: keras.Model) -> keras.Model:
    """Returns a functional model with the weights of an image task, its own layers written out as what they are made of.

    Args:
        model: A float32 image task with its preprocessor.

    Returns:
        A model from float32 (B, H, W, 3), 0 to 255, to what the task returns. The two share their weights.

    Raises:
        ExportError: If a layer of its own has weights that none of the layers inside it holds.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.vision.vit_classifier(("cat", "dog"), size="lite-2", image_shape=(16, 16, 3), stem=True)
        >>> plain = plain_model(model)
        >>> plain.count_params() == model.count_params(), plain.layers[2].name
        (True, 'halving_1_convolution')
    """
    converter = model.preprocessor.image_converter
    pixels = keras.Input((*input_size(model), 3), name="pixels")
    scale, offset = (default if value is None else _numbers(value) for value, default in ((converter.scale, 1.0), (converter.offset, 0.0)))
    scaled = keras.layers.Rescaling(scale, offset, dtype="float32", name="scaled")(pixels)
    plain = keras.Model(pixels, model._run_through_graph(scaled, operation_fn=_written_out), name="image_model")
    lost = {weight.path for weight in model.weights} - {weight.path for weight in plain.weights}
    if lost:
        raise ExportError(
            f"Expected a model whose weights lie in layers of Keras and KerasHub. Received: {', '.join(sorted(lost))}, which do not. "
            "Export the other formats. Nothing was written."
        )
    return plain


def _numbers(value: Any) -> list[float] | float:
    return [float(number) for number in value] if np.ndim(value) else float(value)


def _written_out(operation: Any) -> Callable[..., Any]:
    """Returns what to call in the place of an operation: layers and models of KerasBig's own are called for what is inside."""
    if not type(operation).__module__.startswith(("kerasbig", "keras.src.models.")):
        return operation
    if isinstance(operation, keras.Model):
        return lambda inputs, **options: operation._run_through_graph(inputs, operation_fn=_written_out)
    if hasattr(operation, "plain_layer"):
        return cast("keras.layers.Layer", operation.plain_layer())
    return lambda inputs, **options: operation.call(inputs)


def write_plain_hdf5(model: keras.Model, folder: Path, facts: dict[str, Any]) -> None:
    """Writes `model.weights.h5` and `model.json` of an image task into a folder.

    Keras alone reads them: `keras.models.model_from_json(text)` with keras_hub imported, then `load_weights`.

    Args:
        model: A float32 image task with its preprocessor.
        folder: An existing folder.
        facts: What to know of the images, kept in `model.json` as "images".

    Raises:
        ExportError: If the backbone is not one of those that are read back.
    """
    plain = plain_model(model)
    config: dict[str, Any] = json.loads(plain.to_json())
    used = {layer.__class__.__name__ for layer in plain.layers if type(layer).__module__.startswith("keras_hub")}
    if used - set(BACKBONES):
        raise ExportError(
            f"Expected the backbone of an hdf5 file to be out of {', '.join(BACKBONES)}. Received: {', '.join(sorted(used))}. "
            "Export the other formats. Nothing was written."
        )
    for part in (config, *config["config"]["layers"]):
        part.pop("compile_config", None)
        part.pop("build_config", None)
    (folder / CONFIG_FILE).write_text(json.dumps({**config, FACTS: facts}, ensure_ascii=False), encoding="utf-8")
    save_weights(plain, folder)
