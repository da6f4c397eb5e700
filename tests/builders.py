"""Every builder at its tiny size, with data it can learn: what the contract tests run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from conftest import review_lines

import kerasbig as kb


@dataclass(frozen=True)
class Built:
    """A tiny model and what it eats."""

    model: keras.Model
    batches: Any
    inputs: Any
    """One batch as the model takes it."""
    loss: keras.losses.Loss


def bert_classifier(*, regression: bool = False) -> Built:
    lines, targets = review_lines(32)
    classes = None if regression else ("negative", "positive")
    labels = targets.astype("float32") if regression else targets
    examples = kb.data.Examples(lines, labels, classes, list(range(32)), "made.csv", "train")
    keras.utils.set_random_seed(3)
    model = kb.text.bert_classifier(classes, size="tiny", vocabulary=kb.text.learn_wordpiece(lines, 120), sequence_length=16)
    batches = kb.data.batches(examples, model, batch_size=8)
    loss = keras.losses.MeanSquaredError() if regression else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Built(model, batches, next(iter(batches))[0], loss)


BUILDERS: dict[str, Callable[[], Built]] = {
    "bert_classifier": bert_classifier,
    "bert_classifier (regression)": lambda: bert_classifier(regression=True),
}


def public_builders() -> set[str]:
    """Returns the names of all builders that the package offers."""
    kinds = ("_classifier", "_generator", "_detector")
    parts = [getattr(kb, part) for part in ("text", "vision") if part in kb.__all__]
    return {name for part in parts for name in part.__all__ if name.endswith(kinds) and not name.startswith("compile")}


def logits(built: Built) -> np.ndarray:
    return np.asarray(built.model(built.inputs, training=False), "float32")
