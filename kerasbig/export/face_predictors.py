"""Exported face classifiers as functions from images to people and embeddings: one interface over all formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasbig.export.image_predictors import (
    HDF5ImageClassifier,
    LiteRTImageClassifier,
    OnnxImageClassifier,
    SavedModelImageClassifier,
    in_batches,
)
from kerasbig.export.image_runners import Runner, read_image
from kerasbig.export.pictures import Picture, listed
from kerasbig.export.predictors import predictions


class _Faces:
    """What face classifiers of all formats share."""

    class_names: tuple[str, ...]

    def outputs(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C + D): logits and embedding of N images, in their order."""
        raise NotImplementedError

    def logits(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C) logits of N images, in their order."""
        return self.outputs(images)[:, : len(self.class_names)]

    def embed(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, D) unit vectors; the cosine of two of them, their product, says how alike the faces are."""
        return self.outputs(images)[:, len(self.class_names) :]

    def predict(self, images: Sequence[Picture]) -> list[dict[str, Any]]:
        """Returns `{"label": name, "probabilities": {name: probability}, "embedding": [...]}` for each image."""
        outputs = self.outputs(images)
        people = len(self.class_names)
        answers = predictions(outputs[:, :people], self.class_names)
        return [{**answer, "embedding": row[people:].tolist()} for answer, row in zip(answers, outputs, strict=True)]


class _InGraph(_Faces):
    """A face classifier that TensorFlow runs."""

    _signature: Any
    _width: int

    def outputs(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C + D): logits and embedding of N images, in their order."""
        import tensorflow as tf

        def run(files: list[bytes]) -> np.ndarray:
            found = self._signature(image=tf.constant(files))
            return np.concatenate([found["logits"].numpy(), found["embedding"].numpy()], axis=1)

        return in_batches(run, images, self._width)


class SavedModelFaceClassifier(_InGraph, SavedModelImageClassifier):
    """A SavedModel of a face classifier, run by TensorFlow."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._signature = self._loaded.signatures["logits"]
        self._width = sum(int(each.shape[1]) for each in self._signature.structured_outputs.values())


class HDF5FaceClassifier(_InGraph, HDF5ImageClassifier):
    """A face classifier of plain Keras layers."""

    def __init__(self, path: Path) -> None:
        from kerasbig.export.image_graph import face_signatures

        super().__init__(path)
        self._signature = face_signatures(self._graph, self.class_names)["logits"]
        self._width = int(self.model.output.shape[1])


class _RunnerFaces(_Faces):
    """A face classifier in one file, run by one of `image_runners`."""

    runner: Runner

    def outputs(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C + D): logits and embedding of N images, in their order."""
        runner, rows = self.runner, []
        for image in listed(images):
            found = runner.run(read_image(image, runner.size, runner.resize)[0])
            rows.append(np.concatenate([found["logits"], found["embedding"]]))
        return np.stack(rows) if rows else np.zeros((0, len(self.class_names)), "float32")


class LiteRTFaceClassifier(_RunnerFaces, LiteRTImageClassifier):
    """A face classifier as a LiteRT file."""


class OnnxFaceClassifier(_RunnerFaces, OnnxImageClassifier):
    """A face classifier as an ONNX file."""
