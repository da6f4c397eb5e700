"""Exported image models as functions from images to answers: one interface over all formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kerasbig.export.image_runners import LiteRTImages, OnnxImages, Runner, read_image
from kerasbig.export.manifests import CLASSES_FILE, SINGLE_FILES, size_of
from kerasbig.export.pictures import Picture, files_of_pictures, listed
from kerasbig.export.predictors import class_names_in, predictions, require_onnx_file

_BATCH = 32


@runtime_checkable
class ImagePredictor(Protocol):
    """An exported image model, ready to answer.

    Attributes:
        path: The folder or file it was loaded from.
        format: "saved_model", "hdf5", "litert" or "onnx".
        class_names: Names of the classes.
    """

    path: Path
    format: str
    class_names: tuple[str, ...]

    def predict(self, images: Sequence[Picture]) -> list[dict[str, Any]]:
        """Returns the answer to each image, as `kerasbig predict --json` gives it.

        Args:
            images: Paths, bytes of files, or uint8 (h, w, 3) arrays of any sizes, mixed as they come.
        """

    def bytes_on_disk(self) -> int:
        """Returns the size of all files that an answer needs."""


class _Classifier:
    """What classifiers of all formats share."""

    path: Path
    class_names: tuple[str, ...]

    def logits(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C) logits of N images, in their order."""
        raise NotImplementedError

    def predict(self, images: Sequence[Picture]) -> list[dict[str, Any]]:
        """Returns `{"label": name, "probabilities": {name: probability}}` for each image."""
        return predictions(self.logits(images), self.class_names)


