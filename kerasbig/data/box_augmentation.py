"""Changing training images at random, and their boxes with them. All of it is a function of seed, epoch and example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kerasbig.data.augmentation import Augmentation, StepSeeds, apply_layer, random_affine, transformed

# How much smaller a mosaic's images are drawn, at most: so far four images are seen where one was.
MOSAIC_ZOOM = 1.6
# A side of a box that is shorter than this many pixels, once it is cut off at the edge, is no longer a box.
SHORTEST_SIDE = 1.0


@dataclass(frozen=True)
class BoxAugmentation:
    """What is done to training images with boxes. 0 leaves a part out.

    Attributes:
        shift: Largest move to each side, as a share of the image's side, 0 to 1; what leaves the image is cropped.
        zoom: Largest change of size, as a share: 0.5 draws from 0.5 to 1.5.
        flip: Whether half of the images are mirrored left to right. Not for letters and digits.
        colour: Strength of changes of brightness, contrast and saturation, 0 to 1.
        mosaic: Share of the batches whose images are each put together from four, 0 to 1.
        least_visible: A box is kept if at least this share of it is still in the image, above 0 to 1.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> BoxAugmentation(shift=0.1, flip=True).mosaic
        0.0

    Source of mosaic: Bochkovskiy et al., 2020, arXiv:2004.10934, section 3.3.
    """

    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    colour: float = 0.0
    mosaic: float = 0.0
    least_visible: float = 0.3

    def __post_init__(self) -> None:
        for name in ("shift", "zoom", "colour", "mosaic", "least_visible"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "zoom" and value == 1) or (name == "least_visible" and value == 0):
                raise ValueError(f"Expected {name} from 0 to 1. Received: {name}={value}")


BOX_AUGMENTATIONS: dict[str, BoxAugmentation] = {
    "none": BoxAugmentation(),
    "light": BoxAugmentation(shift=0.1, zoom=0.15, colour=0.1),
    "medium": BoxAugmentation(shift=0.2, zoom=0.3, colour=0.2, mosaic=0.3),
    "strong": BoxAugmentation(shift=0.25, zoom=0.5, flip=True, colour=0.3, mosaic=0.5),
}


class BoxMover:
    """Changes a batch of images and carries their boxes along, in one resampling.

    Args:
        augmentation: How much.
    """

    def __init__(self, augmentation: BoxAugmentation):
        self._how = augmentation
        self._moves = Augmentation(shift=augmentation.shift, zoom=augmentation.zoom, flip=augmentation.flip)
        self._colours = []
        if augmentation.colour:
            strength = augmentation.colour
            self._colours = [
                keras.layers.RandomBrightness(strength / 2),
                keras.layers.RandomContrast(strength),
                keras.layers.RandomColorDegeneration((0.0, strength)),
            ]
        for layer in self._colours:
            # Images are changed in TensorFlow's graph whatever the backend of the model.
            layer.backend.set_backend("tensorflow")

    def __call__(self, images: tf.Tensor, labels: dict[str, tf.Tensor], seeds: StepSeeds) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Changes a batch.

        Args:
            images: float32 (B, H, W, 3) in [0, 255].
            labels: float32 (B, M, 4) `boxes`, "xyxy" in pixels, and int32 (B, M) `classes`; filled up with -1.
            seeds: Where the numbers come from.

        Returns:
            The same; with mosaics 4 M boxes.
        """
        mosaic, boxes, classes = self._how.mosaic, labels["boxes"], labels["classes"]
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        matrices = random_affine(count, height, width, self._moves, seeds)
        if mosaic:
            share, zoom = (
                tf.random.stateless_uniform((), seeds.next()),
                tf.random.stateless_uniform((count,), seeds.next(), 1.0, MOSAIC_ZOOM),
            )
            images, boxes, classes = tf.cond(
                share < mosaic,
                lambda: _of_four(images, boxes, classes, matrices, zoom),
                lambda: _of_one(images, boxes, classes, matrices),
            )
        elif self._moves.moves:
            images, boxes = _seen(images, boxes, matrices, height, width)
        for layer in self._colours:
            images = apply_layer(layer, images, seeds)
        boxes, classes = _visible(boxes, classes, height, width, self._how.least_visible)
        return images, {"boxes": boxes, "classes": classes}


