"""What a face classifier does as a task: its threshold, its figures and its answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasbig.data.examples import Examples, Splits
from kerasbig.vision.gallery import Gallery, embed, embed_and_classify
from kerasbig.vision.verification import Pairs, choose_threshold, measure_threshold, measure_verification

logger = logging.getLogger(__name__)


def complete_faces(model: keras.Model, splits: Splits[Examples]) -> None:
    """Sets `model.threshold`, which wrongly accepts one pair of different people in a hundred.

    It is chosen on the people that were set aside. Without any, the validation photographs of the people trained on have to do,
    and new people will be accepted more often than that.

    Args:
        model: A trained model from `face_classifier`.
        splits: Its data.
    """
    chosen = splits.validation if splits.unseen is None else splits.unseen
    if splits.unseen is None:
        logger.warning(
            "The threshold is chosen on people the model was trained on; new people need a higher one. "
            "Set some aside with unseen (--unseen 0.2)."
        )
    pairs = Pairs.of(embed(model, chosen.inputs), chosen.targets)
    model.threshold = choose_threshold(pairs.similarities, pairs.same)


def measure_faces(model: keras.Model, examples: Examples, known: bool) -> tuple[dict[str, float], np.ndarray | None, Pairs]:
    """Measures a face classifier.

    Args:
        model: A model from `face_classifier`.
        examples: Photographs and who is on each.
        known: Whether the classes are those that the model was trained on.

    Returns:
        Of all pairs of photographs, if there are two of the same person: `auc`, `eer`, `tar_at_far_1e-2`, and, for a model with a
        threshold, `far_at_threshold` and `tar_at_threshold`. Then logits, float32 (N, C), None if the people are not known; and the pairs.

    Raises:
        ValueError: If there is nothing to measure: people that are not known, with one photograph each.
    """
    embeddings, logits = embed_and_classify(model, examples.inputs)
    pairs = Pairs.of(embeddings, examples.targets)
    metrics: dict[str, float] = {}
    if pairs.measurable:
        metrics |= measure_verification(pairs.similarities, pairs.same)
        if model.threshold is not None:
            metrics |= measure_threshold(pairs, model.threshold)
    elif not known:
        raise ValueError(
            f"Expected at least two photographs of a person in {examples.source}, to compare. Received: one photograph a person only. "
            "Add photographs."
        )
    return metrics, logits if known else None, pairs


def answer_faces(model: keras.Model, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """Tells who is on photographs, among the people trained on and those enrolled in `model.gallery`.

    Args:
        model: A model from `face_classifier`.
        inputs: N paths.

    Returns:
        N dicts of `identity` (None where nobody is near enough), `similarity` and `nearest`.
    """
    gallery = getattr(model, "gallery", None) or Gallery(model)
    return [{"identity": match.identity, "similarity": match.similarity, "nearest": match.nearest} for (match,) in gallery.identify(inputs)]
