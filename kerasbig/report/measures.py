"""The figures behind a page: pure NumPy, from targets and logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_LOWER_IS_BETTER = ("loss", "rmse", "mse", "mae", "error", "perplexity", "bits_per_byte", "eer")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities (N, C) of logits (N, C).

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def confusion(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns int (C, C): examples of a true class (row) by predicted class (column).

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    matrix = np.zeros((classes, classes), "int64")
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def class_scores(matrix: np.ndarray) -> list[dict[str, float | None]]:
    """Returns precision, recall and F1 of each class; None where there is nothing to divide by.

    Args:
        matrix: What `confusion` returns.

    Example:
        >>> class_scores(np.array([[1, 1], [0, 0]]))[1]
        {'precision': 0.0, 'recall': None, 'f1': 0.0}
    """
    scores = []
    for index in range(len(matrix)):
        right, said, true = float(matrix[index, index]), float(matrix[:, index].sum()), float(matrix[index].sum())
        scores.append(
            {
                "precision": right / said if said else None,
                "recall": right / true if true else None,
                "f1": 2 * right / (said + true) if said + true else None,
            }
        )
    return scores


@dataclass(frozen=True)
class Calibration:
    """How far stated confidence is from the share of right answers.

    Attributes:
        edges: float (B + 1,): borders of the bins of confidence.
        counts: int (B,): predictions in each bin.
        confidence: float (B,): their mean confidence; NaN where there is none.
        accuracy: float (B,): their share of right answers; NaN where there is none.
        error: The expected calibration error: the mean gap between the two, weighted by `counts`.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def calibration(probabilities: np.ndarray, targets: np.ndarray, bins: int = 10) -> Calibration:
    """Bins predictions by the confidence in the class they name.

    Args:
        probabilities: float (N, C), N of 1 or more.
        targets: int (N,) class ids.
        bins: Number of bins of equal width from 0 to 1.

    Source: Guo et al., 2017, arXiv:1706.04599, equation 3.

    Example:
        >>> round(calibration(np.array([[0.2, 0.8], [0.8, 0.2]]), np.array([1, 1])).error, 3)
        0.3
    """
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == targets).astype("float64")
    # (0, 0.1], (0.1, 0.2], ... as in the paper; a confidence cannot be 0.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, confidence, bins) / counts
        mean_accuracy = np.bincount(place, right, bins) / counts
    gaps = np.abs(mean_accuracy - mean_confidence)[counts > 0]
    error = float(np.sum(gaps * counts[counts > 0]) / len(targets))
    return Calibration(np.linspace(0, 1, bins + 1), counts, mean_confidence, mean_accuracy, error)


def confident_mistakes(probabilities: np.ndarray, targets: np.ndarray, most: int) -> np.ndarray:
    """Returns the numbers of the wrong predictions, the most confident first.

    Example:
        >>> confident_mistakes(np.array([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8]]), np.array([1, 0, 1]), 5).tolist()
        [1, 0]
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric is the better one, judged by its name.

    Example:
        >>> lower_is_better("val_loss"), lower_is_better("f1_macro")
        (True, False)
    """
    return metric.removeprefix("val_").split("_")[-1] in _LOWER_IS_BETTER or metric.removeprefix("val_") in _LOWER_IS_BETTER


def best_epoch(history: Sequence[Mapping[str, float]], monitor: str | None) -> tuple[int, str]:
    """Returns the index of the best epoch and the key it was judged by.

    Example:
        >>> best_epoch([{"val_loss": 0.5}, {"val_loss": 0.3}, {"val_loss": 0.4}], None)
        (1, 'val_loss')
    """
    key = monitor or next((name for name in ("val_loss", "loss") if any(name in epoch for epoch in history)), "")
    worst = np.inf if lower_is_better(key) else -np.inf
    values = np.array([epoch.get(key, worst) for epoch in history], "float64")
    values[np.isnan(values)] = worst
    return int(values.argmin() if lower_is_better(key) else values.argmax()), key
