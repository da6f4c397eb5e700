"""The samples that are images: arrays in memory."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kerasbig.data.boxes import Boxes
from kerasbig.data.examples import Examples
from kerasbig.data.samples import fetch

CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGITS = tuple("0123456789")
# Where Debian's package dataset-fashion-mnist puts the files; elsewhere Keras fetches them.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# The four files of Fashion-MNIST, unpacked: images and labels, for training and for the test.
_FASHION_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_FASHION_SHA256 = {
    "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
    "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
}

SCENE_SIZE, MOST_DIGITS = 96, 3
SCENES = {"train": 2000, "validation": 250, "test": 250}
# Sides of a digit in a scene, in pixels.
_SMALLEST, _LARGEST = 18, 36


def read_image_sample(name: str, split: str, role: str) -> Examples:
    """Returns a sample, or one split of it.

    Args:
        name: The name of a sample of kind "images" or "boxes".
        split: "train" for all of it, or the split of a sample that has its own.
        role: The role of the `Examples`.

    Returns:
        `Examples` of uint8 (N, H, W, 3) images; targets are int32 (N,) class ids, or `Boxes`.

    Raises:
        ImportError: If the package that brings it is not installed.
        ValueError: If its files are not those that are known.

    Example:
        >>> examples = read_image_sample("digits", "train", "all")
        >>> examples.inputs.shape, examples.classes[examples.targets[0]]
        ((1797, 8, 8, 3), '0')
    """
    targets: np.ndarray | Boxes
    if name == "digit_scenes":
        images, targets = digit_scenes(split)
        classes = DIGITS
    elif name == "fashion_mnist":
        grey, targets = _fashion_mnist(split)
        images, classes = _rgb(grey), CLOTHES
    elif name == "mnist5k":
        folder = fetch(name)
        images, targets = _rgb(np.load(folder / "images.npy")), np.load(folder / "labels.npy").astype("int32")
        classes = DIGITS
    elif name == "faces_or_not":
        images, targets, classes = _rgb(_lfw_subset()), np.repeat([1, 0], 100).astype("int32"), ("background", "face")
    else:
        grey, targets = _digits()
        images, classes = _rgb(grey), DIGITS
    return Examples(images, targets, classes, list(range(1, len(images) + 1)), name, role)


def digit_scenes(split: str, seed: int = 0) -> tuple[np.ndarray, Boxes]:
    """Composes scenes of handwritten digits: 1 to 3 in colour on a noisy ground, none on another.

    Args:
        split: "train", "validation" or "test"; each has digits of its own.
        seed: Decides all of it.

    Returns:
        uint8 (N, 96, 96, 3) and the boxes around the ink.

    Example:
        >>> images, boxes = digit_scenes("test")
        >>> images.shape, int(boxes.counts.max())
        ((250, 96, 96, 3), 3)
    """
    from PIL import Image

    grey, labels = _digits()
    role = list(SCENES).index(split)
    order = np.random.default_rng(seed).permutation(len(grey))
    # Digits in proportion to the scenes: 80, 10 and 10 percent.
    own = np.split(order, [len(grey) * 8 // 10, len(grey) * 9 // 10])[role]
    random = np.random.default_rng([seed, role])
    images = np.zeros((SCENES[split], SCENE_SIZE, SCENE_SIZE, 3), "uint8")
    boxes: list[list[np.ndarray]] = []
    classes: list[list[int]] = []
    for scene in images:
        ground = random.uniform(0, 64) + random.normal(0, 10, (SCENE_SIZE, SCENE_SIZE, 1)).repeat(3, axis=2)
        placed: list[np.ndarray] = []
        chosen: list[int] = []
        for number in random.choice(own, random.integers(1, MOST_DIGITS + 1)):
            side = int(random.integers(_SMALLEST, _LARGEST + 1))
            place = _free_place(random, side, placed)
            if place is None:
                continue
            left, top = place
            ink = np.asarray(Image.fromarray(grey[number]).resize((side, side), Image.Resampling.BILINEAR))
            window = ground[top : top + side, left : left + side]
            np.maximum(window, ink[..., None] * random.uniform(0.6, 1, 3), out=window)
            rows, columns = np.flatnonzero(ink.max(axis=1) > 64), np.flatnonzero(ink.max(axis=0) > 64)
            placed.append(np.array([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1], "float32"))
            chosen.append(int(labels[number]))
        scene[:] = np.clip(ground, 0, 255).astype("uint8")
        boxes.append(placed)
        classes.append(chosen)
    return images, Boxes.of(boxes, classes)


def _free_place(random: np.random.Generator, side: int, placed: list[np.ndarray]) -> tuple[int, int] | None:
    for _ in range(10):
        left, top = (int(value) for value in random.integers(0, SCENE_SIZE - side, 2))
        if all(left > box[2] or top > box[3] or left + side < box[0] or top + side < box[1] for box in placed):
            return left, top
    return None


def _rgb(grey: np.ndarray) -> np.ndarray:
    """Turns uint8 (N, H, W) into (N, H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.round(found.images * (255 / 16)).astype("uint8"), found.target.astype("int32")


def _lfw_subset() -> np.ndarray:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "Expected scikit-image, which brings the sample 'faces_or_not'. It is not installed: pip install 'kerasbig[explain]'."
        ) from error
    read: Any = data.lfw_subset
    faces = np.asarray(read())
    return faces if faces.dtype == np.uint8 else np.round(255 * faces).astype("uint8")


def _fashion_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one part of Fashion-MNIST from Debian's package, else as `keras.datasets` fetches it."""
    names = _FASHION_FILES[split]
    if all((DEBIAN_FOLDER / name).is_file() for name in names):
        parts = [gzip.decompress((DEBIAN_FOLDER / name).read_bytes()) for name in names]
        images, labels = np.frombuffer(parts[0], "uint8", offset=16).reshape(-1, 28, 28), np.frombuffer(parts[1], "uint8", offset=8)
    else:
        import keras

        try:
            train, test = keras.datasets.fashion_mnist.load_data()
        except Exception as error:  # Keras raises a bare Exception where it cannot fetch
            raise RuntimeError(
                f"Could not fetch the sample 'fashion_mnist': {error}. Without a network, install Debian's package "
                f"dataset-fashion-mnist, or put its four .gz files into {DEBIAN_FOLDER} or ~/.keras/datasets/fashion-mnist."
            ) from error
        images, labels = train if split == "train" else test
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != _FASHION_SHA256[split]:
        raise ValueError(
            f"Expected the {split} part of Fashion-MNIST with SHA-256 {_FASHION_SHA256[split]}. Received: {digest}. "
            f"Remove {DEBIAN_FOLDER} or ~/.keras/datasets/fashion-mnist and fetch it again."
        )
    return images, labels.astype("int32")
