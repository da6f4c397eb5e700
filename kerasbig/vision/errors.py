"""What a detector got right and wrong, box by box: for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerasbig.data.boxes import Boxes
from kerasbig.vision.detection import Detections
from kerasbig.vision.fcos import overlaps

# A box that overlaps an object less than this has nothing to do with it.
TOUCHING = 0.1


@dataclass(frozen=True)
class Verdict:
    """One box that was found, or an object that was not.

    Attributes:
        image: Number of the image.
        kind: "right", "wrong class", "badly placed", "found twice", "nothing there"; or "missed".
        box: (4,) "xyxy": the found one, or the missed one's own.
        class_id: As found, or of what was missed.
        score: From 0 to 1; 0 for what was missed.
    """

    image: int
    kind: str
    box: tuple[float, float, float, float]
    class_id: int
    score: float


def judge(truth: Boxes, detections: Sequence[Detections], iou_threshold: float = 0.5) -> list[Verdict]:
    """Compares what was found with what is there; the surest comes first to its object, as COCO has it.

    Args:
        truth: The boxes of N images; to have found an ignored one is no mistake, nor is it to have missed one.
        detections: What was found in each.
        iou_threshold: From this overlap on a box is right.

    Returns:
        A `Verdict` for each box that was found, ignored ones excepted, and for each object that was missed.

    Example:
        >>> truth = Boxes.of([[[0, 0, 10, 10]]], [[0]])
        >>> found = [Detections(np.array([[0.0, 0, 10, 9], [0, 0, 9, 9]]), np.array([0, 0]), np.array([0.9, 0.8]))]
        >>> [verdict.kind for verdict in judge(truth, found)]
        ['right', 'found twice']
    """
    verdicts: list[Verdict] = []
    for image, found in enumerate(detections):
        boxes, classes, ignored = truth.of_image(image)
        taken = np.zeros(len(boxes), bool)
        for number in np.argsort(-found.scores, kind="stable"):
            box, label = found.boxes[number], int(found.classes[number])
            ious = np.asarray(overlaps(np.broadcast_to(box, boxes.shape).astype("float32"), boxes)[0]) if len(boxes) else np.zeros(0)
            kind = _kind(ious, classes == label, ignored, taken, iou_threshold)
            if kind != "ignored":
                verdicts.append(_verdict(image, kind, box, label, float(found.scores[number])))
        verdicts += [_verdict(image, "missed", boxes[i], int(classes[i]), 0.0) for i in np.flatnonzero(~taken & ~ignored)]
    return verdicts


def _kind(ious: np.ndarray, same: np.ndarray, ignored: np.ndarray, taken: np.ndarray, least: float) -> str:
    """Says what a box is, and takes its object."""
    free = np.where(same & ~taken & ~ignored, ious, 0)
    if free.max(initial=0) >= least:
        taken[free.argmax()] = True
        return "right"
    for kind, chosen, limit in (("ignored", ignored, least), ("found twice", same, least), ("wrong class", ~same, least)):
        if np.where(chosen, ious, 0).max(initial=0) >= limit:
            return kind
    return "badly placed" if np.where(same, ious, 0).max(initial=0) >= TOUCHING else "nothing there"


def _verdict(image: int, kind: str, box: np.ndarray, class_id: int, score: float) -> Verdict:
    left, top, right, bottom = (float(side) for side in box)
    return Verdict(image, kind, (left, top, right, bottom), class_id, score)


def worst(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    """Returns the surest mistakes, and then objects that were missed, the largest first; half of each at most where both abound.

    Args:
        verdicts: From `judge`.
        most: How many to return.

    Example:
        >>> wrong = Verdict(0, "nothing there", (0.0, 0.0, 1.0, 1.0), 0, 0.9)
        >>> missed = Verdict(0, "missed", (0.0, 0.0, 1.0, 1.0), 0, 0.0)
        >>> [verdict.kind for verdict in worst([missed, wrong], 2)]
        ['nothing there', 'missed']
    """
    wrong = sorted((one for one in verdicts if one.kind not in ("right", "missed")), key=lambda one: -one.score)
    missed = sorted((one for one in verdicts if one.kind == "missed"), key=lambda one: -_area(one))
    half = most // 2
    shown = wrong[: max(half, most - len(missed))]
    return shown + missed[: most - len(shown)]


def _area(verdict: Verdict) -> float:
    left, top, right, bottom = verdict.box
    return (right - left) * (bottom - top)
