"""The detector: built from a size and a preset, trained, saved, on several sizes of images and under bfloat16."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from builders import framed_scenes
from PIL import Image

import kerasbig as kb
from kerasbig.data import Boxes, Examples
from kerasbig.decoding.boxes import locations
from kerasbig.vision.detection import Detections, detection_answers
from kerasbig.vision.detector import BoxPreprocessor
from kerasbig.vision.positions import resized_positions
from kerasbig.vision.pyramid import default_pyramid

CLASSES = ("red", "green")


def scenes(count: int, role: str = "train", side: int = 32) -> Examples:
    images, boxes = framed_scenes(count, side)
    return Examples(images, boxes, CLASSES, list(range(1, count + 1)), "made", role)


def small(**options):
    keras.utils.set_random_seed(1)
    return kb.vision.vit_detector(CLASSES, **({"size": "lite-2", "image_shape": (32, 32, 3), "patch_size": 8} | options))


@pytest.fixture(scope="module")
def trained():
    """A detector that knows two scenes by heart."""
    examples = scenes(2)
    model = small(stem=True)
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, 150)))
    batches = kb.data.batches(examples, model, batch_size=2)
    history = model.fit(batches.repeat(25), epochs=6, steps_per_epoch=25, verbose=0).history
    return model, examples, history


@pytest.mark.slow
def test_learns_two_images_by_heart(trained):
    model, examples, history = trained
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert kb.vision.measure_detector(model, examples)["map"] > 0.9
    for found, image in zip(kb.vision.detect(model, examples.inputs), range(2), strict=True):
        boxes, classes, _ = examples.targets.of_image(image)
        assert len(found) == len(boxes)
        order, wanted = np.argsort(found.boxes[:, 0]), np.argsort(boxes[:, 0])
        assert np.abs(found.boxes[order] - boxes[wanted]).max() < 2
        assert found.classes[order].tolist() == classes[wanted].tolist()


@pytest.mark.parametrize("method", ["lime", "shap", "integrated_gradients"])
def test_a_box_is_explained_by_what_is_in_it(method, trained, tmp_path):
    model, examples, _ = trained
    found = kb.vision.detect(model, examples.inputs)[0]
    path = str(tmp_path / "scene.png")
    Image.fromarray(examples.inputs[0]).save(path)
    explanation = kb.explain.explain(kb.explain.box(model, path, len(found) - 1), path, method, progress=False)
    left, top, right, bottom = found.boxes[-1]
    name = f"{examples.classes[found.classes[-1]]} at " + ", ".join(f"{side:.0f}" for side in found.boxes[-1])
    # A box agrees with itself, as much as it scores.
    assert explanation.scores == {name: pytest.approx(float(found.scores[-1]), abs=1e-3)}
    strongest = explanation.case.segments == explanation.top(most=1)[0][0]
    rows, columns = np.nonzero(strongest)
    assert top - 2 <= rows.mean() <= bottom + 2
    assert left - 2 <= columns.mean() <= right + 2


def test_what_cannot_be_explained(trained):
    model, examples, _ = trained
    with pytest.raises(ValueError, match=r"Expected the number of a box that is found, from 0\. Received: number=99, with \d found above"):
        kb.explain.box(model, examples.inputs[0], 99)
    with pytest.raises(TypeError, match=r"Expected a detector\. Received: Sequential"):
        kb.explain.box(keras.Sequential(), examples.inputs[0])


def test_saved_and_read_back_it_answers_the_same(trained, tmp_path):
    model, examples, _ = trained
    before = model.predict(examples.inputs, verbose=0)
    model.save(tmp_path / "detector.keras")
    again = keras.saving.load_model(tmp_path / "detector.keras")
    np.testing.assert_allclose(again.predict(examples.inputs, verbose=0), before, atol=1e-5)
    model.save_to_preset(str(tmp_path / "preset"))
    task = keras_hub.models.ObjectDetector.from_preset(str(tmp_path / "preset"))
    assert type(task) is type(model)
    np.testing.assert_allclose(task.predict(examples.inputs, verbose=0), before, atol=1e-5)
    assert isinstance(task.preprocessor, BoxPreprocessor)
    assert [len(one) for one in kb.vision.detect(task, examples.inputs)] == [len(one) for one in kb.vision.detect(model, examples.inputs)]


@pytest.mark.parametrize("resize", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_lie_in_pixels_of_the_original_whatever_its_size_and_orientation(trained, tmp_path, resize, orientation):
    model, examples, _ = trained
    converter = model.preprocessor.image_converter
    before = converter.crop_to_aspect_ratio, converter.pad_to_aspect_ratio
    scale, margin = 3, 12
    image = np.asarray(Image.fromarray(examples.inputs[0]).resize((32 * scale, 32 * scale), Image.Resampling.NEAREST))
    boxes = examples.targets.of_image(0)[0] * scale
    if resize == "stretch":
        image = np.repeat(image, 2, axis=1)
        boxes = boxes * [2, 1, 2, 1]
    elif resize == "crop":  # what is cropped is the margin
        image = np.pad(image, ((0, 0), (margin, margin), (0, 0)), constant_values=60)
        boxes = boxes + np.array([margin, 0, margin, 0])
    stored = Image.fromarray(image)
    exif = Image.Exif()
    if orientation == 6:  # seen turned by 90 degrees clockwise
        stored, exif[274] = stored.transpose(Image.Transpose.ROTATE_90), 6
    stored.save(tmp_path / "photo.png", exif=exif)
    try:
        converter.crop_to_aspect_ratio, converter.pad_to_aspect_ratio = resize == "crop", resize == "pad"
        (found,) = kb.vision.detect(model, [str(tmp_path / "photo.png")])
    finally:
        converter.crop_to_aspect_ratio, converter.pad_to_aspect_ratio = before
    assert len(found) == len(boxes)
    order, wanted = np.argsort(found.boxes[:, 0]), np.argsort(boxes[:, 0])
    assert np.abs(found.boxes[order] - boxes[wanted]).max() < 4 * scale
    assert np.abs(found.boxes[order] - boxes[wanted]).mean() < 1.5 * scale


def test_raw_images_and_boxes_are_resized_together():
    model = small(resize="pad")
    images = np.zeros((1, 20, 40, 3), "uint8")
    labels = {"boxes": np.array([[[0, 0, 40, 20], [-1, -1, -1, -1]]], "float32"), "classes": np.array([[1, -1]])}
    x, y = model.preprocess_samples(images, labels)
    assert x.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(y["boxes"][0], [[0, 8, 32, 24], [-1, -1, -1, -1]])
    model.compile(keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()


def test_outputs_have_a_place_for_each_cell_and_few_scores_before_training():
    model = small(pyramid=(4, 8, 16), image_shape=(32, 48, 3))
    outputs = model.predict(np.zeros((1, 32, 48, 3), "uint8"), verbose=0)
    assert outputs.shape == (1, len(locations((32, 48, 3), (4, 8, 16))[0]), 2 + 4)
    scores = 1 / (1 + np.exp(-outputs[..., :2]))
    assert 0.005 < scores.mean() < 0.02


def test_default_pyramid():
    assert default_pyramid((1024, 1024, 3), 16) == (4, 8, 16, 32)
    assert default_pyramid((224, 224, 3), 16) == (4, 8, 16)
    assert default_pyramid((32, 32, 3), 4) == (4,)
    assert default_pyramid((8, 8, 3), 2) == (2,)


def test_pretrained_weights_arrive_at_another_size(tmp_path):
    keras.utils.set_random_seed(5)
    classifier = kb.vision.vit_classifier(("a", "b"), size="lite-2", image_shape=(32, 32, 3), patch_size=8)
    classifier.save_to_preset(str(tmp_path / "classifier"))
    same = kb.vision.vit_detector(CLASSES, preset=tmp_path / "classifier")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(same.backbone(images), classifier.backbone(images), atol=1e-6)
    assert same.image_shape == (32, 32, 3)
    wide = kb.vision.vit_detector(CLASSES, preset=tmp_path / "classifier", image_shape=(32, 64, 3))
    compared = 0
    for own, other in zip(wide.backbone.weights, classifier.backbone.weights, strict=True):
        value = np.asarray(other)
        if "position_embedding" in own.path:
            value = resized_positions(value, (4, 4), (4, 8))
        np.testing.assert_allclose(own, value, atol=1e-6)
        compared += 1
    assert compared > 30


@pytest.mark.slow
def test_windows_of_attention_for_large_images(tmp_path):
    model = small(size="lite-4", image_shape=(64, 64, 3), window_size=4)
    assert isinstance(model.backbone, keras_hub.models.ViTDetBackbone)
    images = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3)).astype("uint8")
    outputs = model.predict(images, verbose=0)
    assert outputs.shape == (1, 256 + 64, 6)
    # ViTDet normalizes pixels from 0 to 1 itself.
    assert np.asarray(model.preprocessor(images)).max() <= 1.0
    model.save_to_preset(str(tmp_path / "preset"))
    again = keras_hub.models.ObjectDetector.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(again.predict(images, verbose=0), outputs, atol=1e-5)
    mixed = small(size="lite-4", image_shape=(64, 64, 3), window_size=4, dtype="mixed_bfloat16")
    assert {layer.compute_dtype for layer in mixed.backbone._flatten_layers() if layer.weights} == {"bfloat16"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_mixed_bfloat16_computes_about_the_same_loss_and_answers_in_float32():
    whole, mixed, examples = small(), small(dtype="mixed_bfloat16"), scenes(4)
    assert mixed.backbone.compute_dtype == "bfloat16"
    mixed.set_weights(whole.get_weights())
    losses = [model.evaluate(kb.data.batches(examples, model, batch_size=4), verbose=0) for model in (whole, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    mixed.compile(keras.optimizers.SGD(0.01))
    assert np.isfinite(mixed.fit(kb.data.batches(examples, mixed, batch_size=4), verbose=0).history["loss"]).all()
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert mixed.predict(examples.inputs, verbose=0).dtype == "float32"


def test_answers_are_plain_lists():
    one = Detections(np.array([[1.0, 2.0, 3.5, 4.0]], "float32"), np.array([1]), np.array([0.25], "float32"))
    assert detection_answers([one, one.above(0.3)], CLASSES) == [
        {"boxes": [[1.0, 2.0, 3.5, 4.0]], "labels": ["green"], "scores": [0.25]},
        {"boxes": [], "labels": [], "scores": []},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ()}, "Expected at least one class, each with a name of its own"),
        ({"classes": ("a", "a")}, "Expected at least one class, each with a name of its own"),
        ({"classes": "cat"}, "Expected classes to be a list of names"),
        ({"preset": "vit_base"}, "Expected exactly one of preset and size"),
        ({"size": "tinny"}, "Did you mean 'tiny'"),
        ({"size": None}, "Expected exactly one of preset and size"),
        ({"resize": "fit"}, "Expected resize to be one of stretch, crop, pad. Received: resize='fit'"),
        ({"image_shape": (30, 32, 3)}, r"Use image_shape=\(32, 32, 3\)"),
        ({"pyramid": (3,)}, "Expected pyramid to be ascending strides out of 1, 2, 4, 8, 16"),
        ({"pyramid": (8, 4)}, "Expected pyramid to be ascending strides"),
        ({"drop_path": 1.0}, "Expected drop_path from 0 to below 1"),
        ({"dropout": -1.0}, "Expected dropout from 0 to below 1"),
        ({"window_size": 4, "stem": True}, "Expected window_size of at least 1, for square images"),
        ({"window_size": 4, "image_shape": (32, 64, 3)}, "Expected window_size of at least 1, for square images"),
    ],
)
def test_wrong_arguments(options, message):
    chosen = {"classes": CLASSES, "size": "lite-2", "image_shape": (32, 32, 3), "patch_size": 8} | options
    with pytest.raises(ValueError, match=message):
        kb.vision.vit_detector(chosen.pop("classes"), **chosen)


def test_wrong_presets(tmp_path):
    with pytest.raises(ValueError, match="Expected patch_size, stem, window_size and dropout beside a size only"):
        kb.vision.vit_detector(CLASSES, preset=tmp_path, stem=True)
    with pytest.raises(FileNotFoundError, match=r"to hold config\.json"):
        kb.vision.vit_detector(CLASSES, preset=tmp_path)


def test_wrong_thresholds():
    model = small()
    with pytest.raises(ValueError, match=r"Expected score_threshold from 0 to 1\. Received: score_threshold=2"):
        kb.vision.detect(model, np.zeros((1, 8, 8, 3), "uint8"), score_threshold=2)
    with pytest.raises(ValueError, match="Expected max_detections of at least 1"):
        kb.vision.detect(model, np.zeros((1, 8, 8, 3), "uint8"), max_detections=0)
    with pytest.raises(ValueError, match=r"Expected images of one size beside boxes. Received: shape=\(1, None, 8, 3\)"):
        model.preprocessor.call(keras.KerasTensor((1, None, 8, 3)), {"boxes": None, "classes": None})


def test_xla_on_several_replicas(monkeypatch):
    model = small()
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: SimpleNamespace(num_replicas_in_sync=2))
    with pytest.raises(ValueError, match="Expected jit_compile=False on several replicas"):
        model.compile("sgd", jit_compile=True)


def test_ignored_boxes_do_not_teach():
    boxes = Boxes.of([[[0, 0, 16, 16], [16, 16, 30, 30]]], [[0, 1]], [[False, True]])
    examples = Examples(np.zeros((1, 32, 32, 3), "uint8"), boxes, CLASSES, [1], "made", "train")
    _, labels = next(iter(kb.data.batches(examples, small(), batch_size=1)))
    assert labels["classes"].numpy().tolist() == [[0]]


@pytest.mark.slow
def test_a_detector_is_taught_by_another():
    images, boxes = framed_scenes(4)
    examples = Examples(images, boxes, CLASSES, [1, 2, 3, 4], "made", "train")
    teacher, student = (kb.vision.vit_detector(CLASSES, size="lite-2", image_shape=(32, 32, 3), patch_size=8) for _ in range(2))
    distiller = kb.compress.distill(teacher, student)
    kb.vision.compile_object_detector(distiller, keras.optimizers.SGD(1e-3))
    watch = kb.vision.CocoMetrics(examples)
    history = distiller.fit(kb.data.batches(examples, student, batch_size=2), epochs=1, verbose=0, callbacks=[watch]).history
    assert history["student_loss"][0] > 0
    assert "val_map" in history
