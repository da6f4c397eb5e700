"""Export of object detectors: boxes in pixels of the original, suppression in the graph, equal to `kerasbig predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from test_export_images import encoded, loosened, picture

import kerasbig as kb
from kerasbig.data.image_graph import plan_of
from kerasbig.export import bundles, image_runners, object_detector, pictures
from kerasbig.export.detector_graph import DetectorGraph, in_original_pixels
from kerasbig.export.detector_parity import ExpectedDetections, wrong_boxes

pytestmark = pytest.mark.slow

NAMES = ("chat", "犬")
FORMATS = ["saved_model", "hdf5", "litert"]


def make_detector(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    shared: dict[str, Any] = {"size": "lite-2", "image_shape": (32, 48, 3), "patch_size": 8, "stem": True}
    model = loosened(kb.vision.vit_detector(NAMES, **shared | options))
    # As many boxes as a trained one finds, and more.
    model.get_layer("classes").bias.assign([-1.5, -1.2])
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_detector()


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, checked with the built-in pictures."""
    return kb.export.bundle(model, tmp_path_factory.mktemp("export") / "found")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    for place, content in enumerate(pictures.default_pictures()):
        (folder / f"{place}").write_bytes(content)
    return [str(folder / f"{place}") for place in range(len(pictures.default_pictures()))]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the fresh processes where a test is about something else."""
    measured = {"max_abs_logit_difference": 0.0, "tolerance": 0.0, "examples": 1}
    monkeypatch.setattr(bundles, "run_checks", lambda kinds, expected, quantize: {kind: dict(measured) for kind in kinds})


def found_by(model: keras.Model, images: Any, **thresholds: float) -> list[dict[str, Any]]:
    return kb.vision.detection_answers(kb.vision.detect(model, images, **thresholds), NAMES)


def test_the_manifest_says_what_was_measured(exported: Path, model: keras.Model) -> None:
    manifest = kb.export.read_manifest(exported)
    assert list(manifest["formats"]) == FORMATS
    assert (manifest["task"], manifest["classes"]) == ("object-detector", list(NAMES))
    assert (manifest["image_shape"], manifest["resize"]) == ([32, 48, 3], "pad")
    assert (manifest["score_threshold"], manifest["lowest_score"]) == (0.3, 0.05)
    assert set(manifest["signatures"]) == {"serving_default", "detect", "pixels", "outputs"}
    for entry in manifest["formats"].values():
        assert 0 <= entry["parity"]["max_abs_logit_difference"] <= entry["parity"]["tolerance"]
    facts = json.loads((exported / "images.json").read_text("utf-8"))
    assert (facts["outputs"], facts["pyramid"]) == (["boxes", "label_ids", "scores", "count", "outputs"], list(model.pyramid))


@pytest.mark.parametrize("format", ["saved_model", "hdf5"])
def test_a_predictor_answers_exactly_as_predict_does(exported: Path, model: keras.Model, photos: list[str], format: str) -> None:
    predictor: Any = kb.export.load(exported, format)
    assert isinstance(predictor, kb.export.ImagePredictor)
    assert (predictor.format, predictor.class_names) == (format, NAMES)
    answers = found_by(model, photos)
    assert min(len(answer["boxes"]) for answer in answers) > 5
    assert predictor.predict(photos) == answers
    some = {"score_threshold": 0.4, "iou_threshold": 0.3}
    assert predictor.predict(photos[:2], **some) == found_by(model, photos[:2], **some)
    assert predictor.predict([]) == []
    with pytest.raises(ValueError, match=r"Expected iou_threshold from 0 to 1. Received: iou_threshold=2"):
        predictor.predict(photos, iou_threshold=2)


def test_litert_finds_nearly_the_same(exported: Path, model: keras.Model, photos: list[str], tmp_path: Path) -> None:
    predictor: Any = kb.export.load(exported, "litert")
    assert [len(answer["boxes"]) for answer in predictor.predict(photos)] == pytest.approx(
        [len(answer["boxes"]) for answer in found_by(model, photos)], abs=4
    )
    with pytest.raises(ValueError, match=r"Expected score_threshold from 0\.05 to 1"):
        predictor.predict(photos, score_threshold=0.01)
    exact: Any = kb.export.load(kb.export.litert(model, tmp_path / "float", quantize=None))
    # Not square, so that each side is scaled and moved in its own way; PNG gives the same pixels to a digit.
    image = np.asarray(picture(50, 130))
    received, right = exact.predict([image])[0], found_by(model, image[None])[0]
    assert received["labels"] == right["labels"]
    np.testing.assert_allclose(received["boxes"], right["boxes"], atol=0.1)
    np.testing.assert_allclose(received["scores"], right["scores"], atol=2e-3)


def test_onnx(model: keras.Model, photos: list[str], tmp_path: Path) -> None:
    predictor: Any = kb.export.load(kb.export.onnx(model, tmp_path / "found"))
    image = np.asarray(picture(50, 130))
    received, right = predictor.predict([image])[0], found_by(model, image[None])[0]
    assert received["labels"] == right["labels"]
    np.testing.assert_allclose(received["boxes"], right["boxes"], atol=0.1)
    np.testing.assert_allclose(received["scores"], right["scores"], atol=2e-3)
    assert [len(answer["boxes"]) for answer in predictor.predict(photos)] == [len(answer["boxes"]) for answer in found_by(model, photos)]


def test_saved_model_signatures(exported: Path, model: keras.Model, photos: list[str]) -> None:
    signatures = tf.saved_model.load(str(exported / "1")).signatures
    answer = signatures["serving_default"](image=tf.constant([Path(path).read_bytes() for path in photos]))
    assert {name: value.dtype.name for name, value in answer.items()} == {
        "boxes": "float32",
        "scores": "float32",
        "label_ids": "int32",
        "labels": "string",
        "count": "int32",
    }
    expected = kb.vision.detect(model, photos)
    counts = answer["count"].numpy()
    assert counts.tolist() == [len(one) for one in expected]
    assert answer["boxes"].shape == (len(photos), counts.max(), 4)
    for place, one in enumerate(expected):
        count = counts[place]
        np.testing.assert_allclose(answer["boxes"][place, :count], one.boxes, atol=1e-2)
        labels = [label.decode() for label in answer["labels"][place].numpy()]
        assert labels == [NAMES[i] for i in one.classes] + [""] * (counts.max() - count)
        assert (answer["label_ids"][place, count:].numpy() == -1).all()
    images = np.stack([np.asarray(picture(20, 50, seed)) for seed in range(2)])
    given = signatures["pixels"](pixels=tf.constant(images, tf.float32))
    assert given["outputs"].shape[-1] == len(NAMES) + 4
    for place, one in enumerate(kb.vision.detect(model, images)):
        np.testing.assert_allclose(given["boxes"][place, : len(one)], one.boxes, atol=1e-2)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_boxes_in_the_black_sides_are_left_out(resize: str) -> None:
    """Against NumPy: what is carried back, cut, and put together again."""
    random = np.random.default_rng(0)
    sizes = np.array([[20, 60], [60, 20], [7, 9]])
    corners = np.sort(random.uniform(0, 48, (3, 40, 2, 2)), axis=2).astype("float32")
    boxes, classes = corners.reshape(3, 40, 4), random.integers(-1, 2, (3, 40)).astype("int32")
    scores = -np.sort(-random.random((3, 40)).astype("float32"), axis=1)
    plans = tf.stack([plan_of(tf.constant(size), (32, 48), resize) for size in sizes])
    found = {name: value.numpy() for name, value in in_original_pixels(boxes, classes, scores, tf.constant(sizes), plans).items()}
    for place, size in enumerate(sizes):
        given = {"boxes": boxes[place], "label_ids": classes[place], "scores": scores[place]}
        right = image_runners.detected(given, NAMES, tuple(size), plans[place].numpy(), 0.0)
        count = found["count"][place]
        assert count == len(right["boxes"])
        np.testing.assert_allclose(found["boxes"][place, :count], np.reshape(right["boxes"], (-1, 4)), atol=0.01)
        assert [NAMES[i] for i in found["label_ids"][place, :count]] == right["labels"]
        assert (found["scores"][place, count:] == 0).all()
    assert (found["count"] < 40).all()


@pytest.mark.usefixtures("unchecked")
def test_windowed_and_plain_detectors(tmp_path: Path) -> None:
    image = np.asarray(picture(40, 40))
    kinds: dict[str, dict[str, Any]] = {"windows": {"window_size": 2, "size": "lite-4"}, "plain": {"resize": "stretch"}}
    for name, options in kinds.items():
        model = make_detector(image_shape=(32, 32, 3), stem=False, **options)
        folder = kb.export.bundle(model, tmp_path / name, ("hdf5",))
        assert kb.export.load(folder).predict([image]) == found_by(model, image[None])  # type: ignore[union-attr]


def test_int8(tmp_path: Path) -> None:
    model = make_detector()
    batch = np.random.default_rng(0).random((8, 32, 48, 3)).astype("float32")
    kb.compress.quantize_model(model, calibration=[batch])
    entry = kb.export.read_manifest(kb.export.litert(model, tmp_path / "found", quantize="int8"))["formats"]["litert"]
    assert entry["parity"]["max_abs_logit_difference"] <= 0.2
    assert entry["bytes"] < 0.25 * 4 * model.count_params() + 250_000


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_wrong_boxes() -> None:
    candidates = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 40, 50]])
    scores = np.array([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7], [0.9, 0.9]])
    right = {"boxes": candidates[[0, 2]], "label_ids": np.array([0, 1]), "scores": np.array([0.9, 0.7])}

    def judged(**changes: Any) -> str:
        given = right | {name: np.array(value) for name, value in changes.items()}
        return wrong_boxes(given["boxes"], given["label_ids"], given["scores"], candidates, candidates, scores, 0.3)

    assert judged() == ""
    assert judged(label_ids=[1, 1]) == "one that they do not say"
    assert judged(scores=[0.85, 0.7]) == "one that they do not say"
    assert judged(boxes=candidates[[0, 2]] + 1) == "one that they do not say"
    assert judged(boxes=candidates[[0, 1]], label_ids=[0, 0], scores=[0.9, 0.8]) == "two of a class that overlap"
    assert judged(boxes=candidates[:1], label_ids=[0], scores=[0.9]) == "one left out that overlaps none"


def test_places_of_a_small_image_that_say_about_the_same_are_told_apart() -> None:
    # Places of 96 pixels, seen in an image of one: the first and the third end at nearly the same box, with nearly the same score.
    candidates = np.array([[0.0, 0, 60, 60], [5, 5, 65, 65], [3, 3, 92, 92]])
    seen = np.array([[0.0, 0, 0.625, 0.625], [0.052, 0.052, 0.677, 0.677], [0.031, 0.031, 0.66, 0.66]])
    scores = np.array([[0.9], [0.2], [0.8996]])
    assert wrong_boxes(seen[[0, 2]], np.array([0, 0]), scores[[0, 2], 0], candidates, seen, scores, 0.3) == ""


def without_a_box(answer: dict[str, Any]) -> None:
    answer["label_ids"][0][0], answer["labels"][0][0] = -1, ""
    answer["count"][0] -= 1


def with_another_label(answer: dict[str, Any]) -> None:
    answer["labels"][0][0] = "bird"


def with_another_count(answer: dict[str, Any]) -> None:
    answer["count"][0] += 1


def moved(answer: dict[str, Any]) -> None:
    answer["boxes"][0][0] = [side + 3 for side in answer["boxes"][0][0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_box, r"boxes of image 0 of the examples of the exported saved_model to follow from its outputs"),
        (moved, r"Received: one that they do not say"),
        (with_another_label, r"Expected the labels and counts of the exported saved_model to follow from label_ids"),
        (with_another_count, r"Expected the labels and counts of the exported saved_model to follow from label_ids"),
    ],
)
def test_answers_that_do_not_follow(model: keras.Model, change: Callable[[dict[str, Any]], None], message: str) -> None:
    files = [encoded(picture(50, 130), "PNG")]
    expected = object_detector.expect(model, kb.export.float32_twin(model), files, ["saved_model"], None)["saved_model"]
    assert isinstance(expected, ExpectedDetections)
    detector = DetectorGraph(model.image_shape, model.pyramid)
    plans = plan_of(tf.constant([50, 130]), (32, 48), "pad")[None]
    found = in_original_pixels(*detector.best(tf.constant(expected.outputs)), tf.constant([[50, 130]]), plans)
    answer = {name: value.numpy().tolist() for name, value in found.items()}
    answer |= {"labels": [[NAMES[i] for i in answer["label_ids"][0]]], "outputs": expected.outputs, "image_outputs": expected.outputs}
    assert expected.measured("saved_model", answer, None)["examples"] == 1
    change(answer)
    with pytest.raises(kb.export.ExportError, match=message):
        expected.measured("saved_model", answer, None)
    worse = replace(expected, outputs=expected.outputs + np.float32(1))
    with pytest.raises(kb.export.ExportError, match="to answer as the model does"):
        worse.measured("saved_model", answer, None)


def test_detectors_that_cannot_be_exported(tmp_path: Path) -> None:
    model = make_detector()
    with pytest.raises(ValueError, match="Expected a model with ranges for quantize='int8'"):
        kb.export.litert(model, tmp_path / "found", quantize="int8")
    model.class_names = None
    with pytest.raises(ValueError, match=r"to name the model's 2 classes. Received: class_names=None"):
        kb.export.hdf5(model, tmp_path / "found")
    other = keras_hub.models.ObjectDetector.__new__(keras_hub.models.ObjectDetector)
    with pytest.raises(TypeError, match=r"Expected model to be a detector from kerasbig.vision.vit_detector. Received: ObjectDetector"):
        object_detector.require(other, None)
    assert list(tmp_path.iterdir()) == []
