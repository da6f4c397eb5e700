"""What the export knows of image classifiers alone: what is demanded of one, its files, and what they must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
import keras_hub

from kerasbig.export.image_files import (
    about_images,
    image_facts,
    litert_copy,
    require_image_task,
    write_image_litert,
    write_image_onnx,
    write_module,
)
from kerasbig.export.image_graph import ImageGraph, classifier_signatures
from kerasbig.export.image_parity import ExpectedImages, expected_outputs, outputs_of
from kerasbig.export.pictures import checked_pictures as checked_examples
from kerasbig.export.plain_images import write_plain_hdf5
from kerasbig.export.twin import class_names_of, litert_twin

__all__ = ["about", "checked_examples", "expect", "facts", "require", "write"]

Model: TypeAlias = keras_hub.models.ImageClassifier
TASK = "image-classifier"


def require(model: Model, quantize: str | None) -> None:
    """Raises unless a model can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it has no preprocessor with an image converter.
        ValueError: If its outputs or its names do not fit, or int8 is asked for without ranges.
    """
    require_image_task(model, quantize)
    activation = keras.activations.serialize(keras.activations.get(model.activation))
    if activation != "linear":
        raise ValueError(f"Expected model to return logits (activation=None). Received: activation={activation!r}.")


def facts(model: Model) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights."""
    return image_facts(model, TASK, ("logits",))


def about(model: Model) -> dict[str, Any]:
    """Returns what the manifest says of a model."""
    return about_images(model, {"serving_default": "image", "logits": "image", "pixels": "pixels"})


def write(format: str, model: Model, twin: Model, folder: Path, quantize: str | None) -> None:
    """Writes one format from a model or its float32 twin."""
    if format == "saved_model":
        write_module(twin, classifier_signatures(ImageGraph(twin), class_names_of(twin) or ()), folder)
    elif format == "hdf5":
        write_plain_hdf5(twin, folder, facts(twin))
    elif format == "onnx":
        write_image_onnx(twin, folder, facts(twin), lambda logits: [logits], batch=None)
    else:
        write_image_litert(litert_copy(model, twin, quantize), folder, quantize, facts(twin), lambda logits: [logits])


def expect(
    model: Model, twin: Model, images: Sequence[bytes], formats: Sequence[str], quantize: str | None
) -> Mapping[str, ExpectedImages]:
    """Returns what each format must answer to the images.

    Raises:
        ExportError: If the model's logits are not finite, or its twin's are others.
    """
    pixels, logits = expected_outputs(model, twin, images)
    expected = ExpectedImages(TASK, images, pixels, logits, class_names_of(model) or ())
    answers = dict.fromkeys(formats, expected)
    if quantize == "int8" and "litert" in formats:
        answers["litert"] = replace(expected, outputs=outputs_of(litert_twin(model, int8=True), pixels))
    return answers
