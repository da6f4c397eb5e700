"""The one table of tasks: how each reads its data, builds its model, measures it and answers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasbig import data, text
from kerasbig.data import Examples, Splits


@dataclass(frozen=True)
class Task:
    """What the floors above need to know of one task.

    Attributes:
        name: As in `kerasbig train NAME`.
        load: Source and options to `Splits`.
        read: Source and options to one `Examples`.
        build: Classes and options to a compiled model.
        compile: Model and optimizer; sets the loss and metrics of the task.
        batches: Examples and model to a dataset.
        predict_logits: Model and raw inputs to float32 (N, C).
        measure: Logits, targets and classes to flat metrics.
        preset_class: The KerasHub task class that a Run's folder is read back with.
    """

    name: str
    load: Callable[..., Splits]
    read: Callable[..., Examples]
    build: Callable[..., keras.Model]
    compile: Callable[[keras.Model, keras.optimizers.Optimizer | None], None]
    batches: Callable[..., Any]
    predict_logits: Callable[..., np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray, Sequence[str] | None], dict[str, float]]
    preset_class: str


def find_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
        ValueError: If there is no such task.

    Example:
        >>> find_task("text-classifier").preset_class
        'BertTextClassifier'
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, 1)
    hint = f"Did you mean {close[0]!r}?" if close else "See 'kerasbig train --help'."
    raise ValueError(f"Expected a task out of {', '.join(TASKS)}. Received: {name!r}. {hint}")


def measure_text(logits: np.ndarray, targets: np.ndarray, classes: Sequence[str] | None) -> dict[str, float]:
    """Measures a text classifier or a regression model.

    Args:
        logits: float (N, C); (N, 1) values for a regression.
        targets: int (N,) class ids, or float (N,) values.
        classes: Names of the classes, or None for a regression.

    Returns:
        `loss` (mean cross entropy in nats), `accuracy`, `f1_macro` (over the classes that occur); or `loss` (mean
        squared error), `rmse`, `pearson`.

    Example:
        >>> measure_text(np.array([[0.0, 9.0], [9.0, 0.0]]), np.array([1, 0]), ("bad", "good"))["accuracy"]
        1.0
    """
    from sklearn.metrics import f1_score, log_loss

    if classes is None:
        values = logits[:, 0].astype("float64")
        error = float(np.mean((values - targets) ** 2))
        steady = len(targets) < 2 or values.std() == 0 or targets.std() == 0
        pearson = 0.0 if steady else float(np.corrcoef(values, targets)[0, 1])
        return {"loss": error, "rmse": error**0.5, "pearson": pearson}
    labels = range(len(classes))
    chosen = logits.argmax(axis=1)
    present = sorted(set(targets.tolist()) | set(chosen.tolist()))
    return {
        "loss": float(log_loss(targets, softmax(logits), labels=labels)),
        "accuracy": float(np.mean(chosen == targets)),
        "f1_macro": float(f1_score(targets, chosen, labels=present, average="macro", zero_division=0.0)),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turns logits (N, C) into float64 probabilities (N, C).

    Example:
        >>> softmax(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """
    powers = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _build_text_classifier(classes: Sequence[str] | None, train: Examples, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size with a vocabulary learnt on the training texts."""
    shared = {name: options[name] for name in ("sequence_length", "dropout", "dtype")}
    if options["preset"]:
        return text.bert_classifier(classes, preset=options["preset"], **shared)
    vocabulary = text.learn_wordpiece(train.inputs, options["vocabulary_size"])
    return text.bert_classifier(classes, size=options["size"], vocabulary=vocabulary, **shared)


TASKS: dict[str, Task] = {
    "text-classifier": Task(
        name="text-classifier",
        load=data.load,
        read=data.read,
        build=_build_text_classifier,
        compile=text.compile_classifier,
        batches=data.batches,
        predict_logits=data.predict_logits,
        measure=measure_text,
        preset_class="BertTextClassifier",
    ),
}
