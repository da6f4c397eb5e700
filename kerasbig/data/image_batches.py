"""Images -> batches of pixels: decoded in parallel, resized once, changed at random anew in each epoch."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.augmentation import AUGMENTATIONS, Augmentation, RandAugment, Softener, StepSeeds, find_augmentation, move, relight
from kerasbig.data.batching import EpochOrder, accept_prepared
from kerasbig.data.box_augmentation import BOX_AUGMENTATIONS, BoxAugmentation, BoxMover
from kerasbig.data.boxes import Boxes
from kerasbig.data.examples import Examples
from kerasbig.data.image_graph import JPEG_RATIOS, resized, upright
from kerasbig.data.images import DECODERS, ImageFiles, decode
from kerasbig.data.passes import asked_anew

RESIZES = ("stretch", "crop", "pad")
# Decoded and resized images are kept in memory up to this many bytes.
CACHE_BYTES = 1 << 30
IMAGES = "images"


@dataclass(frozen=True)
class Pixels:
    """What `batches` of images leaves as `.padding`: a line about the data.

    Attributes:
        examples: Number of images.
        height: Rows that the model sees.
        width: Columns that the model sees.
        resize: One of `RESIZES`.
        cached: Whether the images are kept in memory.
    """

    examples: int
    height: int
    width: int
    resize: str
    cached: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, for a Run's config.json."""
        return asdict(self)

    def __str__(self) -> str:
        where = "kept in memory" if self.cached else "decoded in each epoch"
        return f"{self.examples:,} images, {self.height} x {self.width} pixels ({self.resize}), {where}"


def image_batches(
    examples: Examples,
    model: keras.Model,
    *,
    batch_size: int,
    shuffle: bool | None = None,
    seed: int = 0,
    augment: Augmentation | BoxAugmentation | str | None = None,
    cache: bool | None = None,
) -> tf.data.Dataset:
    """Turns images into batches that a model takes; `kerasbig.data.batches` calls it.

    Args:
        examples: Images with class ids, or with `Boxes`.
        model: A KerasHub image task whose preprocessor has an image converter, such as `kerasbig.vision.vit_classifier`
            builds.
        batch_size: Images in a batch; the last one may hold fewer.
        shuffle: Whether to shuffle; by default only where `examples.role` is "train".
        seed: Decides the order and the augmentation, together with the number of the epoch.
        augment: How to change the images at random, or its name; None leaves them.
        cache: Whether to keep the decoded and resized images in memory; by default if they take up to 1 GiB.

    Returns:
        A `tf.data.Dataset` of `({"images": float32 (B, H, W, 3)}, targets)`. The images are as the model takes them: its
        preprocessor's scale and offset are applied. Targets are int32 (B,) class ids, or float32 (B, C) labels where
        `augment` softens them; for boxes a dict of float32 (B, P, 4) `boxes` ("xyxy" in pixels of the resized image) and
        int32 (B, P) `classes`, filled up with -1.

    Raises:
        TypeError: If the model has no image converter, or the augmentation is not of the kind for boxes, or for classes.
        ValueError: If the augmentation has no such name.
    """
    shuffle = examples.role == "train" if shuffle is None else shuffle
    converter = require_converter(model)
    # A direct call, as a distiller's, takes the one tensor out of the dict, and warns of it.
    warnings.filterwarnings("ignore", r"The structure of `inputs` doesn't match the expected structure.\nExpected: images\b")
    accept_prepared(model, IMAGES)
    drawn = isinstance(examples.targets, Boxes)
    how = find_augmentation(augment, BOX_AUGMENTATIONS if drawn else AUGMENTATIONS)
    height, width = input_size(model)
    resize = resize_of(converter)
    source = ImageSource.of(examples.inputs, (height, width), resize)
    cache = source.bytes <= CACHE_BYTES if cache is None else cache
    source = source.cached() if cache else source
    order = EpochOrder(np.zeros(len(examples), "int64"), batch_size, seed)
    if shuffle:
        model.epoch_order = order
    targets = _box_targets(examples.targets, source) if drawn else tf.constant(examples.targets)
    dataset = _indices(order, len(examples), shuffle).map(_loader(source, how, seed), num_parallel_calls=tf.data.AUTOTUNE)
    finish = _finisher(converter, targets, _changer(how, len(examples.classes or ())), seed, len(examples))
    dataset = dataset.batch(batch_size).map(finish, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(math.ceil(len(examples) / batch_size))).prefetch(tf.data.AUTOTUNE)
    dataset.padding = Pixels(len(examples), height, width, resize, cache)
    return dataset


