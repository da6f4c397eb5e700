"""What the export knows of face classifiers alone: logits and embedding side by side, and how both are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.export.image_files import (
    about_images,
    image_facts,
    litert_copy,
    require_image_task,
    write_image_litert,
    write_image_onnx,
    write_module,
)
from kerasbig.export.image_graph import ImageGraph, face_signatures
from kerasbig.export.image_parity import ExpectedImages, expected_outputs, outputs_of
from kerasbig.export.parity import ExportError, tolerance_of
from kerasbig.export.pictures import checked_pictures as checked_examples
from kerasbig.export.plain_images import write_plain_hdf5
from kerasbig.export.twin import class_names_of, litert_twin

__all__ = ["about", "checked_examples", "expect", "facts", "require", "write"]

TASK = "face-classifier"
OUTPUTS = ("logits", "embedding")


def require(model: Any, quantize: str | None) -> None:
    """Raises unless a model can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it has no preprocessor with an image converter.
        ValueError: If its names do not fit, or int8 is asked for without ranges.
    """
    require_image_task(model, quantize)


def facts(model: Any) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights; `threshold` is None where none was chosen."""
    return {**image_facts(model, TASK, OUTPUTS), "threshold": model.threshold}


def about(model: Any) -> dict[str, Any]:
    """Returns what the manifest says of a model."""
    inputs = {"serving_default": "image", "logits": "image", "embedding": "image", "pixels": "pixels"}
    return {**about_images(model, inputs), "threshold": model.threshold, "embedding_dim": model.embedding_dim}


def write(format: str, model: Any, twin: Any, folder: Path, quantize: str | None) -> None:
    """Writes one format from a model or its float32 twin."""
    people = model.num_classes
    both = side_by_side(litert_copy(model, twin, quantize) if format == "litert" else twin)

    def parts(outputs: tf.Tensor) -> list[tf.Tensor]:
        return [outputs[:, :people], outputs[:, people:]]

    if format == "saved_model":
        write_module(both, face_signatures(ImageGraph(both), class_names_of(twin) or ()), folder)
    elif format == "hdf5":
        write_plain_hdf5(both, folder, facts(twin))
    elif format == "onnx":
        write_image_onnx(both, folder, facts(twin), parts, batch=None)
    else:
        write_image_litert(both, folder, quantize, facts(twin), parts)


def expect(model: Any, twin: Any, images: Sequence[bytes], formats: Sequence[str], quantize: str | None) -> Mapping[str, ExpectedImages]:
    """Returns what each format must answer to the images.

    Raises:
        ExportError: If the model's outputs are not finite, or its twin's are others.
    """
    pixels, outputs = expected_outputs(side_by_side(model), side_by_side(twin), images)
    expected = ExpectedFaces(TASK, images, pixels, outputs, class_names_of(model) or ())
    answers: dict[str, ExpectedImages] = dict.fromkeys(formats, expected)
    if quantize == "int8" and "litert" in formats:
        answers["litert"] = replace(expected, outputs=outputs_of(side_by_side(litert_twin(model, int8=True)), pixels))
    return answers


def side_by_side(model: Any) -> keras.Model:
    """Returns a model from images to float32 (B, C + D), logits and embedding, that shares the weights of a face classifier.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.vision.face_classifier(("Ada", "Emmy"), size="lite-2", image_shape=(16, 16, 3), embedding_dim=8)
        >>> side_by_side(model).output.shape
        (None, 10)
    """
    both = model.with_embedding()
    embedding, logits = both.outputs
    joined = keras.Model(both.inputs[0], keras.layers.Concatenate(dtype="float32", name="logits_and_embedding")([logits, embedding]))
    joined.preprocessor, joined.class_names = model.preprocessor, class_names_of(model)
    return joined


@dataclass(frozen=True)
class ExpectedFaces(ExpectedImages):
    """What a face classifier answers in this process; `outputs` are logits and embedding side by side."""

    def measured(self, kind: str, answer: Mapping[str, Any], quantize: str | None) -> dict[str, Any]:
        """Compares the answers of a file with the model's.

        Raises:
            ExportError: If pixels, logits or embeddings differ, or the answers do not follow from them.
        """
        figures = super().measured(kind, answer, quantize)
        people = len(self.class_names)
        embeddings = self.outputs[:, people:]
        tolerance = tolerance_of(kind, quantize, embeddings)
        received = [np.asarray(answer[name], "float32")[:, people:] for name in ("outputs", "image_outputs") if name in answer]
        received += [np.asarray(answer["embedding"], "float32")] if kind == "saved_model" else []
        largest = max(float(np.abs(each - embeddings).max()) for each in received)
        # NaN is in no order: written as "not within".
        if not largest <= tolerance:
            raise ExportError(
                f"Expected the exported {kind} to give the model's embeddings, within {tolerance:.3g}. "
                f"Received: embeddings that differ by {largest:.3g}. Nothing was written."
            )
        return {**figures, "max_abs_embedding_difference": largest}
