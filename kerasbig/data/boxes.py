"""Boxes of many images, end to end, and how they follow an image that is turned or resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BOUNDING_BOX_FORMAT = "xyxy"


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of N images, M in all.

    Attributes:
        boxes: float32 (M, 4): left, top, right, bottom ("xyxy") in pixels of the upright image at its full size.
        classes: int32 (M,): class ids.
        starts: int64 (N + 1,): image i has the boxes `starts[i]` to `starts[i + 1]`.
        ignored: bool (M,): boxes that neither train nor count (COCO's crowds, VOC's difficult ones).

    Raises:
        ValueError: If the parts do not fit together.

    Example:
        >>> boxes = Boxes.of([[[0, 0, 8, 4]], []], [[2], []])
        >>> len(boxes), boxes.of_image(0)[1].tolist(), boxes.counts.tolist()
        (2, [2], [1, 0])
    """

    boxes: np.ndarray
    classes: np.ndarray
    starts: np.ndarray
    ignored: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        ascending = len(self.starts) > 0 and self.starts[0] == 0 and self.starts[-1] == count and bool((np.diff(self.starts) >= 0).all())
        if self.boxes.shape != (count, 4) or len(self.classes) != count or len(self.ignored) != count or not ascending:
            raise ValueError(
                "Expected boxes (M, 4), classes (M,), ignored (M,) and ascending starts from 0 to M. Received: "
                f"{self.boxes.shape}, {self.classes.shape}, {self.ignored.shape}, starts={self.starts[:5].tolist()}…"
            )

    @classmethod
    def of(
        cls,
        boxes: Sequence[Sequence[Sequence[float] | np.ndarray]],
        classes: Sequence[Sequence[int]],
        ignored: Sequence[Sequence[bool]] | None = None,
    ) -> Boxes:
        """Makes it from lists, one an image."""
        starts = np.concatenate([[0], np.cumsum([len(each) for each in boxes])]).astype("int64")
        flat = np.array([box for each in boxes for box in each], "float32").reshape(-1, 4)
        ids = np.array([number for each in classes for number in each], "int32")
        flags = np.zeros(len(flat), "bool") if ignored is None else np.array([flag for each in ignored for flag in each], "bool")
        return cls(flat, ids, starts, flags)

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes]) -> Boxes:
        """Joins the boxes of several lists of images end to end."""
        arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "classes", "ignored")]
        starts = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))]).astype("int64")
        return cls(arrays[0], arrays[1], starts, arrays[2])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """int64 (N,): boxes of each image."""
        return np.diff(self.starts)

    def of_image(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns boxes (n, 4), class ids (n,) and the ignored flags (n,) of one image."""
        part = slice(self.starts[index], self.starts[index + 1])
        return self.boxes[part], self.classes[part], self.ignored[part]

    def take(self, indices: np.ndarray) -> Boxes:
        """Returns the boxes of some of the images, in a new order."""
        rows = [np.arange(self.starts[i], self.starts[i + 1]) for i in indices]
        chosen = np.concatenate([*rows, np.zeros(0, "int64")]).astype("int64")
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype("int64")
        return Boxes(self.boxes[chosen], self.classes[chosen], starts, self.ignored[chosen])

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 (N, P, 4) boxes and int32 (N, P) class ids without the ignored ones, filled up with -1.

        P is the largest number of boxes of an image, at least 1.

        Example:
            >>> boxes, classes = Boxes.of([[[0, 0, 8, 4]], []], [[2], []]).padded()
            >>> boxes.shape, classes.tolist()
            ((2, 1, 4), [[2], [-1]])
        """
        images = np.repeat(np.arange(len(self)), self.counts)[~self.ignored]
        counts = np.bincount(images, minlength=len(self))
        places = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
        boxes = np.full((len(self), max(1, counts.max(initial=0)), 4), -1.0, "float32")
        classes = np.full(boxes.shape[:2], -1, "int32")
        boxes[images, places] = self.boxes[~self.ignored]
        classes[images, places] = self.classes[~self.ignored]
        return boxes, classes

    def tobytes(self) -> bytes:
        """Returns all of it as bytes, for a hash."""
        return b"".join(part.tobytes() for part in (self.boxes, self.classes, self.starts, self.ignored))


def turned_upright(boxes: np.ndarray, orientation: int, height: int, width: int) -> np.ndarray:
    """Carries boxes from an image as it is stored to the same image as it is seen.

    Args:
        boxes: float (n, 4) "xyxy" in pixels of the stored image.
        orientation: The EXIF tag, 1 to 8.
        height: Of the stored image.
        width: Of the stored image.

    Returns:
        float (n, 4) "xyxy" in pixels of the upright image.

    Example:
        >>> turned_upright(np.array([[0.0, 0.0, 2.0, 1.0]]), 6, height=4, width=10).tolist()
        [[3.0, 0.0, 4.0, 2.0]]
    """
    left, top, right, bottom = np.asarray(boxes, "float64").reshape(-1, 4).T
    if orientation in (2, 3, 7, 8):  # what is stored on the left is seen on the right, or at the bottom
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    sides = (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)
    return np.stack(sides, axis=1)
