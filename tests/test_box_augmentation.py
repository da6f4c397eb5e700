"""Boxes stay on their objects, whatever is done to the images; the same seed does the same."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from builders import framed_scenes

from kerasbig.data.augmentation import StepSeeds
from kerasbig.data.box_augmentation import BOX_AUGMENTATIONS, BoxAugmentation, BoxMover

CASES = {
    "flip": BoxAugmentation(flip=True),
    "shift": BoxAugmentation(shift=0.3),
    "zoom": BoxAugmentation(zoom=0.5),
    "all": BoxAugmentation(shift=0.3, zoom=0.4, flip=True),
    "mosaic": BoxAugmentation(mosaic=1.0),
    "mosaic of all": BoxAugmentation(shift=0.3, zoom=0.4, flip=True, mosaic=1.0),
    "some mosaic": BoxAugmentation(flip=True, mosaic=0.5),
}


@pytest.fixture(scope="module")
def scenes():
    """One frame an image, each image's in a colour of its own, so that it is known again in a mosaic."""
    random = np.random.default_rng(0)
    images = np.zeros((16, 64, 64, 3), "float32")
    boxes = np.full((16, 2, 4), -1.0, "float32")
    classes = np.full((16, 2), -1, "int32")
    for i in range(16):
        width, height = random.integers(12, 30, 2)
        left, top = random.integers(0, 64 - width), random.integers(0, 64 - height)
        images[i, top : top + height, left : left + width] = colour(i)
        boxes[i, 0], classes[i, 0] = (left, top, left + width, top + height), i
    return images, {"boxes": tf.constant(boxes), "classes": tf.constant(classes)}


def colour(number: int) -> np.ndarray:
    return np.array([255, 0, 0] if number % 3 == 0 else [0, 255, 0] if number % 3 == 1 else [0, 0, 255], "float32")


def extent(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def changed(scenes, augmentation: BoxAugmentation, seed: int):
    images, labels = BoxMover(augmentation)(tf.constant(scenes[0]), scenes[1], StepSeeds(tf.constant([seed, 0])))
    return images.numpy(), labels["boxes"].numpy(), labels["classes"].numpy()


@pytest.mark.parametrize("name", CASES)
def test_boxes_stay_on_their_objects(scenes, name):
    kept = 0
    for seed in range(4):
        images, boxes, classes = changed(scenes, CASES[name], seed)
        for image, places, numbers in zip(images, boxes, classes, strict=True):
            real = numbers >= 0
            assert (places[~real] == -1).all()
            assert len(set(numbers[real].tolist())) == real.sum()
            for box, number in zip(places[real], numbers[real], strict=True):
                left, top, right, bottom = box
                assert 0 <= left < right <= 64
                assert 0 <= top < bottom <= 64
                mask = image[..., int(np.argmax(colour(number)))] > 127
                outer = np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]).astype(int)
                inner = np.round(box).astype(int) + np.array([1, 1, -1, -1])
                assert mask[inner[1] : inner[3], inner[0] : inner[2]].all()
                assert np.abs(extent(mask[outer[1] : outer[3], outer[0] : outer[2]]) + np.tile(outer[:2], 2) - box).max() <= 1
                if not CASES[name].mosaic:  # where nothing else has its colour
                    assert np.abs(extent(mask) - box).max() <= 1
                kept += 1
    assert kept > 40


def test_no_object_that_is_wholly_seen_loses_its_box(scenes):
    images, _, classes = changed(scenes, CASES["all"], 5)
    for number, (image, numbers) in enumerate(zip(images, classes, strict=True)):
        mask = image[..., int(np.argmax(colour(number)))] > 127
        touches = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        if mask.any() and not touches:
            assert numbers[0] == number


def test_the_same_seed_does_the_same_and_another_another(scenes):
    strong = BOX_AUGMENTATIONS["strong"]
    first, second, other = (changed(scenes, strong, seed) for seed in (1, 1, 2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.abs(first[0] - other[0]).max() > 50


def test_colours_change_and_stay_in_range(scenes):
    images, boxes, _ = changed(scenes, BoxAugmentation(colour=0.8), 3)
    assert images.min() >= 0
    assert images.max() <= 255
    assert np.abs(images - scenes[0]).max() > 20
    np.testing.assert_array_equal(boxes, scenes[1]["boxes"])


def test_a_box_with_too_little_left_is_gone():
    images = np.zeros((1, 40, 40, 3), "float32")
    labels = {"boxes": tf.constant([[[0.0, 0, 10, 10]]]), "classes": tf.constant([[1]])}
    for least, kept in ((0.9, False), (0.01, True)):
        seen = [
            BoxMover(BoxAugmentation(shift=0.2, least_visible=least))(tf.constant(images), labels, StepSeeds(tf.constant([seed, 0])))
            for seed in range(20)
        ]
        numbers = np.array([found["classes"].numpy()[0, 0] for _, found in seen])
        assert (numbers == 1).all() if kept else (numbers == -1).any()


def test_batches_augment_in_a_pipeline_and_differ_by_epoch():
    import kerasbig as kb

    images, boxes = framed_scenes(8)
    examples = kb.data.Examples(images, boxes, ("red", "green"), list(range(8)), "made", "train")
    model = kb.vision.vit_detector(examples.classes, size="lite-2", image_shape=(32, 32, 3), patch_size=8)
    data = kb.data.batches(examples, model, batch_size=4, augment="strong", shuffle=True)
    (x, y), (x2, _) = (next(iter(data)) for _ in range(2))
    assert x["images"].shape == (4, 32, 32, 3)
    assert y["boxes"].shape == (4, 8, 4)
    assert np.abs(x["images"] - x2["images"]).max() > 0.1
    again = next(iter(kb.data.batches(examples, model, batch_size=4, augment="strong", shuffle=True)))
    np.testing.assert_array_equal(again[0]["images"], x["images"])
    with pytest.raises(TypeError, match="Expected augment to be a BoxAugmentation or one of none, light, medium, strong"):
        kb.data.batches(examples, model, augment=kb.data.Augmentation(shift=0.1))
    with pytest.raises(ValueError, match=r"Expected augment to be one of none, .* Did you mean 'strong'"):
        kb.data.batches(examples, model, augment="strongg")


@pytest.mark.parametrize("wrong", [{"shift": -0.1}, {"zoom": 1.0}, {"mosaic": 2.0}, {"least_visible": 0.0}, {"colour": 1.5}])
def test_numbers_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"Expected {name} from 0 to 1. Received: {name}="):
        BoxAugmentation(**wrong)
