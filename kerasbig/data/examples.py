"""What a data set is: raw inputs, targets, and where each of them came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from kerasbig.data.boxes import Boxes


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples in memory, or the paths of images.

    Attributes:
        inputs: N raw inputs: a list of texts, exactly as the source holds them; paths of image files
            (`kerasbig.data.ImageFiles`); or uint8 (N, H, W, 3) images.
        targets: int32 (N,) class ids, float32 (N,) values where `classes` is None (regression), or
            `kerasbig.data.Boxes` with the boxes and classes of each image.
        classes: Names of the classes; the place in the tuple is the class id. None for regression.
        rows: Where each example stands in its source: the line of a text file (the first is 1, the header counts),
            or the number of the row or file, from 1.
        source: The file, folder or sample that was read.
        role: "train", "validation", "test", "unseen" for people set aside, or "all" where nothing was split.
        skipped: What was wrong in the source and left out, where that was asked for (`skip_bad`).

    Raises:
        ValueError: If `inputs`, `targets` and `rows` are not of one length, `role` is unknown, or a class id has no
            name.

    Example:
        >>> examples = Examples(["a fine film", "dull"], np.array([1, 0], "int32"), ("bad", "good"), [2, 3], "a.csv", "all")
        >>> len(examples), examples.classes[examples.targets[0]]
        (2, 'good')
    """

    inputs: Any
    targets: Any
    classes: tuple[str, ...] | None
    rows: list[int]
    source: str
    role: str
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.targets) == len(self.rows):
            raise ValueError(
                "Expected as many inputs as targets and rows. "
                f"Received: {len(self.inputs)} inputs, {len(self.targets)} targets, {len(self.rows)} rows."
            )
        if self.role not in ROLES:
            raise ValueError(f"Expected role to be one of {', '.join(ROLES)}. Received: role={self.role!r}")
        ids = self.targets.classes if isinstance(self.targets, Boxes) else self.targets
        if self.classes is not None and len(ids):
            lowest, highest = int(np.min(ids)), int(np.max(ids))
            if lowest < 0 or highest >= len(self.classes):
                raise ValueError(
                    f"Expected class ids from 0 to {len(self.classes) - 1}, one for each of classes={self.classes}. "
                    f"Received: targets from {lowest} to {highest}."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: np.ndarray, role: str) -> Examples:
        """Returns some of the examples, in a new order, as another split."""
        indices = np.asarray(indices, "int64")
        inputs = [self.inputs[i] for i in indices] if isinstance(self.inputs, list) else taken(self.inputs, indices)
        rows = [self.rows[i] for i in indices]
        return Examples(inputs, taken(self.targets, indices), self.classes, rows, self.source, role, self.skipped)


def concatenated(parts: Sequence[Examples]) -> Examples:
    """Joins examples of one set of classes end to end, as one source with the role "all".

    Example:
        >>> part = Examples(["a", "b"], np.array([0, 1], "int32"), ("bad", "good"), [1, 2], "a.csv", "train")
        >>> concatenated([part, part]).targets.tolist()
        [0, 1, 0, 1]
    """

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            return [value for each in values for value in each]
        return np.concatenate(values) if isinstance(values[0], np.ndarray) else values[0].concatenate(values)

    inputs, targets = joined([part.inputs for part in parts]), joined([part.targets for part in parts])
    rows, skipped = [row for part in parts for row in part.rows], tuple(message for part in parts for message in part.skipped)
    return Examples(inputs, targets, parts[0].classes, rows, parts[0].source, "all", skipped)


def taken(values: Any, indices: np.ndarray) -> Any:
    """Returns rows of an array, of `ImageFiles` or of `Boxes`, in a new order.

    Example:
        >>> taken(np.array([5, 6, 7]), np.array([2, 0])).tolist()
        [7, 5]
    """
    return values[indices] if isinstance(values, np.ndarray) else values.take(indices)


ROLES = ("train", "validation", "test", "unseen", "all")


class _Part(Protocol):
    """What the parts of a data set have in common: `Examples`, or the documents of a text generator."""

    @property
    def classes(self) -> tuple[str, ...] | None: ...


PartT = TypeVar("PartT", bound=_Part)


@dataclass(frozen=True, eq=False)
class Splits(Generic[PartT]):
    """One data set in three parts.

    Attributes:
        train: Examples, or documents, to learn from.
        validation: Examples to choose by (epoch, options).
        test: Examples to report on, seen once.
        unseen: All examples of the people that were set aside, with classes of their own; None where none were.

    Raises:
        ValueError: If the parts do not share their classes.

    Example:
        >>> def part(role):
        ...     return Examples(["a", "b"], np.array([0, 1], "int32"), ("bad", "good"), [1, 2], "a.csv", role)
        >>> Splits(part("train"), part("validation"), part("test")).classes
        ('bad', 'good')
    """

    train: PartT
    validation: PartT
    test: PartT
    unseen: PartT | None = None

    def __post_init__(self) -> None:
        if not self.train.classes == self.validation.classes == self.test.classes:
            raise ValueError(
                "Expected the same classes in each split. "
                f"Received: train={self.train.classes}, validation={self.validation.classes}, test={self.test.classes}"
            )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their ids; None for regression and for documents."""
        return self.train.classes

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was wrong in the sources and left out, each message once."""
        parts = (self.train, self.validation, self.test, self.unseen)
        return tuple(dict.fromkeys(message for part in parts for message in getattr(part, "skipped", ())))
