"""What a run's page is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Objects:
    """What a detector did on the examples it was measured on.

    Attributes:
        classes: A dict a class: `name`, `boxes` (how many there are), `map` and `ap50` (nan without boxes), and `precision`,
            a list of precisions at IoU 0.5 for recalls evenly spread from 0 to 1.
        pictures: A dict an image: `picture`, a `data:` address with the boxes drawn; `name`; `found`, dicts of `label`, `colour`,
            `score` and `kind`; `missed`, the labels of objects that were not found.
        kinds: How often each kind of verdict was given, such as `{"right": 120, "missed": 9}`.
        mistakes: The worst ones: dicts of `picture`, `name`, `kind`, `label` and `score`.

    Example:
        >>> Objects(classes=[{"name": "cat", "boxes": 1, "map": 1.0, "ap50": 1.0, "precision": [1.0, 1.0]}]).kinds
        {}
    """

    classes: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Mapping[str, Any]] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    mistakes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class Faces:
    """How alike the faces are that a classifier was measured on, pair by pair.

    Attributes:
        similarities: float (P,): cosines, from -1 to 1.
        same: bool (P,): whether both are the same person's.
        false_accepts: float (T,): shares of the different accepted, ascending; with the next, the ROC curve.
        true_accepts: float (T,): shares of the same accepted.
        threshold: From which similarity on a pair is accepted; None if there is none.
        most_alike: Pairs of different people: dicts of `pictures` (two `data:` addresses), `names` (two) and `similarity`.
        least_alike: Pairs of the same person, the same dicts.
        unseen: Whether the people are ones that the model was never trained on.

    Example:
        >>> Faces(np.array([0.9, 0.1]), np.array([True, False]), np.array([0.0, 1.0]), np.array([1.0, 1.0])).most_alike
        ()
    """

    similarities: np.ndarray
    same: np.ndarray
    false_accepts: np.ndarray
    true_accepts: np.ndarray
    threshold: float | None = None
    most_alike: Sequence[Mapping[str, Any]] = ()
    least_alike: Sequence[Mapping[str, Any]] = ()
    unseen: bool = False


@dataclass(frozen=True, eq=False)
class RunSummary:
    """Everything the page of one run shows. All but title and task may be left out; its section is then left out too.

    Attributes:
        title: Heading of the page.
        task: Such as "text-classifier".
        metrics: The headline figures, such as `{"accuracy": 0.84, "loss": 0.41, "examples": 2121}`.
        history: One dict of metrics an epoch, such as `{"loss": …, "val_loss": …, "learning_rate": …}`.
        monitor: Which key of the history decides the best epoch; None for `val_loss`, or `loss` without it.
        inputs: The N texts that were evaluated, or the names of images.
        rows: Where each of them stands in its source, such as its line number.
        targets: int (N,) class ids, or float (N,) values where `classes` is None.
        logits: float (N, C), not normalized; or (N, 1) values.
        classes: Names of the classes; None for regression.
        class_counts: Examples of each class by split, such as `{"train": [800, 790], "test": [200, 198]}`.
        facts: What else is worth knowing about data and speed, such as `{"padding": str(batches.padding),
            "examples per second": 41.2, "texts cut": 12}`.
        picture: From the number of an input to a small image of it, as a `data:` address; None for texts.
        objects: What a detector found; None for other tasks.
        faces: How alike faces are; None for other tasks.
        skipped: What was wrong in the data and left out, one message each.
        samples: What a generator wrote after each epoch: dicts of `epoch`, `prompt` and `text`.
        explanations: Parts of the page, in HTML that you trust, such as `Explanation.to_html(whole=False)` of `kb.explain` gives.
        comparison: Rows of a comparison of variants, as `kb.compress.compare(...).rows` holds them.
        config: The resolved options of the run.
        versions: Package versions.
        notes: Sentences to show on top, such as warnings.

    Raises:
        ValueError: If `inputs`, `rows`, `targets` and `logits` are not of one length, `logits` has not one column a
            class, a target is no class id, a value is not finite, or `monitor` is in no epoch of the history.

    Example:
        >>> summary = RunSummary("Reviews", "text-classifier", metrics={"accuracy": 0.5}, inputs=["fine", "dull"], rows=[2, 3],
        ...                      targets=np.array([1, 0]), logits=np.array([[0.0, 2.0], [0.1, 0.3]]), classes=("bad", "good"))
        >>> len(summary.inputs)
        2
    """

    title: str
    task: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    monitor: str | None = None
    inputs: Sequence[str] = ()
    rows: Sequence[int] = ()
    targets: np.ndarray | Sequence[float] = ()
    logits: np.ndarray | Sequence[Sequence[float]] = ()
    classes: Sequence[str] | None = None
    class_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    picture: Callable[[int], str] | None = None
    objects: Objects | None = None
    faces: Faces | None = None
    skipped: Sequence[str] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    explanations: Sequence[str] = ()
    comparison: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        targets, logits = np.asarray(self.targets), np.asarray(self.logits, "float64")
        counts = {"inputs": len(self.inputs), "rows": len(self.rows), "targets": len(targets), "logits": len(logits)}
        if len(set(counts.values())) != 1:
            raise ValueError(f"Expected as many inputs as rows, targets and logits. Received: {counts}")
        columns = 1 if self.classes is None else len(self.classes)
        if len(targets) and logits.shape != (len(targets), columns):
            raise ValueError(
                f"Expected logits of shape {(len(targets), columns)}, one column a class and one alone for classes=None. "
                f"Received: logits of shape {logits.shape}, classes={self.classes!r}"
            )
        if not np.isfinite(logits).all() or not np.isfinite(targets.astype("float64")).all():
            raise ValueError(
                "Expected finite logits and targets. Received: NaN or infinity among them. The model has diverged, or its data has holes."
            )
        if self.classes is not None and np.any((targets < 0) | (targets >= columns)):
            raise ValueError(f"Expected class ids from 0 to {columns - 1} as targets. Received: from {targets.min()} to {targets.max()}")
        for split, numbers in self.class_counts.items():
            if self.classes is None or len(numbers) != columns:
                raise ValueError(
                    f"Expected class_counts[{split!r}] to have one number a class. Received: {list(numbers)}, classes={self.classes!r}"
                )
        if self.monitor is not None and self.history and not any(self.monitor in epoch for epoch in self.history):
            raise ValueError(
                f"Expected monitor to be one of the history's keys, {sorted(self.history[0])}. Received: monitor={self.monitor!r}"
            )
