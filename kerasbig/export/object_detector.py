"""What the export knows of object detectors alone: what is demanded of one, its files, and what they must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import keras_hub

from kerasbig.export.detector_graph import (
    IOU_THRESHOLD,
    LOWEST_SCORE,
    MAX_DETECTIONS,
    OUTPUTS,
    SCORE_THRESHOLD,
    detector_graph,
    detector_signatures,
)
from kerasbig.export.detector_parity import ExpectedDetections
from kerasbig.export.image_files import (
    about_images,
    image_facts,
    litert_copy,
    require_image_task,
    write_image_litert,
    write_image_onnx,
    write_module,
)
from kerasbig.export.image_graph import ImageGraph
from kerasbig.export.image_parity import expected_outputs, outputs_of
from kerasbig.export.pictures import checked_pictures as checked_examples
from kerasbig.export.plain_images import write_plain_hdf5
from kerasbig.export.twin import class_names_of, litert_twin

__all__ = ["about", "checked_examples", "expect", "facts", "require", "write"]

Model: TypeAlias = keras_hub.models.ObjectDetector
TASK = "object-detector"


def require(model: Model, quantize: str | None) -> None:
    """Raises unless a model can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it is none of `kerasbig.vision.vit_detector`, or has no preprocessor.
        ValueError: If its class names do not fit, or int8 is asked for without ranges.
    """
    if not all(hasattr(model, name) for name in ("pyramid", "image_shape")):
        raise TypeError(
            f"Expected model to be a detector from kerasbig.vision.vit_detector. Received: {type(model).__name__}. "
            "Serve other detectors with Keras itself."
        )
    require_image_task(model, quantize)


def facts(model: Model) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights."""
    return {**image_facts(model, TASK, OUTPUTS), "pyramid": list(model.pyramid)}


def about(model: Model) -> dict[str, Any]:
    """Returns what the manifest says of a model."""
    inputs = {"serving_default": "image", "detect": "image", "pixels": "pixels", "outputs": "image"}
    limits = {"score_threshold": SCORE_THRESHOLD, "lowest_score": LOWEST_SCORE, "iou_threshold": IOU_THRESHOLD}
    return {**about_images(model, inputs), **limits, "max_detections": MAX_DETECTIONS}


def write(format: str, model: Model, twin: Model, folder: Path, quantize: str | None) -> None:
    """Writes one format from a model or its float32 twin."""
    detector = detector_graph(twin)
    if format == "saved_model":
        write_module(twin, detector_signatures(ImageGraph(twin), detector, class_names_of(twin) or ()), folder)
    elif format == "hdf5":
        write_plain_hdf5(twin, folder, facts(twin))
    elif format == "onnx":
        write_image_onnx(twin, folder, facts(twin), detector.finish, batch=1)
    else:
        write_image_litert(litert_copy(model, twin, quantize), folder, quantize, facts(twin), detector.finish)


def expect(
    model: Model, twin: Model, images: Sequence[bytes], formats: Sequence[str], quantize: str | None
) -> Mapping[str, ExpectedDetections]:
    """Returns what each format must answer to the images.

    Raises:
        ExportError: If the model's outputs are not finite, or its twin's are others.
    """
    pixels, outputs = expected_outputs(model, twin, images)
    how = {"resize": facts(model)["resize"], "detector": detector_graph(twin)}
    expected = ExpectedDetections(TASK, images, pixels, outputs, class_names_of(model) or (), **how)
    answers = dict.fromkeys(formats, expected)
    if quantize == "int8" and "litert" in formats:
        answers["litert"] = replace(expected, outputs=outputs_of(litert_twin(model, int8=True), pixels))
    return answers