def _of_four(images: Any, boxes: Any, classes: Any, matrices: Any, zoom: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Lays each image and three others of the batch out as two by two, and looks at the middle of them."""
    height, width = images.shape[1], images.shape[2]
    fours = [tf.roll(images, number, 0) for number in range(4)]
    canvas = tf.concat([tf.concat(fours[:2], 2), tf.concat(fours[2:], 2)], 1)  # (B, 2 H, 2 W, 3)
    parts, ids = [], []
    for number in range(4):
        across, down = number % 2 * width, number // 2 * height
        parts.append(tf.roll(boxes, number, 0) + tf.constant([across, down, across, down], tf.float32))
        ids.append(tf.roll(classes, number, 0))
    # What is seen at (x, y) of one image comes from as far off the canvas's centre, times the zoom.
    a, b, c, d, e, f, _, _ = tf.unstack(matrices, axis=1)
    zero = tf.zeros_like(a)
    c, f = (c + 0.5 - width / 2) * zoom + width - 0.5, (f + 0.5 - height / 2) * zoom + height - 0.5
    matrices = tf.stack([a * zoom, b * zoom, c, d * zoom, e * zoom, f, zero, zero], axis=1)
    seen, moved = _seen(canvas, tf.concat(parts, 1), matrices, height, width)
    return seen, moved, tf.concat(ids, 1)


def _of_one(images: Any, boxes: Any, classes: Any, matrices: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Moves images alone, with room for as many boxes as four of them have."""
    room = 3 * tf.shape(boxes)[1]
    seen, moved = _seen(images, boxes, matrices, images.shape[1], images.shape[2])
    moved = tf.pad(moved, [[0, 0], [0, room], [0, 0]], constant_values=-1.0)
    return seen, moved, tf.pad(classes, [[0, 0], [0, room]], constant_values=-1)


def _seen(images: Any, boxes: Any, matrices: Any, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves images and boxes by matrices that turn nothing."""
    return transformed(images, matrices, height, width), moved_by(boxes, matrices)


def moved_by(boxes: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Carries boxes along with images that were shifted, zoomed and mirrored.

    Args:
        boxes: float32 (B, M, 4) "xyxy" in pixels.
        matrices: float32 (B, 8), see `kerasbig.data.augmentation.random_affine`; they must not turn.

    Returns:
        float32 (B, M, 4), which may reach out of the image.

    Example:
        >>> matrices = tf.constant([[-2.0, 0.0, 9.0, 0.0, 2.0, 0.0, 0.0, 0.0]])
        >>> moved_by(tf.constant([[[0.0, 0.5, 4.0, 2.5]]]), matrices).numpy().tolist()
        [[[3.25, 0.5, 5.25, 1.5]]]
    """
    columns = matrices[:, None, :]
    # A matrix counts from the centre of the first pixel, a box from its corner.
    x = (boxes[..., 0::2] - 0.5 - columns[..., 2:3]) / columns[..., 0:1] + 0.5
    y = (boxes[..., 1::2] - 0.5 - columns[..., 5:6]) / columns[..., 4:5] + 0.5
    low, high = [tf.reduce_min(side, -1) for side in (x, y)], [tf.reduce_max(side, -1) for side in (x, y)]
    return tf.stack([*low, *high], axis=-1)


def _visible(boxes: Any, classes: Any, height: int, width: int, least: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts boxes off at the edge, and leaves out those of which too little is left."""
    inside = tf.clip_by_value(boxes, 0.0, tf.constant([width, height, width, height], tf.float32))
    whole, left = boxes[..., 2:] - boxes[..., :2], inside[..., 2:] - inside[..., :2]
    share = tf.reduce_prod(left, -1) / tf.maximum(tf.reduce_prod(whole, -1), 1e-6)
    kept = (classes >= 0) & (share >= least) & (tf.reduce_min(left, -1) >= SHORTEST_SIDE)
    return tf.where(kept[..., None], inside, -1.0), tf.where(kept, classes, -1)
