"""Average precision as COCO defines it, by pycocotools: of a detector on examples, and after each epoch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasbig.data.boxes import Boxes
from kerasbig.data.examples import Examples
from kerasbig.vision.detection import Detections, detect

# The IoU from which a box counts as found: 0.5, 0.55, … 0.95 (Lin et al., 2014, arXiv:1405.0312).
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# The most boxes of an image that count.
MOST = 100
# Boxes below this score hardly change the area under the curve.
LEAST_SCORE = 0.01
# What LiteRT and ONNX files give at all.
LEAST_SCORE_OF_FILES = 0.05


@dataclass(frozen=True, eq=False)
class CocoFigures:
    """How well boxes were found.

    Attributes:
        metrics: `map` (mean over IoU 0.5 to 0.95), `ap50` and `ap75`, each the mean over the classes that occur, 0 to 1.
        precision: float64 (T, R, C): precision at each IoU of `IOUS`, recall of `RECALLS` and class; nan where a class
            does not occur.
    """

    metrics: dict[str, float]
    precision: np.ndarray

    def class_figures(self) -> list[dict[str, float]]:
        """Returns `map` and `ap50` of each class, nan where it does not occur."""
        return [
            {"map": float(self.precision[:, :, number].mean()), "ap50": float(self.precision[0, :, number].mean())}
            for number in range(self.precision.shape[2])
        ]


def coco_figures(truth: Boxes, detections: Sequence[Detections], num_classes: int) -> CocoFigures:
    """Compares detections with the true boxes, by pycocotools.

    Args:
        truth: The boxes of N images; the ignored ones count neither for nor against.
        detections: What was found in each.
        num_classes: C.

    Returns:
        `CocoFigures`.

    Raises:
        ValueError: If there are not as many images on both sides, or there is no box that counts.

    Example:
        >>> truth = Boxes.of([[[0, 0, 10, 10]]], [[0]])
        >>> found = [Detections(np.array([[0.0, 0, 10, 10]]), np.array([0]), np.array([0.9]))]
        >>> {name: round(value, 3) for name, value in coco_figures(truth, found, 1).metrics.items()}
        {'map': 1.0, 'ap50': 1.0, 'ap75': 1.0}
    """
    if len(truth) != len(detections):
        raise ValueError(f"Expected detections of each of {len(truth)} images. Received: {len(detections)}.")
    if truth.ignored.all():
        raise ValueError(f"Expected at least one box to measure by. Received: {len(truth)} images with none that counts.")
    precision = _precision(truth, detections, num_classes)
    occurring = ~np.isnan(precision[0, 0])
    mean = precision[:, :, occurring].mean(axis=(1, 2))  # (T,)
    metrics = {"map": float(mean.mean()), "ap50": float(mean[0]), "ap75": float(mean[5])}
    return CocoFigures(metrics, precision)


def _precision(truth: Boxes, detections: Sequence[Detections], num_classes: int) -> np.ndarray:
    """Runs pycocotools, which prints as it goes, and returns its table of precision (T, R, C)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = np.repeat(np.arange(len(truth)), truth.counts)
    annotations = [
        {**_annotation(image, number, box), "id": i, "area": float(np.prod(box[2:] - box[:2])), "iscrowd": int(ignored)}
        for i, (image, number, box, ignored) in enumerate(zip(images, truth.classes, truth.boxes, truth.ignored, strict=True), start=1)
    ]
    results = [
        {**_annotation(image, number, box), "score": float(score)}
        for image, each in enumerate(detections)
        for number, box, score in zip(each.classes, each.boxes, each.scores, strict=True)
    ]
    occurring = np.zeros(num_classes, bool)
    occurring[truth.classes[~truth.ignored]] = True
    if not results:  # pycocotools cannot load none
        return np.broadcast_to(np.where(occurring, 0.0, np.nan), (len(IOUS), len(RECALLS), num_classes))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": number} for number in range(num_classes)],
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.maxDets = [1, 10, MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(precision < 0, np.nan, precision)


def _annotation(image: Any, number: Any, box: np.ndarray) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in box)
    return {"image_id": int(image), "category_id": int(number), "bbox": [left, top, right - left, bottom - top]}


