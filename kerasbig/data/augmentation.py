"""Changing training images at random, and their labels with them. All of it is a function of seed, epoch and example."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

# The operations that RandAugment draws from, with their strength at magnitude 1 (Cubuk et al., 2019, arXiv:1909.13719).
SHEAR, TRANSLATE, ROTATE, COLOUR = 0.3, 0.45, 30 / 360, 0.9
OPERATIONS_AN_IMAGE = 2


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images. 0 leaves a part out.

    Attributes:
        shift: Largest move to each side, as a share of the image's side, 0 to 1.
        zoom: Largest change of size, as a share: 0.2 draws from 0.8 to 1.2.
        rotate: Largest turn to each side in degrees.
        brightness: Largest change of brightness and of contrast, as a share: 0.2 draws both from 0.8 to 1.2.
        flip: Whether half of the images are mirrored left to right. Not for letters and digits.
        rand_augment: Magnitude of RandAugment, 0 to 1: two of its operations an image.
        mixup: Parameter of the Beta distribution that two images are blended by (Zhang et al., 2017, arXiv:1710.09412).
        cutmix: The same for a window of one image in another (Yun et al., 2019, arXiv:1905.04899). With both, each
            batch gets one of the two.
        label_smoothing: Share of each label that goes to all classes alike, 0 to below 1.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> Augmentation(shift=0.1, flip=True).softens
        False
    """

    shift: float = 0.0
    zoom: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.0
    flip: bool = False
    rand_augment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        ranges = {"shift": 1, "zoom": 1, "rotate": 180, "brightness": 1, "rand_augment": 1, "mixup": 1, "cutmix": 1, "label_smoothing": 1}
        for name, highest in ranges.items():
            value = getattr(self, name)
            if not 0 <= value <= highest or (name in ("zoom", "label_smoothing") and value == 1):
                raise ValueError(f"Expected {name} from 0 to {highest}. Received: {name}={value}")

    @property
    def moves(self) -> bool:
        """Whether images are shifted, zoomed, turned or mirrored."""
        return bool(self.shift or self.zoom or self.rotate or self.flip)

    @property
    def softens(self) -> bool:
        """Whether labels become shares of classes."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)


# Chosen by measurement on small data sets, see `docs/vision.md`.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(shift=0.1, zoom=0.1, rotate=10, label_smoothing=0.1),
    "faces": Augmentation(shift=0.05, zoom=0.05, rotate=5, brightness=0.2, flip=True),
    "medium": Augmentation(shift=0.1, zoom=0.15, rotate=10, cutmix=1.0, label_smoothing=0.1),
    "strong": Augmentation(shift=0.1, zoom=0.2, rotate=10, rand_augment=0.5, mixup=0.8, cutmix=1.0, label_smoothing=0.1),
}


def find_augmentation(named: Any, among: Mapping[str, Any] = AUGMENTATIONS) -> Any:
    """Returns an augmentation by its name; None for "none".

    Args:
        named: An augmentation, the name of one, or None.
        among: All that have a name, of one kind: `AUGMENTATIONS`, or those of `kerasbig.data.box_augmentation`.

    Raises:
        ValueError: If there is none of that name.
        TypeError: If it is of another kind.

    Example:
        >>> find_augmentation("light").shift
        0.1
    """
    if named is None:
        return None
    if isinstance(named, str):
        if named not in among:
            close = difflib.get_close_matches(named, among, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"Expected augment to be one of {', '.join(among)}. Received: {named!r}.{hint}")
        named = among[named]
    nothing = among["none"]
    if not isinstance(named, type(nothing)):
        raise TypeError(
            f"Expected augment to be a {type(nothing).__name__} or one of {', '.join(among)}. Received: a {type(named).__name__}."
        )
    return None if named == nothing else named


class StepSeeds(keras.random.SeedGenerator):
    """Seeds for Keras's random layers out of one seed: the same one gives the same numbers, in any order of calls.

    Args:
        seed: int32 (2,).
    """

    def __init__(self, seed: tf.Tensor):
        # No state of Keras's: its counter would depend on which image was decoded first.
        self._seed = seed
        self._drawn = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the next seed, int32 (2,)."""
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)


