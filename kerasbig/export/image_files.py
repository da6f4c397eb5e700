"""What the files of all image tasks share: the facts beside them, and how each is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.image_batches import input_size, require_converter, resize_of
from kerasbig.export.image_graph import Function, function_of_pixels
from kerasbig.export.parity import ExportError
from kerasbig.export.slim_litert import slimmed
from kerasbig.export.to_litert import MODEL_FILE, converted
from kerasbig.export.to_onnx import write_onnx
from kerasbig.export.twin import class_names_of, is_quantized, litert_twin, require_tensorflow

IMAGES_FILE = "images.json"
# What the graph of a SavedModel reads, and how.
READS = {"formats": ["JPEG", "PNG", "GIF", "BMP"], "exif_orientation": ["JPEG"]}


def require_image_task(model: keras.Model, quantize: str | None) -> None:
    """Raises unless an image task can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it has no preprocessor with an image converter.
        ValueError: If its class names do not fit, or int8 is asked for without ranges.
    """
    require_tensorflow()
    require_converter(model)
    names = class_names_of(model)
    if len(names or ()) != model.num_classes:
        raise ValueError(
            f"Expected model.class_names to name the model's {model.num_classes} classes. Received: class_names={names}. "
            "Set one name a class."
        )
    if quantize == "int8" and not is_quantized(model):
        raise ValueError(
            "Expected a model with ranges for quantize='int8'. Received: one without. Calibrate it with "
            "kerasbig.compress.quantize_model(model, calibration=batches), or use quantize='dynamic', which needs none."
        )


def image_facts(model: keras.Model, task: str, outputs: Sequence[str]) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights, and what the outputs of a LiteRT file are called."""
    converter = model.preprocessor.image_converter
    numbers = {
        name: None if value is None else np.ravel(value).astype("float64").tolist()
        for name, value in (("scale", converter.scale), ("offset", converter.offset))
    }
    return {
        "task": task,
        "classes": class_names_of(model),
        "image_shape": [*input_size(model), 3],
        "resize": resize_of(converter),
        **numbers,
        "outputs": list(outputs),
    }


def about_images(model: keras.Model, signatures: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the manifest says of an image task.

    Args:
        model: The model.
        signatures: Those of its SavedModel, each with the name of its input.
    """
    return {
        "classes": list(class_names_of(model) or ()),
        "image_shape": [*input_size(model), 3],
        "resize": resize_of(model.preprocessor.image_converter),
        "reads": READS,
        "signatures": dict(signatures),
    }


def write_module(model: keras.Model, signatures: Mapping[str, Function], folder: Path) -> None:
    """Writes a SavedModel with a model's weights and the class names beside it.

    Args:
        model: The float32 model that the signatures compute with.
        signatures: Functions of the graph by the names of their signatures.
        folder: The version folder to write, which must not exist.

    Raises:
        ExportError: If TensorFlow cannot write it.
    """
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.functions = dict(signatures)
    try:
        tf.saved_model.save(module, str(folder), signatures={**module.functions})
    except tf.errors.OpError as error:
        raise ExportError(f"Expected to write a SavedModel to {str(folder)!r}. TensorFlow says: {error.message}") from error
    # TF Serving leaves `assets.extra` alone; it lets the folder be loaded by itself.
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "classes.json").write_text(json.dumps(class_names_of(model), ensure_ascii=False), encoding="utf-8")


def litert_copy(model: keras.Model, twin: keras.Model, quantize: str | None) -> keras.Model:
    """Returns what a LiteRT file is made of: the twin, or for "int8" a copy of the model that keeps its quantizers."""
    return litert_twin(model, int8=True) if quantize == "int8" else twin


def write_image_litert(
    model: keras.Model,
    folder: Path,
    quantize: str | None,
    facts: Mapping[str, Any],
    finish: Callable[[tf.Tensor], list[tf.Tensor]],
) -> None:
    """Writes `model.tflite` and `images.json` into a folder; `image_runners.py` is what runs them.

    Args:
        model: From `litert_copy`.
        folder: An existing folder.
        quantize: "dynamic" for int8 weights and float activations, "int8" for int8 activations too, in the layers that
            `kerasbig.compress.quantize_model` gave ranges, "float16" for float16 weights, None for float32.
        facts: What to know of the images.
        finish: From what the model returns to the file's outputs.

    Raises:
        ExportError: If the converter fails.
    """
    (folder / IMAGES_FILE).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    file = converted(function_of_pixels(model, finish), quantize)
    (folder / MODEL_FILE).write_bytes(slimmed(file, halve_tables=quantize in ("dynamic", "int8")))


def write_image_onnx(
    twin: keras.Model,
    folder: Path,
    facts: Mapping[str, Any],
    finish: Callable[[tf.Tensor], list[tf.Tensor]],
    *,
    batch: int | None,
) -> None:
    """Writes `model.onnx` into a folder, with the facts in its metadata; `image_runners.py` is what runs it.

    Args:
        twin: The float32 copy of the model.
        folder: An existing folder.
        facts: What to know of the images.
        finish: From what the model returns to the file's outputs.
        batch: Images at once; None leaves it open.

    Raises:
        ExportError: If the converter fails.
    """
    metadata = {"task": str(facts["task"]), "images": json.dumps(facts, ensure_ascii=False)}
    write_onnx(function_of_pixels(twin, finish, batch=batch), folder, facts["outputs"], metadata)
