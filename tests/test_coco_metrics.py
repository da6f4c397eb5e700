"""Average precision equals pycocotools run directly, and what it must be by hand."""

from __future__ import annotations

import contextlib
import io

import keras
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import kerasbig as kb
from kerasbig.data import Boxes, Examples
from kerasbig.vision import CocoMetrics, Detections, coco_figures, measure_detector


def found(boxes, classes, scores) -> Detections:
    return Detections(np.array(boxes, "float32").reshape(-1, 4), np.array(classes, "int32"), np.array(scores, "float32"))


def made(seed: int = 0, images: int = 12, classes: int = 3):
    """True boxes, and detections that are about right, wrong, twice there or missing."""
    random = np.random.default_rng(seed)
    boxes, ids, ignored, detections = [], [], [], []
    for _ in range(images):
        count = int(random.integers(0, 5))
        corners = random.integers(0, 50, (count, 2))
        truth = np.concatenate([corners, corners + random.integers(10, 30, (count, 2))], axis=1).astype("float32")
        labels = random.integers(0, classes, count)
        boxes.append(truth)
        ids.append(labels)
        ignored.append(random.uniform(size=count) < 0.15)
        seen = np.concatenate([truth + random.normal(0, 2, truth.shape), truth[:2] + random.normal(0, 1, truth[:2].shape)])
        guessed = np.where(random.uniform(size=len(seen)) < 0.8, np.concatenate([labels, labels[:2]]), 0)
        detections.append(found(seen, guessed, random.uniform(0, 1, len(seen))))
    return Boxes.of(boxes, ids, ignored), detections


def by_pycocotools(truth: Boxes, detections: list[Detections], classes: int) -> np.ndarray:
    annotations, results = [], []
    for image in range(len(truth)):
        for box, number, ignored in zip(*truth.of_image(image), strict=True):
            x, y, x2, y2 = map(float, box)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": int(number), "bbox": [x, y, x2 - x, y2 - y],
                "area": (x2 - x) * (y2 - y), "iscrowd": int(ignored),
            })  # fmt: skip
        each = detections[image]
        for box, number, score in zip(each.boxes, each.classes, each.scores, strict=True):
            x, y, x2, y2 = map(float, box)
            results.append({"image_id": image, "category_id": int(number), "bbox": [x, y, x2 - x, y2 - y], "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i} for i in range(len(truth))], "annotations": annotations, "info": {}}
        coco.dataset["categories"] = [{"id": i} for i in range(classes)]
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed):
    truth, detections = made(seed)
    stats = by_pycocotools(truth, detections, 3)
    assert 0.05 < stats[0] < 0.95
    figures = coco_figures(truth, detections, 3)
    assert figures.metrics == pytest.approx({"map": stats[0], "ap50": stats[1], "ap75": stats[2]}, abs=1e-9)
    each = figures.class_figures()
    assert np.mean([one["map"] for one in each]) == pytest.approx(stats[0])


def test_by_hand():
    truth = Boxes.of([[[0, 0, 10, 10], [20, 20, 30, 30]]], [[0, 0]])
    half = [found([[0, 0, 10, 10], [40, 40, 50, 50]], [0, 0], [0.9, 0.8])]
    # Precision 1 up to a recall of one half, which 51 of the 101 recalls lie at or below.
    assert coco_figures(truth, half, 1).metrics["map"] == pytest.approx(51 / 101)
    loose = [found([[0, 0, 10, 6], [20, 20, 30, 26]], [0, 0], [0.9, 0.8])]  # IoU 0.6
    assert coco_figures(truth, loose, 1).metrics == pytest.approx({"map": 0.3, "ap50": 1.0, "ap75": 0.0})


def test_a_class_that_does_not_occur_does_not_count():
    truth = Boxes.of([[[0, 0, 10, 10]]], [[1]])
    figures = coco_figures(truth, [found([[0, 0, 10, 10], [0, 0, 10, 10]], [1, 2], [0.9, 0.8])], 3)
    assert figures.metrics["map"] == pytest.approx(1.0)
    assert np.isnan(figures.class_figures()[2]["map"])


def test_nothing_found_is_zero():
    figures = coco_figures(Boxes.of([[[0, 0, 9, 9]], []], [[0], []]), [found([], [], [])] * 2, 2)
    assert figures.metrics == {"map": 0.0, "ap50": 0.0, "ap75": 0.0}


def test_wrong_input():
    with pytest.raises(ValueError, match=r"Expected detections of each of 1 images\. Received: 0"):
        coco_figures(Boxes.of([[[0, 0, 9, 9]]], [[0]]), [], 1)
    with pytest.raises(ValueError, match=r"Expected at least one box to measure by\. Received: 1 images"):
        coco_figures(Boxes.of([[[0, 0, 9, 9]]], [[0]], [[True]]), [found([], [], [])], 1)
    examples = Examples(np.zeros((1, 16, 16, 3), "uint8"), np.array([0]), ("cat", "dog"), [1], "a folder", "test")
    with pytest.raises(TypeError, match=r"Expected examples with boxes\. Received targets of ndarray from a folder"):
        CocoMetrics(examples)
    with pytest.raises(ValueError, match=r"Expected every of at least 1\. Received: every=0"):
        CocoMetrics(Examples(examples.inputs, Boxes.of([[[0, 0, 9, 9]]], [[0]]), ("cat",), [1], "x", "test"), every=0)


def test_callback_adds_to_the_logs_what_measuring_gives():
    from builders import framed_scenes

    images, boxes = framed_scenes(8)
    examples = Examples(images, boxes, ("red", "green"), list(range(8)), "made", "train")
    model = kb.vision.vit_detector(examples.classes, size="lite-2", image_shape=(32, 32, 3), patch_size=8)
    model.compile(keras.optimizers.SGD(0.01))
    history = model.fit(kb.data.batches(examples, model, batch_size=4), epochs=3, verbose=0, callbacks=[CocoMetrics(examples, every=2)])
    logged = history.history["val_map"]
    assert len(logged) == 3
    assert logged[1] != logged[0] or logged[1] == 0
    assert logged[2] == logged[1]
    measured = measure_detector(model, examples)
    assert set(measured) == {"map", "ap50", "ap75"}
    assert all(0 <= value <= 1 for value in measured.values())
