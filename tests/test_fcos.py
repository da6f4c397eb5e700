"""FCOS against hand-worked NumPy: places, targets, boxes, losses; and the suppression of heaps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasbig.decoding.boxes import decode, locations
from kerasbig.decoding.suppression import best_boxes
from kerasbig.vision.fcos import FcosLoss, assign_targets, overlaps, packed


def random_boxes(random: np.random.Generator, shape: tuple[int, ...], side: float = 64.0) -> np.ndarray:
    corners = random.uniform(0, side, (*shape, 2, 2)).astype("float32")
    corners.sort(axis=-2)
    return corners.reshape(*shape, 4)


def numpy_overlaps(box: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    hull = (max(box[2], other[2]) - min(box[0], other[0])) * (max(box[3], other[3]) - min(box[1], other[1]))
    iou = width * height / union
    return iou, iou - (hull - union) / hull


def numpy_targets(boxes: np.ndarray, classes: np.ndarray, points: np.ndarray, sizes: np.ndarray, radius: float) -> np.ndarray:
    """Goes through places and boxes one by one, as the paper words it."""
    levels = sorted(set(sizes.tolist()))
    chosen = np.full(len(points), -1)
    for i, ((x, y), stride) in enumerate(zip(points, sizes, strict=True)):
        smallest = np.inf
        level = levels.index(stride)
        low = 0 if level == 0 else 8 * levels[level - 1]
        high = np.inf if level == len(levels) - 1 else 8 * stride
        for j, (left, top, right, bottom) in enumerate(boxes):
            if classes[j] < 0:
                continue
            sides = (x - left, y - top, right - x, bottom - y)
            near = abs(x - (left + right) / 2) < radius * stride and abs(y - (top + bottom) / 2) < radius * stride
            area = (right - left) * (bottom - top)
            if min(sides) > 0 and near and low < max(sides) <= high and area < smallest:
                smallest, chosen[i] = area, j
    return chosen


def test_locations_are_the_centres_of_the_cells_and_cover_a_side_that_is_no_multiple():
    points, sizes = locations((12, 16, 3), (4, 8))
    assert sizes.tolist() == [4.0] * 12 + [8.0] * 4
    assert points[0].tolist() == [2.0, 2.0]
    assert points[4].tolist() == [2.0, 6.0]
    assert points[12:].tolist() == [[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]]


def test_targets_by_hand():
    points, sizes = locations((16, 16, 3), (4,))
    boxes = np.array([[[0, 0, 16, 16], [4, 4, 8, 8], [-1, -1, -1, -1]]], "float32")
    chosen = assign_targets(boxes, np.array([[0, 1, -1]]), points, sizes, radius=0.6).numpy().reshape(4, 4)
    # The large box takes the four places around its centre, but for the one that the small box lies on.
    assert chosen.tolist() == [[-1, -1, -1, -1], [-1, 1, 0, -1], [-1, 0, 0, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("strides", [(4,), (4, 8), (2, 4, 16)])
def test_targets_equal_numpy(strides):
    random = np.random.default_rng(len(strides))
    points, sizes = locations((64, 64, 3), strides)
    boxes, classes = random_boxes(random, (5, 6)), random.integers(-1, 3, (5, 6))
    chosen = assign_targets(boxes, classes, points, sizes).numpy()
    expected = [numpy_targets(one, ids, points, sizes, 1.5) for one, ids in zip(boxes, classes, strict=True)]
    assert (chosen >= 0).sum() > 20
    np.testing.assert_array_equal(chosen, expected)


def test_decode_by_hand():
    points, sizes = locations((4, 8, 3), (4,))
    outputs = np.zeros((1, 2, 5), "float32")
    outputs[0, 0] = [0.5, *np.log([0.5, 0.25, 1.0, 0.5])]
    logits, boxes = decode(outputs, points, sizes)
    assert logits.numpy().tolist() == [[[0.5], [0.0]]]
    np.testing.assert_allclose(boxes, [[[0, 1, 6, 4], [2, -2, 10, 6]]], atol=1e-6)


def test_overlaps_equal_numpy_and_keras_cv():
    random = np.random.default_rng(0)
    boxes, others = random_boxes(random, (200,)), random_boxes(random, (200,))
    iou, giou = (value.numpy() for value in overlaps(boxes, others))
    expected = np.array([numpy_overlaps(one, other) for one, other in zip(boxes, others, strict=True)])
    np.testing.assert_allclose(np.stack([iou, giou], axis=1), expected, atol=1e-5)
    keras_cv = pytest.importorskip("keras_cv")
    # One box at a time: in a batch, keras-cv 0.9 answers for the first one only.
    loss = keras_cv.losses.GIoULoss(bounding_box_format="xyxy", reduction="none")
    theirs = [float(loss(other[None, None], box[None, None])[0]) for box, other in zip(boxes[:20], others[:20], strict=True)]
    np.testing.assert_allclose(theirs, 1 - giou[:20], atol=1e-5)


def test_overlaps_of_an_empty_box_are_finite():
    iou, giou = overlaps(np.zeros(4, "float32"), np.zeros(4, "float32"))
    assert np.isfinite([iou, giou]).all()


def test_loss_equals_numpy():
    random = np.random.default_rng(1)
    shape, strides = (32, 32, 3), (4, 8)
    points, sizes = locations(shape, strides)
    boxes, classes = random_boxes(random, (3, 4), 32.0), np.array([[0, 1, 2, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    outputs = random.normal(0, 1, (3, len(points), 3 + 4)).astype("float32")
    total, places = np.zeros(3), 0
    for b in range(3):
        chosen = numpy_targets(boxes[b], classes[b], points, sizes, 1.5)
        places += (chosen >= 0).sum()
        for i, j in enumerate(chosen):
            left, top, right, bottom = np.exp(outputs[b, i, -4:]) * sizes[i]
            x, y = points[i]
            target = np.zeros(3)
            if j >= 0:
                iou, giou = numpy_overlaps(np.array([x - left, y - top, x + right, y + bottom]), boxes[b, j])
                target[classes[b, j]] = iou
                total[b] += 2 * (1 - giou)
            scores = 1 / (1 + np.exp(-outputs[b, i, :3].astype("float64")))
            entropy = -target * np.log(scores) - (1 - target) * np.log(1 - scores)
            total[b] += (np.abs(target - scores) ** 2 * entropy).sum()
    assert places > 5
    loss = FcosLoss(shape, strides)
    labels = packed({"boxes": boxes, "classes": classes})
    np.testing.assert_allclose(loss.call(labels, outputs), total * 3 / places, rtol=1e-4)
    assert float(loss(labels, outputs)) == pytest.approx(total.sum() / places, rel=1e-4)


def test_loss_without_any_box_is_finite_and_teaches_the_background():
    loss = FcosLoss((16, 16, 3), (4,))
    labels = packed({"boxes": np.full((2, 1, 4), -1.0), "classes": np.full((2, 1), -1)})
    sure, unsure = np.full((2, 16, 6), -8.0, "float32"), np.zeros((2, 16, 6), "float32")
    assert 0 <= float(loss(labels, sure)) < 1e-5 < float(loss(labels, unsure))


def test_loss_has_finite_gradients_for_any_output():
    labels = packed({"boxes": np.array([[[1.0, 1, 9, 9]]]), "classes": np.array([[0]])})
    for value in (-100.0, 0.0, 100.0):
        outputs = tf.Variable(np.full((1, 16, 5), value, "float32"))
        with tf.GradientTape() as tape:
            loss = FcosLoss((16, 16, 3), (4,))(labels, outputs)
        assert np.isfinite(loss)
        assert np.isfinite(tape.gradient(loss, outputs)).all()


def test_loss_is_read_back_from_its_config():
    loss = FcosLoss((16, 24, 3), (4, 8), radius=2.0, focus=1.5, box_weight=3.0)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


def numpy_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float, iou: float) -> list[tuple[int, int]]:
    """Returns (place, class) of what is kept, class by class, the best first."""
    kept = []
    for number in range(scores.shape[1]):
        chosen: list[int] = []
        for place in np.argsort(-scores[:, number]):
            if scores[place, number] > threshold and all(numpy_overlaps(boxes[place], boxes[other])[0] <= iou for other in chosen):
                chosen.append(int(place))
        kept += [(place, number) for place in chosen]
    return sorted(kept, key=lambda one: -scores[one])


def test_suppression_equals_numpy():
    random = np.random.default_rng(2)
    centres = random.uniform(10, 50, (60, 2))
    boxes = np.concatenate([centres - 8, centres + 8], axis=1).astype("float32")
    scores = random.uniform(0, 1, (60, 3)).astype("float32")
    found, classes, best = (
        each.numpy() for each in best_boxes(tf.constant(boxes), tf.constant(scores), score_threshold=0.2, iou_threshold=0.5)
    )
    expected = numpy_suppression(boxes, scores, 0.2, 0.5)
    count = len(expected)
    assert 10 < count < 100
    np.testing.assert_allclose(best[:count], [scores[one] for one in expected])
    assert classes[:count].tolist() == [number for _, number in expected]
    np.testing.assert_allclose(found[:count], [boxes[place] for place, _ in expected])
    assert (classes[count:] == -1).all()
    assert (best[count:] == 0).all()
    assert (found[count:] == -1).all()


def test_suppression_uses_builtin_operations_of_litert_only():
    @tf.function(input_signature=[tf.TensorSpec((40, 4)), tf.TensorSpec((40, 2))])
    def find(boxes, scores):
        return best_boxes(boxes, scores, max_detections=5)

    content = tf.lite.TFLiteConverter.from_concrete_functions([find.get_concrete_function()]).convert()
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    random = np.random.default_rng(3)
    boxes, scores = random_boxes(random, (40,)), random.uniform(0, 1, (40, 2)).astype("float32")
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], boxes if detail["shape"][-1] == 4 else scores)
    interpreter.invoke()
    answers = {tuple(detail["shape"]): interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}
    np.testing.assert_allclose(answers[(5, 4)], find(boxes, scores)[0], atol=1e-5)
