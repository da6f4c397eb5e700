"""One box of a detector, as something that can be explained."""

from __future__ import annotations

import os
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig import data
from kerasbig.decoding.boxes import decode, locations
from kerasbig.decoding.suppression import best_boxes
from kerasbig.explain.subjects import Subject


def box(model: keras.Model, image: Any, number: int = 0, *, score_threshold: float = 0.3, iou_threshold: float = 0.6) -> Subject:
    """Makes one box that a detector has found ready to be explained.

    What is explained is how well the best of all boxes agrees with it: its overlap (IoU) times its score for the class, from 0
    to 1. So a box may move a little when a part of the image is covered.

    Args:
        model: A model from `kerasbig.vision.vit_detector`.
        image: The path of an image, or (H, W, 3) from 0 to 255; the same that is explained afterwards.
        number: Which box, as `kerasbig.vision.detect` lists them: 0 is the one with the best score.
        score_threshold: As for `kerasbig.vision.detect`.
        iou_threshold: As for `kerasbig.vision.detect`.

    Returns:
        A `Subject` with one output, named after the class and the box in pixels of the image as the model sees it. LIME, SHAP and
        integrated gradients fit it.

    Raises:
        TypeError: If the model is no detector.
        ValueError: If there is no such box.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.vision.vit_detector(("cat",), size="lite-2", image_shape=(32, 32, 3))
        >>> photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), "uint8")
        >>> of = kb.explain.box(model, photo, score_threshold=0.0)
        >>> kb.explain.lime(of, photo, samples=50, progress=False).kind
        'image'

    Source: Petsiuk et al., 2021, "Black-box explanation of object detectors via saliency maps", arXiv:2006.03204, section 3.2, of
    which this takes the overlap and the class's own score.
    """
    if not isinstance(model, keras_hub.models.ObjectDetector):
        raise TypeError(f"Expected a detector. Received: {type(model).__name__}. Build it with kerasbig.vision.vit_detector.")
    whole = os.fspath(image) if isinstance(image, str | os.PathLike) else np.asarray(image, "uint8")[None]
    pixels = data.fitted_pixels(model, [whole] if isinstance(whole, str) else whole)
    grid: Any = locations(model.image_shape, model.pyramid)
    convert = model.preprocessor.image_converter

    def outputs(images: Any) -> tuple[Any, Any]:
        logits, boxes = decode(model(convert(images), training=False), *grid)  # (B, N, C), (B, N, 4)
        return keras.ops.sigmoid(logits), boxes

    sides = np.array([pixels.shape[2], pixels.shape[1]] * 2, "float32")
    scores, boxes = (np.asarray(each[0]) for each in outputs(pixels))
    found, classes, _ = best_boxes(
        tf.constant(np.clip(boxes, 0, sides)), tf.constant(scores), score_threshold=score_threshold, iou_threshold=iou_threshold
    )
    count = int(np.sum(np.asarray(classes) >= 0))
    if not 0 <= number < count:
        raise ValueError(
            f"Expected the number of a box that is found, from 0. Received: number={number}, with {count} found above a score of "
            f"{score_threshold}. Lower score_threshold to explain a weaker one."
        )
    target, label = np.asarray(found)[number], int(np.asarray(classes)[number])

    def agreement(images: Any) -> Any:
        scores, boxes = outputs(images)
        return keras.ops.max(_overlap(keras.ops.clip(boxes, 0, sides), target) * scores[..., label], axis=-1, keepdims=True)  # (B, 1)

    name = getattr(model, "class_names", None)
    where = ", ".join(f"{side:.0f}" for side in target)
    return Subject(
        "image",
        (f"{name[label] if name else label} at {where}",),
        lambda images: np.asarray(agreement(keras.ops.convert_to_tensor(images)), "float64"),
        differentiable=agreement,
        reads=model,
    )


def _overlap(boxes: Any, target: np.ndarray) -> Any:
    """Returns the IoU of boxes (B, N, 4) with one box (4,): (B, N)."""
    shared = keras.ops.maximum(keras.ops.minimum(boxes[..., 2:], target[2:]) - keras.ops.maximum(boxes[..., :2], target[:2]), 0)
    both = shared[..., 0] * shared[..., 1]
    sides = keras.ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    area = float((target[2] - target[0]) * (target[3] - target[1]))
    return both / keras.ops.maximum(sides[..., 0] * sides[..., 1] + area - both, keras.config.epsilon())
