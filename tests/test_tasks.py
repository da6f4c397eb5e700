"""Metrics against scikit-learn and NumPy, and the table of tasks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from kerasbig.tasks import find_task, measure_text, softmax


def test_classifier_metrics_equal_scikit_learn_and_numpy():
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(200, 4)).astype("float32"), random.integers(0, 4, 200)
    measured = measure_text(logits, targets, ("a", "b", "c", "d"))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert measured["loss"] == pytest.approx(-np.log(probabilities[np.arange(200), targets]).mean(), rel=1e-6)
    assert measured["accuracy"] == accuracy_score(targets, logits.argmax(1))
    assert measured["f1_macro"] == pytest.approx(f1_score(targets, logits.argmax(1), average="macro"))


def test_a_class_that_does_not_occur_does_not_count():
    logits, targets = np.array([[3.0, 0, 0], [0, 3.0, 0]]), np.array([0, 1])
    assert measure_text(logits, targets, ("a", "b", "c"))["f1_macro"] == 1.0


def test_regression_metrics_equal_numpy():
    random = np.random.default_rng(1)
    values, targets = random.normal(size=50).astype("float32"), random.normal(size=50).astype("float32")
    measured = measure_text(values[:, None], targets, None)
    assert measured["loss"] == pytest.approx(np.square(values - targets).mean(), rel=1e-5)
    assert measured["rmse"] == pytest.approx(np.sqrt(measured["loss"]))
    assert measured["pearson"] == pytest.approx(np.corrcoef(values, targets)[0, 1], rel=1e-5)
    assert measure_text(np.ones((3, 1)), np.arange(3.0), None)["pearson"] == 0.0


def test_softmax_takes_large_logits():
    assert softmax(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]


def test_unknown_task():
    with pytest.raises(ValueError, match=r"Expected a task out of text-classifier.*Did you mean 'text-classifier'\?"):
        find_task("text-clasifier")
