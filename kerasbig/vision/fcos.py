"""FCOS: each place of a map says what stands there, and how far the four sides of its box are.

Shapes: B images, N places on all levels together, C classes, M boxes of an image at most. Boxes are "xyxy" in pixels of the
image as the model sees it. Sources: Tian et al., 2019, "FCOS", arXiv:1904.01355; Li et al., 2020, "Generalized Focal
Loss", arXiv:2006.04388; Rezatofighi et al., 2019, "Generalized Intersection over Union", arXiv:1902.09630.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasbig.decoding.boxes import decode, locations

# A level takes boxes whose farthest side is up to this many of its strides away (FCOS, section 3.2: 64 pixels at stride 8).
REACH = 8


def assign_targets(boxes: Any, classes: Any, points: np.ndarray, sizes: np.ndarray, radius: float = 1.5) -> Any:
    """Finds the box that each place has to learn.

    It is one the place lies in, near the centre, and of the size that the level is for; among several, the smallest.

    Args:
        boxes: float (B, M, 4).
        classes: int (B, M); -1 where there is no box.
        points: float (N, 2), see `locations`.
        sizes: float (N,), the strides.
        radius: How far from the centre a place may be, in strides along each axis.

    Returns:
        int32 (B, N): the number of the box, -1 for the background.

    Example:
        >>> points, sizes = locations((8, 8, 3), (4,))
        >>> boxes, classes = np.array([[[0.0, 0, 4, 4], [-1, -1, -1, -1]]]), np.array([[3, -1]])
        >>> assign_targets(boxes, classes, points, sizes).numpy().tolist()
        [[0, -1, -1, -1]]
    """
    boxes = ops.expand_dims(ops.cast(boxes, "float32"), 1)  # (B, 1, M, 4)
    places, strides = ops.reshape(ops.convert_to_tensor(points), (1, -1, 1, 2)), ops.reshape(ops.convert_to_tensor(sizes), (1, -1, 1))
    sides = ops.concatenate([places - boxes[..., :2], boxes[..., 2:] - places], axis=-1)  # (B, N, M, 4)
    inside = ops.min(sides, axis=-1) > 0
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = ops.max(ops.abs(places - centres), axis=-1) < radius * strides
    lowest, highest = (ops.reshape(ops.convert_to_tensor(limit), (1, -1, 1)) for limit in _reaches(sizes))
    reach = ops.max(sides, axis=-1)
    wanted = inside & near & (reach > lowest) & (reach <= highest) & ops.expand_dims(ops.cast(classes, "int32") >= 0, 1)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    areas = ops.where(wanted, areas, np.float32(np.inf))  # (B, N, M)
    return ops.where(ops.any(wanted, axis=-1), ops.cast(ops.argmin(areas, axis=-1), "int32"), -1)


def _reaches(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns above which and up to which distance each place has boxes, float32 (N,) both; the last level takes all the larger."""
    levels = np.unique(sizes)
    lowest = dict(zip(levels, [0.0, *(REACH * levels[:-1])], strict=True))
    highest = dict(zip(levels, [*(REACH * levels[:-1]), np.inf], strict=True))
    return tuple(np.array([limit[size] for size in sizes], "float32") for limit in (lowest, highest))  # type: ignore[return-value]


def overlaps(boxes: Any, others: Any) -> tuple[Any, Any]:
    """Returns IoU and GIoU of boxes and others, pair by pair: float (...,) both.

    Args:
        boxes: float (..., 4).
        others: float (..., 4).

    Example:
        >>> iou, giou = overlaps(np.array([0.0, 0, 2, 2], "float32"), np.array([1.0, 1, 3, 3], "float32"))
        >>> [round(float(iou), 4), round(float(giou), 4)]
        [0.1429, -0.0794]
    """
    shared = ops.maximum(ops.minimum(boxes[..., 2:], others[..., 2:]) - ops.maximum(boxes[..., :2], others[..., :2]), 0)
    hull = ops.maximum(ops.maximum(boxes[..., 2:], others[..., 2:]) - ops.minimum(boxes[..., :2], others[..., :2]), 0)
    intersection, enclosing = shared[..., 0] * shared[..., 1], hull[..., 0] * hull[..., 1]
    union = _area(boxes) + _area(others) - intersection
    iou = intersection / ops.maximum(union, keras.config.epsilon())
    return iou, iou - (enclosing - union) / ops.maximum(enclosing, keras.config.epsilon())


