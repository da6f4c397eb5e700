"""A detector's answers inside the graph: boxes with non-maximum suppression, in pixels of the image as it came.

Shapes: B images, N places, C classes, K boxes at most, k boxes of the image with the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasbig.decoding.boxes import decode, locations
from kerasbig.decoding.suppression import best_boxes
from kerasbig.export.image_graph import IMAGE, PIXELS, Function, ImageGraph, signature

# As `kerasbig predict` reports them.
SCORE_THRESHOLD, IOU_THRESHOLD, MAX_DETECTIONS = 0.3, 0.6, 100
# Lower, so that whoever runs a file without thresholds of its own may set them afterwards.
LOWEST_SCORE = 0.05
# The outputs of a LiteRT or ONNX file, in their order.
OUTPUTS = ("boxes", "label_ids", "scores", "count", "outputs")


class DetectorGraph:
    """From what a detector returns to boxes.

    Args:
        image_shape: (height, width, 3) that it takes.
        pyramid: Strides of its levels.
    """

    def __init__(self, image_shape: Sequence[int], pyramid: Sequence[int]) -> None:
        self._places = locations(image_shape, pyramid)
        height, width = (float(side) for side in image_shape[:2])
        self._sides = [width, height, width, height]

    def candidates(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns float32 (B, N, 4) boxes in pixels of the model's image and (B, N, C) scores, of float32 (B, N, C + 4)."""
        logits, boxes = decode(outputs, *self._places)
        return tf.clip_by_value(boxes, 0.0, self._sides), tf.sigmoid(logits)

    def best(
        self, outputs: tf.Tensor, score_threshold: Any = SCORE_THRESHOLD, iou_threshold: Any = IOU_THRESHOLD
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Leaves the best box of each heap: float32 (B, K, 4), int32 (B, K) and float32 (B, K), filled up with -1, -1 and 0."""

        def one(image: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return best_boxes(*image, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=MAX_DETECTIONS)

        kinds = (tf.float32, tf.int32, tf.float32)
        boxes, classes, scores = tf.map_fn(one, self.candidates(outputs), fn_output_signature=kinds, parallel_iterations=8)
        return boxes, classes, scores

    def finish(self, outputs: tf.Tensor) -> list[tf.Tensor]:
        """Returns `OUTPUTS` of one image, (1, N, C + 4), by plain operations: what a LiteRT or ONNX file gives."""
        boxes, _ = self.candidates(outputs)
        # Beside int8 activations the converter would round a sigmoid to 1/256, and make equal what is not.
        powers = tf.exp(tf.minimum(outputs[..., :-4], 30.0))
        scores = powers / (1.0 + powers)
        kept, classes, best = best_boxes(
            boxes[0], scores[0], score_threshold=LOWEST_SCORE, iou_threshold=IOU_THRESHOLD, max_detections=MAX_DETECTIONS
        )
        count = tf.reduce_sum(tf.cast(classes >= 0, tf.int32))
        return [kept[None], classes[None], best[None], tf.reshape(count, (1,)), outputs]


def in_original_pixels(boxes: tf.Tensor, classes: tf.Tensor, scores: tf.Tensor, sizes: tf.Tensor, plans: tf.Tensor) -> dict[str, tf.Tensor]:
    """Carries boxes back to the images as they came, and leaves out what lies outside of them.

    Args:
        boxes: float32 (B, K, 4) in pixels of the model's image.
        classes: int32 (B, K); -1 where there is none.
        scores: float32 (B, K), the best first.
        sizes: int32 (B, 2): heights and widths.
        plans: float32 (B, 4): where each image went, see `kerasbig.data.image_graph.plan_of`.

    Returns:
        `boxes` float32 (B, k, 4), `scores` float32 (B, k), `label_ids` int32 (B, k), filled up with -1, 0 and -1; `count` int32 (B,).

    Example:
        >>> given = tf.constant([[[0.0, 1, 2, 3]]]), tf.constant([[0]]), tf.constant([[0.5]])
        >>> found = in_original_pixels(*given, tf.constant([[8, 8]]), tf.constant([[0.5, 0.5, 0, 0]]))
        >>> found["boxes"].numpy().tolist(), found["count"].numpy().tolist()
        ([[[0.0, 2.0, 4.0, 6.0]]], [1])
    """
    scale, shift = (tf.gather(plans, columns, axis=1)[:, None] for columns in ([1, 0, 1, 0], [3, 2, 3, 2]))
    sides = tf.cast(tf.gather(sizes, [1, 0, 1, 0], axis=1), tf.float32)[:, None]
    moved = tf.minimum(tf.maximum((boxes - shift) / scale, 0.0), sides)
    # What lies wholly in the black sides of a padded image is nothing of the image.
    good = (classes >= 0) & (moved[..., 2] > moved[..., 0]) & (moved[..., 3] > moved[..., 1])
    count = tf.reduce_sum(tf.cast(good, tf.int32), axis=1)
    order = tf.argsort(tf.cast(~good, tf.int32), axis=1, stable=True)[:, : tf.reduce_max(tf.concat([count, [0]], 0))]
    good, moved, classes, scores = (tf.gather(each, order, batch_dims=1) for each in (good, moved, classes, scores))
    return {
        "boxes": tf.where(good[..., None], moved, -1.0),
        "scores": tf.where(good, scores, 0.0),
        "label_ids": tf.where(good, classes, -1),
        "count": count,
    }


def detector_signatures(graph: ImageGraph, detector: DetectorGraph, class_names: tuple[str, ...]) -> dict[str, Function]:
    """Returns the exported functions of a detector by the names of their signatures.

    Args:
        graph: The model's.
        detector: What makes boxes of its outputs.
        class_names: Names in the order of the class ids.

    Returns:
        `serving_default`: string `image` (B,) to `boxes` float32 (B, k, 4), `scores` float32 (B, k), `label_ids` int32 (B, k),
        `labels` string (B, k) and `count` int32 (B,). `detect`: the same with the scalars `score_threshold` and
        `iou_threshold`. `pixels`: float32 `pixels` (B, h, w, 3), 0 to 255, to the same and `outputs`. `outputs`: `image` to
        what the model itself returns, `outputs` float32 (B, N, C + 4).
    """
    names = tf.constant(("", *class_names))

    def answer(
        read: tuple[tf.Tensor, tf.Tensor, tf.Tensor], score_threshold: Any = SCORE_THRESHOLD, iou_threshold: Any = IOU_THRESHOLD
    ) -> dict[str, tf.Tensor]:
        pixels, sizes, plans = read
        outputs = graph.outputs(pixels)
        found = in_original_pixels(*detector.best(outputs, score_threshold, iou_threshold), sizes, plans)
        return {**found, "labels": tf.gather(names, found["label_ids"] + 1), "outputs": outputs}

    def boxes_alone(answered: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: value for name, value in answered.items() if name != "outputs"}

    def of_image(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return boxes_alone(answer(graph.read(image)))

    def detect(image: tf.Tensor, score_threshold: tf.Tensor, iou_threshold: tf.Tensor) -> dict[str, tf.Tensor]:
        return boxes_alone(answer(graph.read(image), score_threshold, iou_threshold))

    def of_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(graph.fit(pixels))

    def raw(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": graph.outputs(graph.read(image)[0])}

    thresholds = [tf.TensorSpec((), tf.float32, name=name) for name in ("score_threshold", "iou_threshold")]
    return {
        "serving_default": signature(of_image, IMAGE),
        "detect": signature(detect, IMAGE, *thresholds),
        "pixels": signature(of_pixels, PIXELS),
        "outputs": signature(raw, IMAGE),
    }


def detector_graph(model: keras.Model) -> DetectorGraph:
    """Returns what makes boxes of the outputs of a detector."""
    return DetectorGraph(model.image_shape, model.pyramid)