def _answers(found: Any, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what a signature found, as `kerasbig predict --json` prints it."""
    columns = (found[name].numpy() for name in ("boxes", "label_ids", "scores", "count"))
    return [
        {
            "boxes": [[round(float(side), 2) for side in box] for box in boxes[:count]],
            "labels": [class_names[number] for number in label_ids[:count]],
            "scores": [round(float(score), 4) for score in scores[:count]],
        }
        for boxes, label_ids, scores, count in zip(*columns, strict=True)
    ]


class _InGraph:
    """A detector whose boxes are found in TensorFlow's graph."""

    class_names: tuple[str, ...]
    _detect: Callable[..., Any]

    def predict(self, images: Sequence[Picture], *, score_threshold: float = 0.3, iou_threshold: float = 0.6) -> list[dict[str, Any]]:
        """Returns `{"boxes": ..., "labels": ..., "scores": ...}` for each image, boxes in pixels of the upright image.

        Args:
            images: Paths, bytes of files, or uint8 (h, w, 3) arrays, mixed as they come.
            score_threshold: The lowest score to report, from 0 to 1.
            iou_threshold: Boxes of a class that overlap more than this are taken for one, from 0 to 1.
        """
        return detect_in_graph(self._detect, images, self.class_names, score_threshold=score_threshold, iou_threshold=iou_threshold)


def detect_in_graph(
    detect: Callable[..., Any],
    images: Sequence[Picture],
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.6,
) -> list[dict[str, Any]]:
    """Runs the signature `detect` over images, some at once; the answers are those of `ImagePredictor.predict`."""
    import tensorflow as tf

    thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    for name, value in thresholds.items():
        _require_share(name, value)
    files, answers = files_of_pictures(images), []
    for start in range(0, len(files), _BATCH):
        tensors = {name: tf.constant(value, tf.float32) for name, value in thresholds.items()}
        answers += _answers(detect(image=tf.constant(files[start : start + _BATCH]), **tensors), class_names)
    return answers


def _require_share(name: str, value: float, lowest: float = 0.0) -> None:
    if not lowest <= value <= 1:
        raise ValueError(f"Expected {name} from {lowest:g} to 1. Received: {name}={value}")


class _SavedModel:
    """A loaded SavedModel."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.path = path
        self.class_names = class_names_in(path / "assets.extra" / CLASSES_FILE) or ()
        # The loaded object owns the variables: without it the signatures stop working.
        self._loaded = tf.saved_model.load(str(path))

    def bytes_on_disk(self) -> int:
        """Returns the size of the whole folder."""
        return size_of(self.path)


class SavedModelImageClassifier(_SavedModel, _Classifier):
    """A SavedModel of an image classifier, run by TensorFlow."""

    def logits(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C) logits of N images, in their order."""
        import tensorflow as tf

        signature = self._loaded.signatures["logits"]
        return in_batches(lambda files: signature(image=tf.constant(files))["logits"].numpy(), images, len(self.class_names))


class SavedModelObjectDetector(_InGraph, _SavedModel):
    """A SavedModel of an object detector, run by TensorFlow."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._detect = self._loaded.signatures["detect"]


class _HDF5:
    """A plain Keras model rebuilt from `model.json` and `model.weights.h5`."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        from kerasbig.export.image_graph import ImageGraph
        from kerasbig.export.untrusted_images import read_plain_model

        weights, config = (path / name for name in SINGLE_FILES["hdf5"])
        self.path = weights
        self.model, self.facts = read_plain_model(config, weights)
        self.class_names = tuple(str(name) for name in self.facts["classes"])
        self._graph = ImageGraph.of_pixels(self.model, str(self.facts["resize"]))

    def bytes_on_disk(self) -> int:
        """Returns the size of the weights and the configuration."""
        return sum(size_of(self.path.parent / name) for name in SINGLE_FILES["hdf5"])


class HDF5ImageClassifier(_HDF5, _Classifier):
    """An image classifier of plain Keras layers."""

    def __init__(self, path: Path) -> None:
        from kerasbig.export.image_graph import classifier_signatures

        super().__init__(path)
        self._signature = classifier_signatures(self._graph, self.class_names)["logits"]

    def logits(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C) logits of N images, in their order."""
        import tensorflow as tf

        return in_batches(lambda files: self._signature(image=tf.constant(files))["logits"].numpy(), images, len(self.class_names))


class HDF5ObjectDetector(_InGraph, _HDF5):
    """An object detector of plain Keras layers."""

    def __init__(self, path: Path) -> None:
        from kerasbig.export.detector_graph import DetectorGraph, detector_signatures

        super().__init__(path)
        detector = DetectorGraph(self.facts["image_shape"], self.facts["pyramid"])
        self._detect = detector_signatures(self._graph, detector, self.class_names)["detect"]


class _LiteRT:
    """A LiteRT file, without TensorFlow.

    Args:
        path: The folder of `model.tflite` and `images.json`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    format = "litert"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        model, facts = (path / name for name in (SINGLE_FILES["litert"][0], SINGLE_FILES["litert"][2]))
        for file in (model, facts):
            if not file.is_file():
                raise FileNotFoundError(f"Expected {file.name} in {str(path)!r}. Export the Bundle again.")
        self.path = model
        self.runner: Runner = LiteRTImages(path, threads=threads)
        self.class_names = tuple(self.runner.classes)

    def bytes_on_disk(self) -> int:
        """Returns the size of the model and the facts beside it."""
        return sum(size_of(self.path.parent / name) for name in (self.path.name, SINGLE_FILES["litert"][2]))


class _Onnx:
    """An ONNX file, without TensorFlow.

    Args:
        path: The folder of `model.onnx`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    format = "onnx"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.path = require_onnx_file(path)
        self.runner: Runner = OnnxImages(path, threads=threads)
        self.class_names = tuple(self.runner.classes)

    def bytes_on_disk(self) -> int:
        """Returns the size of the file."""
        return size_of(self.path)


class _RunnerClassifier(_Classifier):
    """An image classifier in one file, run by one of `image_runners`."""

    runner: Runner

    def logits(self, images: Sequence[Picture]) -> np.ndarray:
        """Returns float32 (N, C) logits of N images, in their order."""
        runner = self.runner
        rows = [runner.run(read_image(image, runner.size, runner.resize)[0])["logits"] for image in listed(images)]
        return np.stack(rows) if rows else np.zeros((0, len(self.class_names)), "float32")


class LiteRTImageClassifier(_LiteRT, _RunnerClassifier):
    """An image classifier as a LiteRT file."""


class OnnxImageClassifier(_Onnx, _RunnerClassifier):
    """An image classifier as an ONNX file."""


class _RunnerDetector:
    """An object detector in one file, run by one of `image_runners`. Its overlap is that of the file, and so is the lowest score."""

    runner: Runner

    def predict(self, images: Sequence[Picture], *, score_threshold: float = 0.3) -> list[dict[str, Any]]:
        """Returns `{"boxes": ..., "labels": ..., "scores": ...}` for each image, boxes in pixels of the upright image.

        Args:
            images: Paths, bytes of files, or uint8 (h, w, 3) arrays, mixed as they come.
            score_threshold: The lowest score to report, from the file's own 0.05 to 1.
        """
        _require_share("score_threshold", score_threshold, 0.05)
        return self.runner.predict(listed(images), score_threshold=score_threshold)


class LiteRTObjectDetector(_LiteRT, _RunnerDetector):
    """An object detector as a LiteRT file."""


class OnnxObjectDetector(_Onnx, _RunnerDetector):
    """An object detector as an ONNX file."""


def in_batches(function: Callable[[list[bytes]], np.ndarray], images: Sequence[Picture], width: int) -> np.ndarray:
    """Runs a function from files to float32 (n, width) over images, some at once."""
    files = files_of_pictures(images)
    parts = [function(files[start : start + _BATCH]) for start in range(0, len(files), _BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, width), "float32")
