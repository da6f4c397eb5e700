"""Batches of images: TensorFlow's decoding against Pillow's, resizing with boxes, orders, and augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage
from test_images import picture, with_orientation

import kerasbig as kb
from kerasbig.data import Augmentation, Boxes, Examples, ImageFiles
from kerasbig.data.augmentation import Softener, StepSeeds, find_augmentation, move, random_affine
from kerasbig.data.image_batches import ImageSource, moved_boxes, original_boxes, resize_plan

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return kb.vision.vit_classifier(CLASSES, size="lite-2", image_shape=(16, 16, 3))


def examples(count: int = 10, side: int = 16, role: str = "train") -> Examples:
    images = np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype("uint8")
    return Examples(images, np.arange(count, dtype="int32") % 3, CLASSES, list(range(1, count + 1)), "made", role)


def read_all(inputs: Any, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    read = ImageSource.of(inputs, size, resize).reader()
    return np.stack([read(tf.constant(i, tf.int64)).numpy() for i in range(len(inputs))])


# Decoding and resizing


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_pillow_s_and_upright(kind: str, tmp_path: Path) -> None:
    paths = []
    for orientation in range(1, 9):
        paths.append(tmp_path / f"{orientation}")
        paths[-1].write_bytes(with_orientation(orientation, Image.fromarray(picture(32, 32)), kind))
    expected = np.stack([kb.data.decode(path) for path in paths])
    np.testing.assert_array_equal(read_all(ImageFiles.read(paths), (32, 32)), expected)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(picture(120, 200)).resize((800, 480), Image.Resampling.BICUBIC)
    (tmp_path / "a.jpg").write_bytes(with_orientation(6, image))  # 800 high and 480 wide as it is seen
    files = ImageFiles.read([tmp_path / "a.jpg"])
    found = read_all(files, (100, 60))[0]
    expected = np.asarray(Image.fromarray(kb.data.decode(files[0])).resize((60, 100), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_resizing_is_tensorflow_s_with_antialiasing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3)).astype("uint8")
    expected = tf.image.resize(image, (16, 20), antialias=True).numpy()
    np.testing.assert_allclose(read_all(image, (16, 20)), expected, atol=0.51)
    cropped = tf.image.resize(image[:, :, 10:50], (16, 16), antialias=True).numpy()
    # Only the outermost pixels may see what lies beyond the crop.
    np.testing.assert_allclose(read_all(image, (16, 16), "crop")[:, :, 1:-1], cropped[:, :, 1:-1], atol=0.51)
    padded = read_all(image, (30, 30), "pad")
    np.testing.assert_allclose(padded[:, 5:25], tf.image.resize(image, (20, 30), antialias=True).numpy(), atol=0.51)
    assert padded[:, :5].max() == padded[:, 25:].max() == 0


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (48, 48)])
def test_boxes_stay_on_their_objects(resize: str, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(shape[0])
    for _ in range(5):
        height, width = shape
        left, top = random.integers(12, width - 24), random.integers(12, height - 24)
        box = np.array([left, top, left + random.integers(6, 12), top + random.integers(6, 12)], "float64")
        image = np.zeros((1, height, width, 3), "uint8")
        image[0, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
        seen = read_all(image, (96, 80), resize)[0, ..., 0] > 127
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        plan = resize_plan(np.array([shape]), (96, 80), resize)[0]
        moved = moved_boxes(box, plan)
        assert np.abs(np.clip(moved, 0, [80, 96, 80, 96]) - found).max() <= 1
        np.testing.assert_allclose(original_boxes(moved, plan), box, atol=1e-4)


def test_box_targets_in_pixels_of_the_model(model: keras.Model) -> None:
    images = np.zeros((2, 10, 20, 3), "uint8")
    boxes = Boxes.of([[[0, 0, 4, 5], [9, 2, 12, 6]], []], [[0, 2], []])
    plain = Examples(images, boxes, CLASSES, [1, 2], "made", "all")
    inputs, targets = next(iter(kb.data.batches(plain, model, batch_size=2)))
    assert inputs["images"].shape == (2, 16, 16, 3)
    np.testing.assert_allclose(targets["boxes"][0], [[0, 0, 3.2, 8], [7.2, 3.2, 9.6, 9.6]], atol=1e-5)
    assert targets["classes"].numpy().tolist() == [[0, 2], [-1, -1]]
    with pytest.raises(TypeError, match="Expected augment to be a BoxAugmentation"):
        kb.data.batches(plain, model, augment=Augmentation(shift=0.1))


# Batches


def test_batches_are_what_the_model_takes(model: keras.Model) -> None:
    plain = examples(role="all")
    (inputs, targets), *others = list(kb.data.batches(plain, model, batch_size=4))
    np.testing.assert_allclose(inputs["images"], plain.inputs[:4] / 127.5 - 1, atol=1e-6)
    assert (targets.dtype, targets.numpy().tolist()) == (tf.int32, [0, 1, 2, 0])
    assert [len(batch) for _, batch in others] == [4, 2]
    # KerasHub's own preprocessor gives the same, and batches pass it by.
    logits = np.asarray(model(inputs["images"]))
    np.testing.assert_allclose(model.predict(plain.inputs[:4], verbose=0), logits, atol=1e-5)
    np.testing.assert_allclose(kb.data.predict_logits(model, plain.inputs)[:4], logits, atol=1e-5)


def test_files_cached_or_not_are_the_same(model: keras.Model, tmp_path: Path) -> None:
    for number, image in enumerate(examples(4, 24).inputs):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = ImageFiles.read(sorted(tmp_path.glob("*.png")))
    part = Examples(files, np.array([0, 1, 2, 0], "int32"), CLASSES, [1, 2, 3, 4], "made", "all")
    runs = [kb.data.batches(part, model, batch_size=3, cache=cache) for cache in (True, False, None)]
    assert [run.padding.cached for run in runs] == [True, False, True]
    first = [np.concatenate([inputs["images"] for inputs, _ in run]) for run in runs]
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[0], first[2])
    assert "4 images, 16 x 16 pixels (stretch), kept in memory" in str(runs[0].padding)
    logits = kb.data.predict_logits(model, [str(path) for path in files])
    np.testing.assert_allclose(logits, model.predict(runs[0], verbose=0), atol=1e-6)


@pytest.mark.slow
def test_each_epoch_has_an_order_and_changes_of_its_own(model: keras.Model) -> None:
    def epochs(seed: int = 0, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        dataset = kb.data.batches(examples(), model, batch_size=4, seed=seed, augment="strong")
        model.epoch_order.epoch = start
        passes = [list(dataset) for _ in range(2)]
        return [tuple(np.concatenate(parts) for parts in zip(*((x["images"], y) for x, y in each), strict=True)) for each in passes]

    (first, labels), (second, _) = epochs()
    (again, same), _ = epochs()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(epochs(start=1)[0][0], second)  # as a resumed training asks for it
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first - epochs(seed=1)[0][0]).max() > 0.1
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert np.abs(first).max() <= 1 + 1e-6
    assert len(np.unique(labels)) > 2


def test_a_model_without_a_converter() -> None:
    with pytest.raises(TypeError, match=r"Expected a model with an image converter. Received: Sequential"):
        kb.data.batches(examples(), keras.Sequential([keras.Input((16, 16, 3))]), batch_size=2)


def test_augment_is_for_images(tiny_bert: Any, review_examples: Examples) -> None:
    with pytest.raises(ValueError, match="Expected augment and cache for images only"):
        kb.data.batches(review_examples, tiny_bert, augment="light")


# Augmentation


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match=r"Expected shift from 0 to 1. Received: shift=2"):
        Augmentation(shift=2)
    with pytest.raises(ValueError, match="Expected label_smoothing from 0 to 1"):
        Augmentation(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"one of none, light, faces, medium, strong. Received: 'ligth'. Did you mean 'light'"):
        find_augmentation("ligth")
    assert find_augmentation("none") is None


def test_moving_is_an_affine_map() -> None:
    how = Augmentation(shift=0.2, zoom=0.3, rotate=40, flip=True)
    images = np.random.default_rng(0).uniform(0, 255, (6, 12, 15, 3)).astype("float32")
    seed = tf.constant([3, 4])
    moved = move(tf.constant(images), how, StepSeeds(seed)).numpy()
    matrices = random_affine(6, 12, 15, how, StepSeeds(seed)).numpy()
    for image, found, (a, b, c, d, e, f, *_) in zip(images, moved, matrices, strict=True):
        matrix, offset = np.array([[e, d], [b, a]]), np.array([f, c])  # from (row, column) to (row, column)
        for channel in range(3):
            expected = ndimage.affine_transform(image[..., channel], matrix, offset, order=1, mode="grid-constant")
            np.testing.assert_allclose(found[..., channel], expected, atol=0.05)
    assert {np.sign(np.linalg.det(matrix[[0, 1, 3, 4]].reshape(2, 2))) for matrix in matrices} == {-1.0, 1.0}  # some are mirrored


def test_nothing_moves_without_a_limit() -> None:
    images = tf.random.stateless_uniform((2, 8, 8, 3), (0, 0))
    np.testing.assert_allclose(move(images, Augmentation(), StepSeeds(tf.constant([0, 0]))), images, atol=1e-6)


@pytest.mark.parametrize("how", [Augmentation(mixup=0.8), Augmentation(cutmix=1.0)])
def test_mixed_labels_are_the_shares_of_the_mixed_images(how: Augmentation) -> None:
    # Each image is of one colour that tells its class, so that the label can be read from the pixels.
    images = np.repeat(np.eye(4, 3, dtype="float32")[:, None, None], 16, axis=1).repeat(16, axis=2)
    mixed, labels = Softener(how)(tf.constant(images), tf.eye(4), StepSeeds(tf.constant([1, 2])))
    np.testing.assert_allclose(mixed.numpy().mean(axis=(1, 2)), labels.numpy()[:, :3], atol=0.01)
    np.testing.assert_allclose(labels.numpy().sum(axis=1), 1, atol=1e-6)
    assert ((labels.numpy() > 0.01) & (labels.numpy() < 0.99)).any()


def test_labels_are_smoothed() -> None:
    _, labels = Softener(Augmentation(label_smoothing=0.3))(tf.zeros((1, 2, 2, 3)), tf.eye(3)[:1], StepSeeds(tf.constant([0, 0])))
    np.testing.assert_allclose(labels, [[0.8, 0.1, 0.1]], atol=1e-6)


def test_rand_augment_changes_each_image_and_keeps_its_range(model: keras.Model) -> None:
    dataset = kb.data.batches(examples(40), model, batch_size=40, shuffle=False, augment=Augmentation(rand_augment=0.5))
    changed = next(iter(dataset))[0]["images"].numpy()
    plain = examples(40).inputs / 127.5 - 1
    differences = np.abs(changed - plain).max(axis=(1, 2, 3))
    assert (differences > 0.02).mean() > 0.7  # two operations out of fourteen, one of them nothing
    assert np.abs(changed).max() <= 1 + 1e-6
    assert len(np.unique(differences.round(4))) > 20
