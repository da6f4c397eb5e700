"""What a page says of why a model answers as it does: words that matter, whether that can be believed, and examples."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasbig import data, explain, vision
from kerasbig.cli.output import note
from kerasbig.tasks import Task

SHOWN = 5
# The best boxes of an image that are explained, as the likeliest classes are.
BOXES = 3


def explain_boxes(model: Any, path: str, method: str, *, seed: int = 0, most: int = BOXES) -> list[explain.Explanation]:
    """Explains the best boxes that a detector finds in an image; none if it finds none.

    Args:
        model: The detector.
        path: The image.
        method: The method.
        seed: For methods that draw random numbers.
        most: How many boxes at most.
    """
    count = min(most, len(vision.detect(model, [path])[0]))
    return [explain.explain(explain.box(model, path, number), path, method, seed=seed) for number in range(count)]


def explain_examples(model: Any, inputs: Any, count: int, method: str, *, seed: int = 0) -> tuple[list[explain.Explanation], list[str]]:
    """Explains examples that are drawn at random, measures the explanations and sums them up.

    Args:
        model: The model.
        inputs: All there are: texts, or images as the inputs of examples.
        count: How many to draw; texts of a single word are passed over.
        method: The method.
        seed: Decides which ones.

    Returns:
        The explanations, and parts of a page: the overview, the faithfulness and some of the explanations.
    """
    of = explain.subject(model)
    order = np.random.default_rng(seed).permutation(len(inputs))
    if data.is_images(inputs):
        # As the model sees them: all of one size, so that an overview can lay them over each other.
        fitting = list(
            data.fitted_pixels(of.model, inputs[order[:count]] if isinstance(inputs, np.ndarray) else inputs.take(order[:count]))
        )
    else:
        fitting = [inputs[index] for index in order if len(inputs[index].split()) > 1]
    if not fitting:
        raise ValueError("Expected an example of more than one word. Received: none. Give another --data.")
    note(f"Explaining {min(count, len(fitting))} examples by {method} ...")
    found = [explain.explain(of, example, method, seed=seed, truncate=True) for example in fitting[:count]]
    several = [explanation for explanation in found if explanation.case.count > 1]
    parts = [explain.overview(found).to_html(whole=False)]
    if several:
        parts.append(explain.faithfulness(of, several, seed=seed).to_html(whole=False))
    return found, parts + [explanation.to_html(whole=False) for explanation in found[:SHOWN]]


def section(model: Any, task: Task, inputs: Sequence[Any], count: int, seed: int) -> list[str]:
    """Returns the parts of a report that explain some examples: by SHAP, or by integrated gradients where it is not installed.

    Raises:
        ValueError: If no method fits the task, or `count` is negative.
    """
    if not task.explainers or count < 0:
        raise ValueError(f"Expected --explain with a classifier or a regression, and 0 or more. Received: {count} for {task.name}.")
    if task.name == "object-detector":
        raise ValueError("Expected --explain with a classifier or a regression. Received: object-detector. Use kerasbig explain RUN PHOTO.")
    method = "shap" if importlib.util.find_spec("shap") is not None else "integrated_gradients"
    return explain_examples(model, inputs, count, method, seed=seed)[1]
