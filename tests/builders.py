"""Every builder at its tiny size, with data it can learn: what the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from conftest import review_lines

import kerasbig as kb


@dataclass(frozen=True)
class Built:
    """A tiny model and what it eats."""

    model: keras.Model
    batches: Any
    inputs: Any
    """One batch as the model takes it."""
    loss: keras.losses.Loss
    metrics: list[keras.metrics.Metric]
    """Objects: for metrics that are named only, Keras traces the first step twice."""
    computes_in_int8: bool = True
    """Whether its LiteRT file can have int8 activations, or int8 weights alone."""


def accuracy() -> keras.metrics.Metric:
    return keras.metrics.SparseCategoricalAccuracy("accuracy")


def bert_classifier(*, regression: bool = False) -> Built:
    lines, targets = review_lines(32)
    classes = None if regression else ("negative", "positive")
    labels = targets.astype("float32") if regression else targets
    examples = kb.data.Examples(lines, labels, classes, list(range(32)), "made.csv", "train")
    keras.utils.set_random_seed(3)
    model = kb.text.bert_classifier(classes, size="tiny", vocabulary=kb.text.learn_wordpiece(lines, 120), sequence_length=16)
    batches = kb.data.batches(examples, model, batch_size=8)
    loss = keras.losses.MeanSquaredError() if regression else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.MeanAbsoluteError() if regression else accuracy()
    return Built(model, batches, next(iter(batches))[0], loss, [metric])


def gpt_generator() -> Built:
    lines, _ = review_lines(120)
    documents = kb.data.Documents.from_texts(lines, role="train")
    keras.utils.set_random_seed(3)
    vocabulary = kb.text.learn_bpe(documents.lines(), 330)
    model = kb.text.gpt_generator(size="tiny", vocabulary=vocabulary, sequence_length=16)
    batches = kb.data.batches(documents, model, batch_size=8, shuffle=False, progress=False).take(4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Built(model, batches, next(iter(batches))[0], loss, [accuracy()], computes_in_int8=False)


def framed_scenes(count: int, side: int = 32, seed: int = 0) -> tuple[np.ndarray, kb.data.Boxes]:
    """Makes grey scenes with one or two filled frames, red of class 0 and green of class 1, and their boxes."""
    random = np.random.default_rng(seed)
    images = np.full((count, side, side, 3), 60, "uint8")
    boxes: list[list[tuple[int, int, int, int]]] = []
    classes: list[list[int]] = []
    for image in images:
        boxes.append([])
        classes.append([])
        for half in range(random.integers(1, 3)):
            width, height = random.integers(side // 4, side // 2 - 1, 2)
            left, top = random.integers(half * side // 2, (half + 1) * side // 2 - width + 1), random.integers(0, side - height + 1)
            number = int(random.integers(2))
            image[top : top + height, left : left + width, number] = 250
            boxes[-1].append((left, top, left + width, top + height))
            classes[-1].append(number)
    return images, kb.data.Boxes.of(boxes, classes)


def vit_detector() -> Built:
    images, boxes = framed_scenes(32)
    examples = kb.data.Examples(images, boxes, ("red", "green"), list(range(32)), "made", "train")
    keras.utils.set_random_seed(3)
    model = kb.vision.vit_detector(examples.classes, size="lite-2", image_shape=(32, 32, 3), patch_size=8)
    batches = kb.data.batches(examples, model, batch_size=8)
    # A small weight, so that plain gradient descent at the tests' rates is as calm as with the other builders.
    loss = kb.vision.FcosLoss(model.image_shape, model.pyramid, box_weight=0.5)
    return Built(model, batches, next(iter(batches))[0]["images"], loss, [])


def picture_examples(count: int = 32, side: int = 8) -> kb.data.Examples:
    """Makes images whose label is which half is brighter; not so bright that steps grow what rounding left."""
    random = np.random.default_rng(0)
    targets = (np.arange(count) % 2).astype("int32")
    images = random.integers(64, 176, (count, side, side, 3))
    for image, target in zip(images, targets, strict=True):
        image[:, target * side // 2 :][:, : side // 2] += 60
    return kb.data.Examples(images.astype("uint8"), targets, ("left", "right"), list(range(1, count + 1)), "made", "train")


def vit_classifier(*, stem: bool = False) -> Built:
    examples = picture_examples()
    keras.utils.set_random_seed(3)
    how = {"stem": True, "drop_path": 0.1} if stem else {}
    model = kb.vision.vit_classifier(examples.classes, size="lite-2", image_shape=(8, 8, 3), patch_size=4, pooling="gap", **how)
    batches = kb.data.batches(examples, model, batch_size=8, shuffle=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Built(model, batches, next(iter(batches))[0], loss, [accuracy()])


def drawn_faces(people: int, photos: int, side: int = 16, seed: int = 0) -> kb.data.Examples:
    """Draws faces: colours of skin and hair, and where eyes, hair and mouth are, belong to a person; light and place do not."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / (side - 1)
    images = []
    for _ in range(people):
        skin, hair = random.integers(110, 240, 3), random.integers(10, 130, 3)
        eyes, top, mouth, width = random.uniform((0.1, 0.15, 0.65, 0.08), (0.26, 0.38, 0.85, 0.25))
        for _ in range(photos):
            x, y = columns - 0.5 - random.uniform(-0.05, 0.05), rows - random.uniform(-0.05, 0.05)
            face = np.where((y < top)[..., None], hair, skin).astype("float64")
            dark = (abs(abs(x) - eyes) < 0.06) & (abs(y - 0.45) < 0.06) | (abs(x) < width) & (abs(y - mouth) < 0.05)
            face[dark] *= 0.3
            face[(x / 0.42) ** 2 + ((y - 0.5) / 0.52) ** 2 > 1] = 60
            images.append(np.clip(face * random.uniform(0.85, 1.15) + random.normal(0, 6, face.shape), 0, 255))
    targets = np.repeat(np.arange(people, dtype="int32"), photos)
    names = tuple(f"person {number + 1}" for number in range(people))
    return kb.data.Examples(np.array(images).astype("uint8"), targets, names, list(range(1, len(images) + 1)), "drawn", "train")