class RandAugment:
    """RandAugment on one image at a time, from Keras's layers; only the two operations that are drawn are computed.

    Args:
        magnitude: 0 to 1.

    Source: Cubuk et al., 2019, arXiv:1909.13719.
    """

    def __init__(self, magnitude: float):
        colour, layers = COLOUR * magnitude, keras.layers
        self._layers = [
            layers.RandomShear(x_factor=SHEAR * magnitude, y_factor=0.0, fill_mode="constant"),
            layers.RandomShear(x_factor=0.0, y_factor=SHEAR * magnitude, fill_mode="constant"),
            layers.RandomTranslation(TRANSLATE * magnitude, 0.0, fill_mode="constant"),
            layers.RandomTranslation(0.0, TRANSLATE * magnitude, fill_mode="constant"),
            layers.RandomRotation(ROTATE * magnitude, fill_mode="constant"),
            layers.RandomBrightness(colour / 2),
            layers.RandomContrast(colour),
            layers.RandomColorDegeneration((0.0, colour)),
            layers.RandomSharpness((0.5, 0.5 + colour / 2)),
            layers.RandomPosterization(max(4, 8 - round(4 * magnitude))),
            layers.Solarization(threshold_factor=(1 - magnitude, 1.0)),
            layers.AutoContrast(),
            layers.Equalization(),
        ]
        for layer in self._layers:
            # Images are changed in TensorFlow's graph whatever the backend of the model.
            layer.backend.set_backend("tensorflow")

    def __call__(self, image: tf.Tensor, seeds: StepSeeds) -> tf.Tensor:
        """Changes float32 (H, W, 3) in [0, 255]."""
        images = image[None]
        for _ in range(OPERATIONS_AN_IMAGE):
            # One number more leaves the image as it is.
            chosen = tf.random.stateless_uniform((), seeds.next(), 0, len(self._layers) + 1, tf.int32)
            branches = [lambda layer=layer, images=images: apply_layer(layer, images, seeds) for layer in self._layers]
            images = tf.switch_case(chosen, [*branches, lambda images=images: images])
        return tf.clip_by_value(images[0], 0.0, 255.0)


