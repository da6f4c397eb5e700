"""How the boxes of an exported detector are judged: against the outputs that it made them of.

Which of two boxes with nearly the same score is kept may differ by rounding, and everything after it. What must hold is what
defines the result: each box is one that the outputs say, no two of a class overlap, and whatever is left out overlaps one that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasbig.data.image_batches import original_boxes, resize_plan
from kerasbig.data.images import read_header
from kerasbig.export.detector_graph import IOU_THRESHOLD, LOWEST_SCORE, MAX_DETECTIONS, SCORE_THRESHOLD, DetectorGraph
from kerasbig.export.image_parity import ExpectedImages
from kerasbig.export.parity import ExportError

# Rounding alone: of a score, of a side in pixels for each 100 pixels, and of an overlap.
_SCORE, _PIXEL, _OVERLAP = 1e-3, 0.05, 1e-2


@dataclass(frozen=True)
class ExpectedDetections(ExpectedImages):
    """What a detector answers in this process.

    Attributes:
        resize: How images are fitted.
        detector: What makes boxes of its outputs.
    """

    resize: str = "pad"
    detector: DetectorGraph | None = None

    def compare_answers(self, kind: str, answer: Mapping[str, Any]) -> None:
        """Holds the boxes that a file gives against the outputs that it gives.

        Raises:
            ExportError: If they do not follow from them.
        """
        if kind == "saved_model":
            plans, sizes = self._plans()
            names = ("", *self.class_names)
            labels = [[names[number + 1] for number in row] for row in answer["label_ids"]]
            counts = [sum(number >= 0 for number in row) for row in answer["label_ids"]]
            if answer["labels"] != labels or answer["count"] != counts:
                raise _wrong(kind, "labels and counts", "to follow from label_ids", "other ones")
            self._compare_boxes(kind, answer, answer["image_outputs"], SCORE_THRESHOLD, plans, sizes)
        elif kind != "hdf5":
            self._compare_boxes(kind, answer, answer["outputs"], LOWEST_SCORE, None, None)

    def _plans(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each image went, and the heights and widths."""
        headers = [read_header(image) for image in self.images]
        sizes = np.array([(header.height, header.width) for header in headers])
        return resize_plan(sizes, self.pixels.shape[1:3], self.resize), sizes

    def _compare_boxes(
        self, kind: str, answer: Mapping[str, Any], outputs: Any, threshold: float, plans: np.ndarray | None, sizes: np.ndarray | None
    ) -> None:
        if self.detector is None:
            return
        candidates, scores = (value.numpy() for value in self.detector.candidates(np.asarray(outputs, "float32")))
        for place, (boxes, label_ids, best) in enumerate(zip(answer["boxes"], answer["label_ids"], answer["scores"], strict=True)):
            seen = candidates[place]
            if plans is not None and sizes is not None:
                height, width = sizes[place]
                seen = np.clip(original_boxes(seen, plans[place]), 0, [width, height, width, height])
            given = np.asarray(label_ids, "int64") >= 0
            kept = np.asarray(boxes, "float64").reshape(-1, 4)[given]
            numbers, marks = np.asarray(label_ids, "int64")[given], np.asarray(best, "float64")[given]
            wrong = wrong_boxes(kept, numbers, marks, candidates[place], seen, scores[place], threshold)
            if wrong:
                raise _wrong(kind, f"boxes of image {place} of the examples", "to follow from its outputs", wrong)


def wrong_boxes(
    boxes: np.ndarray,
    label_ids: np.ndarray,
    scores: np.ndarray,
    candidates: np.ndarray,
    seen: np.ndarray,
    all_scores: np.ndarray,
    threshold: float,
) -> str:
    """Says what is wrong with boxes that were kept; empty if nothing is.

    Args:
        boxes: float (K, 4).
        label_ids: int (K,).
        scores: float (K,).
        candidates: float (N, 4): the boxes of all places, as they are held against each other.
        seen: float (N, 4): the same as they are reported.
        all_scores: float (N, C).
        threshold: The lowest score to report.

    Example:
        >>> places, scores = np.array([[0.0, 0, 9, 9], [0, 0, 9, 8]]), np.array([[0.9], [0.8]])
        >>> wrong_boxes(places[:1], np.array([0]), scores[:1, 0], places, places, scores, 0.3)
        ''
        >>> wrong_boxes(places, np.array([0, 0]), scores[:, 0], places, places, scores, 0.3)
        'two of a class that overlap'
    """
    whole = (seen[:, 2] > seen[:, 0]) & (seen[:, 3] > seen[:, 1])
    chosen = []
    for box, number, score in zip(boxes, label_ids, scores, strict=True):
        away = np.abs(seen - box).max(axis=1) / (_PIXEL * max(1.0, np.abs(box).max() / 100))
        off = np.abs(all_scores[:, number] - score) / _SCORE
        near = (away <= 1) & (off <= 1)
        if not near.any() or score < threshold - _SCORE:
            return "one that they do not say"
        # Of a small image several places say about the same: it is the one that says just that.
        chosen.append(candidates[int(np.argmin(np.where(near, away + off, np.inf)))])
    kept = np.array(chosen).reshape(-1, 4)
    for number in range(all_scores.shape[1]):
        own = kept[label_ids == number]
        overlaps = _overlaps(own, own)
        if (overlaps[~np.eye(len(own), dtype=bool)] > IOU_THRESHOLD + _OVERLAP).any():
            return "two of a class that overlap"
        left = candidates[whole & (all_scores[:, number] > threshold + _SCORE)]
        # Only so many boxes are kept, and only the best places are looked at.
        full = len(boxes) >= MAX_DETECTIONS or (all_scores > threshold).sum() >= 1000
        if not full and len(left) and not (len(own) and (_overlaps(left, own).max(axis=1) >= IOU_THRESHOLD - _OVERLAP).all()):
            return "one left out that overlaps none"
    return ""


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU (n, m) of boxes (n, 4) and others (m, 4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    shared = np.maximum(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - low, 0).prod(axis=-1)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(axis=-1) for each in (boxes, others))
    return shared / np.maximum(areas[:, None] + other_areas[None] - shared, 1e-9)


def _wrong(kind: str, what: str, demand: str, received: str) -> ExportError:
    return ExportError(f"Expected the {what} of the exported {kind} {demand}. Received: {received}. Nothing was written.")
