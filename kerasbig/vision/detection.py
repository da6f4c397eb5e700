"""Finding objects in images with a trained detector: boxes in pixels of the images as they came."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.image_batches import input_size, original_boxes, predict_image_logits, require_converter, resize_of, resize_plan
from kerasbig.data.images import ImageFiles
from kerasbig.decoding.boxes import decode, locations
from kerasbig.decoding.suppression import best_boxes

# Images whose outputs are in memory at once.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, the best first.

    Attributes:
        boxes: float32 (n, 4) "xyxy" in pixels of the upright image at its full size.
        classes: int32 (n,): class ids.
        scores: float32 (n,): from 0 to 1.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Returns those that score at least so much."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.classes[kept], self.scores[kept])


def detect(
    model: keras.Model,
    images: Any,
    *,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
    batch_size: int = 32,
) -> list[Detections]:
    """Finds objects in images of any size.

    Args:
        model: A model from `vit_detector`.
        images: N paths, `kerasbig.data.ImageFiles`, or uint8 (N, H, W, 3).
        score_threshold: The lowest score to report, from 0 to 1.
        iou_threshold: Boxes of a class that overlap more than this are taken for one, from 0 to 1.
        max_detections: The most objects of an image.
        batch_size: Images computed at once.

    Returns:
        For each image its `Detections`, in pixels of the image as it is seen (upright, not resized), inside of it.

    Raises:
        ValueError: If a number is out of its range, or a file is no image.
        FileNotFoundError: If a file is not there.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.vision.vit_detector(("cat",), size="lite-2", image_shape=(16, 16, 3))
        >>> len(detect(model, np.zeros((2, 20, 30, 3), "uint8")))
        2
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"Expected {name} from 0 to 1. Received: {name}={value}")
    if max_detections < 1:
        raise ValueError(f"Expected max_detections of at least 1. Received: max_detections={max_detections}")
    images = images if isinstance(images, np.ndarray | ImageFiles) else ImageFiles.read(images)
    found: list[Detections] = []
    for start in range(0, len(images), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(images)))
        chunk = images[part] if isinstance(images, np.ndarray) else images.take(part)
        outputs = predict_image_logits(model, chunk, batch_size=batch_size)
        kept = best_of_outputs(model, outputs, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections)
        found += [_in_original_pixels(*each, *how) for each, how in zip(zip(*kept, strict=True), _plans(model, chunk), strict=True)]
    return found


def best_of_outputs(
    model: keras.Model, outputs: Any, *, score_threshold: float, iou_threshold: float, max_detections: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes boxes of a detector's outputs and leaves the best of each heap.

    Args:
        model: The detector.
        outputs: float (B, N, C + 4).
        score_threshold: As for `detect`.
        iou_threshold: As for `detect`.
        max_detections: As for `detect`, K.

    Returns:
        float32 (B, K, 4) boxes in pixels of the model's image, int32 (B, K) classes and float32 (B, K) scores, filled up
        with -1, -1 and 0.
    """
    logits, boxes = decode(outputs, *locations(model.image_shape, model.pyramid))
    scores = keras.ops.convert_to_numpy(keras.ops.sigmoid(logits))
    height, width = input_size(model)
    inside = np.clip(keras.ops.convert_to_numpy(boxes), 0, np.array([width, height, width, height], "float32"))
    suppress = _suppressor(scores.shape[1], scores.shape[2], max_detections)
    kept = suppress(inside, scores, tf.constant(score_threshold, tf.float32), tf.constant(iou_threshold, tf.float32))
    found, classes, best = (each.numpy() for each in kept)
    return found, classes, best


@functools.cache
def _suppressor(places: int, classes: int, max_detections: int) -> Any:
    """Returns `best_boxes` of many images as one graph, traced once for all numbers of images and thresholds."""
    shapes = [(None, places, 4), (None, places, classes), (), ()]

    @partial(tf.function, input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes])
    def suppress(boxes: Any, scores: Any, score_threshold: Any, iou_threshold: Any) -> Any:
        def one(image: tuple[tf.Tensor, tf.Tensor]) -> Any:
            return best_boxes(*image, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections)

        return tf.map_fn(one, (boxes, scores), fn_output_signature=(tf.float32, tf.int32, tf.float32), parallel_iterations=8)

    return suppress


def _plans(model: keras.Model, images: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns for each image how it was resized, and its height and width."""
    sizes = np.broadcast_to(images.shape[1:3], (len(images), 2)) if isinstance(images, np.ndarray) else images.sizes
    plans = resize_plan(sizes, input_size(model), resize_of(require_converter(model)))
    return list(zip(plans, np.asarray(sizes), strict=True))


def _in_original_pixels(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, plan: np.ndarray, size: np.ndarray) -> Detections:
    real = classes >= 0
    height, width = size
    moved = np.clip(original_boxes(boxes[real], plan), 0, [width, height, width, height]).astype("float32")
    # What lies wholly in the black sides of a padded image is nothing of the image.
    whole = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
    return Detections(moved[whole], classes[real][whole], scores[real][whole])


def detection_answers(detections: Sequence[Detections], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a dict of plain lists for each image, as `kerasbig predict --json` prints them.

    Example:
        >>> one = Detections(np.array([[1.0, 2.0, 30.25, 4.0]]), np.array([0]), np.array([0.5]))
        >>> detection_answers([one], ("cat",))
        [{'boxes': [[1.0, 2.0, 30.25, 4.0]], 'labels': ['cat'], 'scores': [0.5]}]
    """
    return [
        {
            "boxes": [[round(float(side), 2) for side in box] for box in each.boxes],
            "labels": [classes[number] for number in each.classes],
            "scores": [round(float(score), 4) for score in each.scores],
        }
        for each in detections
    ]