def face_classifier() -> Built:
    examples = drawn_faces(4, 8, side=8)
    keras.utils.set_random_seed(3)
    # A small scale, so that rounding is no larger than with the other builders.
    model = kb.vision.face_classifier(examples.classes, size="lite-2", image_shape=(8, 8, 3), patch_size=4, embedding_dim=16, scale=4.0)
    batches = kb.data.batches(examples, model, batch_size=8, seed=1)
    return Built(model, batches, next(iter(batches))[0], kb.vision.ArcFaceLoss(0.2, 4), [accuracy()])


BUILDERS: dict[str, Callable[[], Built]] = {
    "bert_classifier": bert_classifier,
    "bert_classifier (regression)": lambda: bert_classifier(regression=True),
    "gpt_generator": gpt_generator,
    "vit_classifier": vit_classifier,
    "vit_classifier (stem)": lambda: vit_classifier(stem=True),
    "vit_detector": vit_detector,
    "face_classifier": face_classifier,
}
# Other forms of a builder, in brackets, have the same kinds of kernels and gradients.
ONE_OF_EACH = {name: build for name, build in BUILDERS.items() if "(" not in name}


def public_builders() -> set[str]:
    """Returns the names of all builders that the package offers."""
    kinds = ("_classifier", "_generator", "_detector")
    parts = [getattr(kb, part) for part in ("text", "vision") if part in kb.__all__]
    verbs = ("compile", "evaluate", "measure")
    return {name for part in parts for name in part.__all__ if name.endswith(kinds) and not name.startswith(verbs)}


def logits(built: Built) -> np.ndarray:
    return keras.ops.convert_to_numpy(built.model(built.inputs, training=False)).astype("float32")