def _area(boxes: Any) -> Any:
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def packed(labels: Any) -> Any:
    """Joins labels `{"boxes": (B, M, 4), "classes": (B, M)}` to float32 (B, M, 5), as `FcosLoss` takes them.

    Example:
        >>> packed({"boxes": np.zeros((1, 2, 4), "float32"), "classes": np.array([[1, -1]])}).shape
        TensorShape([1, 2, 5])
    """
    if not isinstance(labels, Mapping):
        return labels
    return ops.concatenate([ops.cast(labels["boxes"], "float32"), ops.expand_dims(ops.cast(labels["classes"], "float32"), -1)], axis=-1)


@keras.saving.register_keras_serializable(package="kerasbig")
class FcosLoss(keras.losses.Loss):
    """Quality focal loss of the classes, whose target is how well the box fits, and GIoU loss of the boxes.

    Both are divided by the number of places with a box in the whole global batch, on however many replicas it lies: an
    image's loss is its share of the batch's, times the number of images, so that the mean over images is the loss.

    Args:
        image_shape: (height, width, channels) that the model takes.
        strides: Of the model's levels.
        radius: How far from a box's centre a place learns it, in strides.
        focus: Exponent of the focal loss: how little is made of what is nearly right.
        box_weight: Weight of the boxes' loss beside the classes'.
        name: Of the loss.
        reduction: As for any Keras loss.
        dtype: As for any Keras loss; float32 whatever the model computes in.

    Example:
        >>> loss = FcosLoss((8, 8, 3), (4,))
        >>> labels = {"boxes": np.array([[[0.0, 0, 4, 4]]]), "classes": np.array([[0]])}
        >>> float(loss(packed(labels), np.zeros((1, 4, 6), "float32"))) > 0
        True
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        strides: Sequence[int],
        radius: float = 1.5,
        focus: float = 2.0,
        box_weight: float = 2.0,
        name: str = "fcos",
        reduction: str = "sum_over_batch_size",
        dtype: Any = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.image_shape, self.strides = tuple(image_shape), tuple(strides)
        self.radius, self.focus, self.box_weight = radius, focus, box_weight
        self._points, self._sizes = locations(self.image_shape, self.strides)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns float32 (B,) out of float (B, M, 5) from `packed` and float (B, N, C + 4)."""
        boxes, classes = y_true[..., :4], ops.cast(y_true[..., 4], "int32")
        logits, predicted = decode(y_pred, self._points, self._sizes)
        chosen = assign_targets(boxes, classes, self._points, self._sizes, self.radius)  # (B, N)
        found = ops.cast(chosen >= 0, "float32")
        index = ops.maximum(chosen, 0)
        wanted = ops.take_along_axis(boxes, ops.expand_dims(index, -1), axis=1)  # (B, N, 4)
        iou, giou = overlaps(predicted, wanted)
        quality = ops.expand_dims(ops.stop_gradient(iou) * found, -1)
        labels = ops.take_along_axis(classes, index, axis=1)
        targets = ops.one_hot(labels, logits.shape[-1], dtype="float32") * quality  # (B, N, C)
        entropy = ops.maximum(logits, 0) - logits * targets + ops.softplus(-ops.abs(logits))
        focal = ops.power(ops.abs(targets - ops.sigmoid(logits)), self.focus) * entropy
        losses = ops.sum(focal, axis=(1, 2)) + self.box_weight * ops.sum((1 - giou) * found, axis=1)
        return losses * _images_a_place(ops.sum(found), ops.cast(ops.shape(found)[0], "float32"))

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        own = {name: getattr(self, name) for name in ("image_shape", "strides", "radius", "focus", "box_weight")}
        return {**super().get_config(), **own}


def _images_a_place(places: Any, images: Any) -> Any:
    """Divides the number of images by that of places with a box, both of the global batch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # None while the model is built from shapes alone.
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            places, images = context.all_reduce(tf.distribute.ReduceOp.SUM, [places, images])
    return ops.stop_gradient(images / ops.maximum(places, 1.0))
