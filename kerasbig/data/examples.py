"""What a data set is: raw inputs, targets, and where each of them came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples in memory.

    Attributes:
        inputs: N raw texts, exactly as the source holds them.
        targets: int32 (N,) class ids, or float32 (N,) values where `classes` is None (regression).
        classes: Names of the classes; the place in the tuple is the class id. None for regression.
        rows: Where each example stands in its source: the line of a text file (the first is 1, the header counts),
            or the number of the row or file, from 1.
        source: The file, folder or sample that was read.
        role: "train", "validation", "test", or "all" where nothing was split.

    Raises:
        ValueError: If `inputs`, `targets` and `rows` are not of one length, `role` is unknown, or a class id has no
            name.

    Example:
        >>> examples = Examples(["a fine film", "dull"], np.array([1, 0], "int32"), ("bad", "good"), [2, 3], "a.csv", "all")
        >>> len(examples), examples.classes[examples.targets[0]]
        (2, 'good')
    """

    inputs: list[str]
    targets: np.ndarray
    classes: tuple[str, ...] | None
    rows: list[int]
    source: str
    role: str

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.targets) == len(self.rows):
            raise ValueError(
                "Expected as many inputs as targets and rows. "
                f"Received: {len(self.inputs)} inputs, {len(self.targets)} targets, {len(self.rows)} rows."
            )
        if self.role not in ROLES:
            raise ValueError(f"Expected role to be one of {', '.join(ROLES)}. Received: role={self.role!r}")
        if self.classes is not None and len(self.targets):
            lowest, highest = int(np.min(self.targets)), int(np.max(self.targets))
            if lowest < 0 or highest >= len(self.classes):
                raise ValueError(
                    f"Expected class ids from 0 to {len(self.classes) - 1}, one for each of classes={self.classes}. "
                    f"Received: targets from {lowest} to {highest}."
                )

    def __len__(self) -> int:
        return len(self.inputs)


ROLES = ("train", "validation", "test", "all")


@dataclass(frozen=True, eq=False)
class Splits:
    """One data set in three parts.

    Attributes:
        train: Examples to learn from.
        validation: Examples to choose by (epoch, options).
        test: Examples to report on, seen once.

    Raises:
        ValueError: If the parts do not share their classes.

    Example:
        >>> def part(role):
        ...     return Examples(["a", "b"], np.array([0, 1], "int32"), ("bad", "good"), [1, 2], "a.csv", role)
        >>> Splits(part("train"), part("validation"), part("test")).classes
        ('bad', 'good')
    """

    train: Examples
    validation: Examples
    test: Examples

    def __post_init__(self) -> None:
        if not self.train.classes == self.validation.classes == self.test.classes:
            raise ValueError(
                "Expected the same classes in each split. "
                f"Received: train={self.train.classes}, validation={self.validation.classes}, test={self.test.classes}"
            )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their ids; None for regression."""
        return self.train.classes