def predict_image_logits(model: keras.Model, inputs: Any, *, batch_size: int = 64) -> np.ndarray:
    """Computes the outputs of images, batch by batch in their order.

    Args:
        model: A model as for `image_batches`.
        inputs: N paths, `ImageFiles`, or uint8 (N, H, W, 3).
        batch_size: Images computed at once.

    Returns:
        float32 (N, C).
    """
    inputs = inputs if isinstance(inputs, np.ndarray | ImageFiles) else ImageFiles.read(inputs)
    examples = Examples(inputs, np.zeros(len(inputs), "int32"), None, list(range(len(inputs))), "", "all")
    dataset = image_batches(examples, model, batch_size=batch_size, cache=False)
    return np.asarray(model.predict(dataset, verbose=0), "float32")


def require_converter(model: keras.Model) -> Any:
    """Returns the image converter of a model.

    Raises:
        TypeError: If it has none.
    """
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    if converter is None:
        raise TypeError(
            f"Expected a model with an image converter. Received: {type(model).__name__} with "
            f"preprocessor={getattr(model, 'preprocessor', None)!r}. Build it with kerasbig.vision.vit_classifier, which keeps one."
        )
    return converter


def input_size(model: keras.Model) -> tuple[int, int]:
    """Returns height and width of the images that a model takes."""
    _, height, width, _ = model.input.shape
    return int(height), int(width)


def resize_of(converter: Any) -> str:
    """Returns how an image converter fits images to the model's size, one of `RESIZES`."""
    return "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"


