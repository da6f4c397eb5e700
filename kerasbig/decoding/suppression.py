"""From what a detector gives for each place to a few boxes: the best of each heap, in a graph of plain operations."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# So many pairs of a place and a class are looked at; what scores less than them all is dropped.
CANDIDATES = 1000


def best_boxes(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    *,
    score_threshold: Any = 0.05,
    iou_threshold: Any = 0.6,
    max_detections: int = 100,
    candidates: int = CANDIDATES,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Leaves out boxes that overlap a better one of the same class (non-maximum suppression); one image.

    Boxes of different classes are moved apart, so that one pass serves all classes. Everything in it is among LiteRT's
    own operations.

    Args:
        boxes: float32 (N, 4) "xyxy".
        scores: float32 (N, C): from 0 to 1.
        score_threshold: The lowest score to keep.
        iou_threshold: Boxes of a class that overlap more than this are one.
        max_detections: The most boxes to keep, K.
        candidates: The most pairs of a place and a class to look at.

    Returns:
        float32 (K, 4) boxes, int32 (K,) classes and float32 (K,) scores, the best first; filled up with -1, -1 and 0.

    Example:
        >>> boxes = tf.constant([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
        >>> scores = tf.constant([[0.9, 0.0], [0.8, 0.7], [0.0, 0.6]])
        >>> _, classes, kept = best_boxes(boxes, scores, max_detections=4)
        >>> classes.numpy().tolist(), kept.numpy().round(2).tolist()
        ([0, 1, 1, -1], [0.8999999761581421, 0.699999988079071, 0.6000000238418579, 0.0])
    """
    count, classes = scores.shape
    top, index = tf.math.top_k(tf.reshape(scores, [-1]), min(candidates, count * classes))
    places, labels = index // classes, index % classes
    chosen = tf.gather(boxes, places)
    # As far apart as the boxes reach, so that those of two classes never touch.
    span = tf.reduce_max(boxes) - tf.reduce_min(boxes) + 1.0
    apart = chosen + tf.cast(labels, tf.float32)[:, None] * span
    kept, valid = tf.raw_ops.NonMaxSuppressionV4(
        boxes=apart,
        scores=top,
        max_output_size=max_detections,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        pad_to_max_output_size=True,
    )
    real = tf.range(max_detections) < valid
    kept = tf.where(real, kept, 0)
    return (
        tf.where(real[:, None], tf.gather(chosen, kept), -1.0),
        tf.where(real, tf.gather(labels, kept), -1),
        tf.where(real, tf.gather(top, kept), 0.0),
    )