def move(images: tf.Tensor, augmentation: Augmentation, seeds: StepSeeds) -> tf.Tensor:
    """Shifts, zooms, turns and mirrors each image by its own numbers, in one resampling.

    Args:
        images: float32 (B, H, W, 3); what comes from outside is black.
        augmentation: How much.
        seeds: Where the numbers come from.

    Returns:
        float32 (B, H, W, 3).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    return transformed(images, random_affine(count, height, width, augmentation, seeds), height, width)


def transformed(images: tf.Tensor, matrices: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Moves each image as its matrix says; see `random_affine`.

    Args:
        images: float32 (B, h, w, 3); what comes from outside is black.
        matrices: float32 (B, 8).
        height: Of what is seen.
        width: Of what is seen.

    Returns:
        float32 (B, height, width, 3).
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=tf.constant([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def random_affine(count: Any, height: int, width: int, augmentation: Augmentation, seeds: StepSeeds) -> tf.Tensor:
    """Draws a transformation for each image.

    Args:
        count: Number of images.
        height: Of the images.
        width: Of the images.
        augmentation: How much to shift, zoom, turn and mirror.
        seeds: Where the numbers come from.

    Returns:
        float32 (B, 8): `[a, b, c, d, e, f, 0, 0]`, where what is seen at (x, y) came from (a x + b y + c, d x + e y + f).

    Example:
        >>> (random_affine(1, 4, 4, Augmentation(), StepSeeds(tf.constant([0, 0]))).numpy().round(3) + 0).tolist()
        [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    """

    def draw(limit: float) -> tf.Tensor:
        return tf.random.stateless_uniform((count,), seeds.next(), -limit, limit) if limit else tf.zeros((count,))

    across, down = draw(augmentation.shift) * width, draw(augmentation.shift) * height
    angle, scale = draw(augmentation.rotate * 3.14159265 / 180), 1 / (1 + draw(augmentation.zoom))
    side = tf.sign(tf.random.stateless_uniform((count,), seeds.next(), -1.0, 1.0)) if augmentation.flip else tf.ones((count,))
    side = tf.where(side == 0, 1.0, side)
    cosine, sine = tf.cos(angle) * scale, tf.sin(angle) * scale
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x, y = centre_x + across, centre_y + down
    zero = tf.zeros((count,))
    rows = [
        side * cosine, side * sine, centre_x - side * (cosine * x + sine * y),
        -sine, cosine, centre_y + sine * x - cosine * y,
        zero, zero,
    ]  # fmt: skip
    return tf.stack(rows, axis=1)


def relight(images: tf.Tensor, augmentation: Augmentation, seeds: StepSeeds) -> tf.Tensor:
    """Changes brightness and contrast of each image by its own numbers.

    Args:
        images: float32 (B, H, W, 3) in [0, 255].
        augmentation: How much.
        seeds: Where the numbers come from.

    Returns:
        float32 (B, H, W, 3) in [0, 255].

    Example:
        >>> image = tf.fill((1, 2, 2, 3), 100.0)
        >>> 80 <= float(relight(image, Augmentation(brightness=0.2), StepSeeds(tf.constant([0, 0])))[0, 0, 0, 0]) <= 120
        True
    """
    limit, shape = augmentation.brightness, (tf.shape(images)[0], 1, 1, 1)
    light, contrast = (1 + tf.random.stateless_uniform(shape, seeds.next(), -limit, limit) for _ in range(2))
    means = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return tf.clip_by_value(means * light + (images - means) * contrast, 0.0, 255.0)


class Softener:
    """Smooths the labels of a batch, and mixes its images by Keras's MixUp and CutMix, the labels with them.

    Args:
        augmentation: How much.
    """

    def __init__(self, augmentation: Augmentation):
        self._smoothing = augmentation.label_smoothing
        self._mixers = [keras.layers.MixUp(alpha=augmentation.mixup)] if augmentation.mixup else []
        if augmentation.cutmix:
            self._mixers.append(keras.layers.CutMix(factor=(augmentation.cutmix, augmentation.cutmix)))
        for mixer in self._mixers:
            mixer.backend.set_backend("tensorflow")

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, seeds: StepSeeds) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes float32 (B, H, W, 3) images and (B, C) labels, 1 at each class; returns the same, each label's sum still 1."""
        if self._smoothing:
            labels = (1 - self._smoothing) * labels + self._smoothing / labels.shape[-1]
        branches = [lambda mixer=mixer: _mix(mixer, images, labels, seeds) for mixer in self._mixers]
        if len(branches) == 2:
            return tf.cond(tf.random.stateless_uniform((), seeds.next()) < 0.5, *branches)
        return branches[0]() if branches else (images, labels)


def _mix(mixer: Any, images: tf.Tensor, labels: tf.Tensor, seeds: StepSeeds) -> tuple[tf.Tensor, tf.Tensor]:
    how = mixer.get_random_transformation(images, training=True, seed=seeds)
    if "batch_masks" in how:
        # Keras takes the share from the window's corners, between pixels: in small images that is some points off.
        how["mix_weight"] = 1.0 - tf.reduce_mean(tf.cast(how["batch_masks"], tf.float32), axis=(1, 2, 3))
    mixed = mixer.transform_images(images, how), mixer.transform_labels(labels, how)
    return tf.ensure_shape(mixed[0], images.shape), tf.ensure_shape(mixed[1], labels.shape)


def apply_layer(layer: Any, images: tf.Tensor, seeds: StepSeeds) -> tf.Tensor:
    """Changes float32 (B, H, W, 3) by one of Keras's random layers, with numbers from `seeds`."""
    how = layer.get_random_transformation(images, training=True, seed=seeds)
    return tf.ensure_shape(tf.cast(layer.transform_images(images, how, training=True), tf.float32), images.shape)