def resize_plan(sizes: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Tells where each image goes when it is resized.

    Args:
        sizes: int (N, 2): heights and widths.
        size: The height and width to fill.
        resize: "stretch" changes the aspect; "crop" keeps it and cuts off what is too much on both sides; "pad" keeps it
            and leaves both sides black.

    Returns:
        float32 (N, 4): scale of y, scale of x, shift of y, shift of x; a point (x, y) goes to (x sx + tx, y sy + ty).

    Example:
        >>> resize_plan(np.array([[10, 20]]), (10, 10), "crop").tolist()
        [[1.0, 1.0, 0.0, -5.0]]
    """
    sizes = np.asarray(sizes, "float64").reshape(-1, 2)
    scales = np.array(size) / sizes
    if resize != "stretch":
        scales[:] = (scales.max if resize == "crop" else scales.min)(axis=1, keepdims=True)
    return np.concatenate([scales, (np.array(size) - sizes * scales) / 2], axis=1).astype("float32")


def moved_boxes(boxes: np.ndarray, plan: np.ndarray) -> np.ndarray:
    """Carries boxes (..., 4) "xyxy" along with the image that `resize_plan` told of (4,).

    Example:
        >>> moved_boxes(np.array([5.0, 0, 15, 10]), resize_plan(np.array([[10, 20]]), (20, 20), "crop")[0]).tolist()
        [0.0, 0.0, 20.0, 20.0]
    """
    scale_y, scale_x, shift_y, shift_x = np.moveaxis(np.asarray(plan), -1, 0)
    return boxes * np.stack([scale_x, scale_y] * 2, axis=-1) + np.stack([shift_x, shift_y] * 2, axis=-1)


def original_boxes(boxes: np.ndarray, plan: np.ndarray) -> np.ndarray:
    """Carries boxes (..., 4) "xyxy" of a resized image back to the image as it was.

    Example:
        >>> original_boxes(np.array([0.0, 0, 20, 20]), resize_plan(np.array([[10, 20]]), (20, 20), "crop")[0]).tolist()
        [5.0, 0.0, 15.0, 10.0]
    """
    scale_y, scale_x, shift_y, shift_x = np.moveaxis(np.asarray(plan), -1, 0)
    return (boxes - np.stack([shift_x, shift_y] * 2, axis=-1)) / np.stack([scale_x, scale_y] * 2, axis=-1)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that a graph can read by their number, each resized to one size.

    Attributes:
        size: Height and width.
        plans: float32 (N, 4), see `resize_plan`.
        pixels: uint8 (N, h, w, 3) in memory, or None.
        files: The files, or None.
        resized: Whether `pixels` are of the size already.
    """

    size: tuple[int, int]
    plans: np.ndarray
    pixels: tf.Tensor | None
    files: ImageFiles | None
    resized: bool

    @classmethod
    def of(cls, inputs: Any, size: tuple[int, int], resize: str) -> ImageSource:
        """Makes it from the inputs of examples: an array, `ImageFiles` or paths."""
        if isinstance(inputs, np.ndarray):
            sizes = np.broadcast_to(inputs.shape[1:3], (len(inputs), 2))
            with tf.device("/CPU:0"):
                pixels = tf.constant(inputs)
            return cls(size, resize_plan(sizes, size, resize), pixels, None, inputs.shape[1:3] == size)
        files = inputs if isinstance(inputs, ImageFiles) else ImageFiles.read(inputs)
        return cls(size, resize_plan(files.sizes, size, resize), None, files, False)

    @property
    def bytes(self) -> int:
        """What all images take once they are resized."""
        return len(self.plans) * self.size[0] * self.size[1] * 3

    def cached(self) -> ImageSource:
        """Decodes and resizes all images now."""
        if self.resized:
            return self
        dataset = tf.data.Dataset.range(len(self.plans)).map(self.reader(), num_parallel_calls=tf.data.AUTOTUNE).batch(64)
        pixels = np.concatenate(list(dataset.as_numpy_iterator()))
        with tf.device("/CPU:0"):
            return ImageSource(self.size, self.plans, tf.constant(pixels), None, True)

    def reader(self) -> Any:
        """Returns a function of the graph: from a number, int64 (), to uint8 (H, W, 3)."""
        if self.pixels is not None:
            pixels, ready, plans, size = self.pixels, self.resized, tf.constant(self.plans), self.size
            return lambda index: pixels[index] if ready else resized(pixels[index], plans[index], size)
        return _file_reader(self.files or ImageFiles.of([], []), self.plans, self.size)


def _file_reader(files: ImageFiles, plans: np.ndarray, size: tuple[int, int]) -> Any:
    """Returns a function of the graph: from a file's number, int64 (), to uint8 (H, W, 3)."""
    # What Pillow decodes comes upright.
    turns = np.where(files.decoders == DECODERS.index("pillow"), 1, files.orientations).astype("int32")
    paths, orientations, sizes = tf.constant(files.paths), tf.constant(turns), tf.constant(files.sizes)
    decoders, wanted = tf.constant(_decoders(files, plans)), tf.constant(plans)

    def read(index: tf.Tensor) -> tf.Tensor:
        image, orientation = _decoded(paths[index], decoders[index]), orientations[index]
        image = tf.cond(orientation == 1, lambda: image, lambda: upright(image, orientation))
        # What the JPEG decoder has made smaller needs to be scaled less.
        shrunk = tf.cast(tf.shape(image)[:2], tf.float32) / tf.cast(sizes[index], tf.float32)
        return resized(image, wanted[index] / tf.concat([shrunk, tf.ones(2)], 0), size)

    return read


def _decoders(files: ImageFiles, plans: np.ndarray) -> np.ndarray:
    """Returns int32 (N,): 0 for Pillow, 1 for PNG, from 2 on JPEG at each of `JPEG_RATIOS`, never smaller than what is needed."""
    largest = plans[:, :2].max(axis=1, initial=0)
    place = np.zeros(len(files), "int32")
    for index, ratio in enumerate(JPEG_RATIOS):
        place[largest * ratio <= 1] = index
    jpeg, png = (files.decoders == DECODERS.index(name) for name in ("jpeg", "png"))
    return np.where(jpeg, 2 + place, np.where(png, 1, 0)).astype("int32")


def _decoded(path: tf.Tensor, decoder: tf.Tensor) -> tf.Tensor:
    """Decodes a file to uint8 (h, w, 3), not yet upright."""
    content = tf.io.read_file(path)

    def by_pillow() -> tf.Tensor:
        return tf.numpy_function(_by_pillow, [content, path], tf.uint8, stateful=False)

    branches = [by_pillow, lambda: tf.io.decode_png(content, channels=3)]
    for ratio in JPEG_RATIOS:
        # The exact transform, as Pillow's, so that both give the same pixels.
        branches.append(partial(tf.io.decode_jpeg, content, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"))
    return tf.ensure_shape(tf.switch_case(decoder, branches), (None, None, 3))


def _by_pillow(content: Any, path: Any) -> np.ndarray:
    # A graph hands over bytes, and outside of one they come in arrays.
    content, path = (each if isinstance(each, bytes) else each.item() for each in (content, path))
    return decode(content, name=path.decode())


def _indices(order: EpochOrder, count: int, shuffle: bool) -> tf.data.Dataset:
    """Returns the numbers of one pass, each with that of its epoch."""

    def ask() -> tuple[np.ndarray, np.ndarray]:
        epoch = order.epoch
        chosen = np.concatenate(order.next_epoch()) if shuffle else np.arange(count)
        return chosen, np.full(count, epoch)

    numbers = tf.TensorSpec((count,), tf.int64)
    return asked_anew(ask, (numbers, numbers)).unbatch()


def _loader(source: ImageSource, augment: Augmentation | BoxAugmentation | None, seed: int) -> Any:
    """Returns what makes an image out of its number: read, and changed as RandAugment draws."""
    read = source.reader()
    change = RandAugment(augment.rand_augment) if isinstance(augment, Augmentation) and augment.rand_augment else None

    def load(index: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = tf.cast(read(index), tf.float32)
        if change is not None:
            image = change(image, StepSeeds(_folded(seed, epoch, index)))
        return image, index, epoch

    return load


def _finisher(converter: Any, targets: Any, change: Any, seed: int, count: int) -> Any:
    """Returns what makes a batch of the model's out of images and their numbers."""

    def finish(images: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tuple[dict[str, tf.Tensor], Any]:
        labels = tf.nest.map_structure(lambda values: tf.gather(values, index), targets)
        # A seed of the batch's own, beyond those of the images.
        images, labels = change(images, labels, StepSeeds(_folded(seed, epoch[0], index[0] + count)))
        return {IMAGES: converted(images, converter)}, labels

    return finish


def _changer(augment: Augmentation | BoxAugmentation | None, classes: int) -> Any:
    """Returns what changes the images of a batch at random, and their labels with them."""
    if augment is None:
        return lambda images, labels, seeds: (images, labels)
    if isinstance(augment, BoxAugmentation):
        return BoxMover(augment)
    soften = Softener(augment) if augment.softens else None

    def change(images: tf.Tensor, labels: tf.Tensor, seeds: StepSeeds) -> tuple[tf.Tensor, tf.Tensor]:
        images = move(images, augment, seeds) if augment.moves else images
        images = relight(images, augment, seeds) if augment.brightness else images
        return (images, labels) if soften is None else soften(images, tf.one_hot(labels, classes), seeds)

    return change


def converted(images: tf.Tensor, converter: Any) -> tf.Tensor:
    """Applies the scale and offset of KerasHub's converter to float32 pixels from 0 to 255."""
    if converter.scale is not None:
        images = images * tf.constant(converter.scale, tf.float32)
    if converter.offset is not None:
        images = images + tf.constant(converter.offset, tf.float32)
    return images


def _folded(seed: int, epoch: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    start = tf.stack([tf.constant(seed % 2**31, tf.int32), tf.cast(epoch, tf.int32)])
    return tf.random.experimental.stateless_fold_in(start, tf.cast(number, tf.int32))


def _box_targets(boxes: Boxes, source: ImageSource) -> dict[str, tf.Tensor]:
    """Returns the boxes in pixels of the resized images; what lies outside of them is gone."""
    places, classes = boxes.padded()  # (N, P, 4), (N, P)
    moved = moved_boxes(places, source.plans[:, None, :])
    height, width = source.size
    inside = np.clip(moved, 0, [width, height, width, height])
    gone = (classes < 0) | (inside[..., 2] <= inside[..., 0]) | (inside[..., 3] <= inside[..., 1])
    return {
        "boxes": tf.constant(np.where(gone[..., None], -1.0, inside).astype("float32")),
        "classes": tf.constant(np.where(gone, -1, classes)),
    }