def evaluate_detector(model: keras.Model, examples: Examples, *, batch_size: int = 32) -> tuple[list[Detections], CocoFigures]:
    """Finds objects in examples with boxes, and compares them with the true ones.

    Args:
        model: A model from `vit_detector`.
        examples: Images with `kerasbig.data.Boxes`.
        batch_size: Images computed at once.

    Returns:
        The `Detections` of each image, however little they score, and the `CocoFigures` of all.

    Raises:
        TypeError: If the examples have no boxes.
        ValueError: If none of the boxes counts.

    Example:
        >>> import inspect
        >>> list(inspect.signature(evaluate_detector).parameters)
        ['model', 'examples', 'batch_size']
    """
    truth = require_boxes(examples)
    found = detect(model, examples.inputs, score_threshold=LEAST_SCORE, max_detections=MOST, batch_size=batch_size)
    return found, coco_figures(truth, found, len(examples.classes or ()))


def measure_detector(model: Any, examples: Examples, *, batch_size: int = 32, least_score: float | None = None) -> dict[str, float]:
    """Measures a detector on examples with boxes.

    Args:
        model: A model from `vit_detector`, or an exported one as `kerasbig.export.load` returns it.
        examples: Images with `kerasbig.data.Boxes`.
        batch_size: Images that a Keras model computes at once.
        least_score: Boxes that score less do not count, from 0 to 1. By default 0.01; 0.05 for exported ones, as LiteRT and
            ONNX files give none below.

    Returns:
        `map`, `ap50`, `ap75`, each from 0 to 1.

    Raises:
        TypeError: If the examples have no boxes.
        ValueError: If none of the boxes counts, or a file gives none as low as `least_score`.

    Example:
        >>> import inspect
        >>> list(inspect.signature(measure_detector).parameters)
        ['model', 'examples', 'batch_size', 'least_score']
    """
    truth, classes = require_boxes(examples), examples.classes or ()
    if isinstance(model, keras.Model):
        least = LEAST_SCORE if least_score is None else least_score
        found = detect(model, examples.inputs, score_threshold=least, max_detections=MOST, batch_size=batch_size)
    else:
        answers = model.predict(examples.inputs, score_threshold=LEAST_SCORE_OF_FILES if least_score is None else least_score)
        found = [_detections(answer, classes) for answer in answers]
    return coco_figures(truth, found, len(classes)).metrics


def _detections(answer: dict[str, Any], classes: Sequence[str]) -> Detections:
    """Returns what an exported detector answered to an image."""
    boxes = np.array(answer["boxes"], "float32").reshape(-1, 4)
    ids = np.array([classes.index(label) for label in answer["labels"]], "int32")
    return Detections(boxes, ids, np.array(answer["scores"], "float32"))


def require_boxes(examples: Examples) -> Boxes:
    """Returns the boxes of examples.

    Raises:
        TypeError: If they have other targets.
    """
    if not isinstance(examples.targets, Boxes):
        raise TypeError(
            f"Expected examples with boxes. Received targets of {type(examples.targets).__name__} from {examples.source}. "
            "Load them with task='object-detector'."
        )
    return examples.targets


class CocoMetrics(keras.callbacks.Callback):
    """Adds `val_map`, `val_ap50` and `val_ap75` to what `fit` logs after an epoch.

    Stand it before callbacks that watch one of them, such as `keras.callbacks.ModelCheckpoint(monitor="val_map", mode="max")`.

    Args:
        examples: Images with boxes to measure on.
        every: Epochs from one measurement to the next; in between, the last one stands.
        batch_size: Images computed at once.

    Raises:
        TypeError: If the examples have no boxes.
        ValueError: If `every` is not positive.

    Example:
        >>> examples = Examples(np.zeros((1, 8, 8, 3), "uint8"), Boxes.of([[[0, 0, 4, 4]]], [[0]]), ("cat",), [1], "here", "validation")
        >>> CocoMetrics(examples).every
        1
    """

    def __init__(self, examples: Examples, *, every: int = 1, batch_size: int = 32):
        super().__init__()
        require_boxes(examples)
        if every < 1:
            raise ValueError(f"Expected every of at least 1. Received: every={every}")
        self.every = every
        self._examples, self._batch_size = examples, batch_size
        self._last: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures and adds to the logs."""
        if not self._last or (epoch + 1) % self.every == 0:
            detector = getattr(self.model, "student", self.model)  # of a distiller
            self._last = measure_detector(detector, self._examples, batch_size=self._batch_size)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self._last.items()})
