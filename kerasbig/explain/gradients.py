"""Integrated gradients, with their promise checked: they sum to what changed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasbig.explain.explanation import Explanation
from kerasbig.explain.paths import Path, path_of
from kerasbig.explain.scores import Scores
from kerasbig.explain.subjects import chosen, prepare, subject
from kerasbig.explain.words import TextCase

LARGEST_GAP = 0.01
# A change below this share of the scores themselves is none: its gap is measured against this instead.
SMALLEST_CHANGE = 0.01


def integrated_gradients(
    model: Any,
    example: Any,
    *,
    target: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    steps: int = 32,
    most_steps: int = 4096,
    truncate: bool = False,
    regions: int = 50,
    baseline: Any = None,
    progress: bool = True,
) -> Explanation:
    """Explains one answer by the gradients on the straight way from nothing to the example.

    Nothing is a text of [MASK] tokens, or an image of its mean colour. Steps are doubled until the attributions sum to the
    change of the score within 1 %.

    Args:
        model: A KerasHub BERT classifier or regression, a Keras image model of floats, or a differentiable
            `kerasbig.explain.subject`; all on TensorFlow.
        example: A text, or an image (H, W, C) in the units that the model takes.
        target: The class, or the classes, to explain; by default the three likeliest.
        class_names: Names of the classes, where the model does not know them.
        steps: Points on the way to begin with.
        most_steps: Where doubling ends.
        truncate: Whether a text beyond the model's length is cut; otherwise that is an error.
        regions: About how many superpixels an image is cut into, to rank them.
        baseline: What nothing looks like, as for `kerasbig.explain.regions.cut`.
        progress: Taken for the sake of the other methods; this one is too fast for a bar.

    Returns:
        An `Explanation`; `checks["completeness_gap"]` is the largest gap, as a share of the change of the score (of 1 % of the
        score where it changes less), and `checks["steps"]` how many steps that took.

    Raises:
        TypeError: If the example is not of the model's kind, or the model is a generator.
        ValueError: If the example is empty, blank or too long; a class does not exist; the method does not fit the model;
            `steps` is not positive.
        RuntimeError: If `most_steps` do not close the gap.

    Example:
        >>> import keras
        >>> from kerasbig.explain import integrated_gradients
        >>> model = keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> image = np.random.default_rng(0).random((16, 16, 1))
        >>> found = integrated_gradients(model, image, regions=10)
        >>> found.attributions["0"].shape, found.checks["completeness_gap"] <= 0.01
        ((16, 16), True)

    Source: Sundararajan et al., 2017, "Axiomatic attribution for deep networks", arXiv:1703.01365, equation 1.
    """
    if not 1 <= steps <= most_steps:
        raise ValueError(f"Expected steps from 1 to most_steps. Received: steps={steps}, most_steps={most_steps}")
    of = subject(model, class_names)
    case = prepare(of, example, "integrated_gradients", regions=regions, baseline=baseline, truncate=truncate)
    whole = case.keep(np.ones(case.count, bool))
    scores = Scores(of)
    names, before = scores.names(whole), scores([whole])[0]
    columns = chosen(names, before, target)
    path = path_of(of, case)
    ends = path.scores(np.stack([path.start, path.end]))[:, columns]
    values, gap, used = _integrate(path, columns, ends, steps, most_steps)
    return Explanation(
        kind="text" if isinstance(case, TextCase) else "image",
        method="integrated_gradients",
        case=case,
        attributions={names[column]: path.by_unit(row) for column, row in zip(columns, values, strict=True)},
        base_value={names[column]: float(value) for column, value in zip(columns, ends[0], strict=True)},
        scores=dict(zip(names, before.tolist(), strict=True)),
        settings={"units": case.count, "baseline": "[MASK]" if isinstance(case, TextCase) else "image"},
        checks={"completeness_gap": gap, "steps": float(used)},
    )


def _integrate(path: Path, columns: list[int], ends: np.ndarray, steps: int, most_steps: int) -> tuple[np.ndarray, float, int]:
    """Returns attributions (K, ...) of K outputs, their largest gap, and the steps it took."""
    change = ends[1] - ends[0]
    weight = np.maximum(np.abs(change), SMALLEST_CHANGE * np.maximum(np.abs(ends).max(axis=0), 1e-6))
    while True:
        values = midpoint_rule(path, columns, steps)
        gap = float((np.abs(values.reshape(len(columns), -1).sum(axis=1) - change) / weight).max())
        if gap <= LARGEST_GAP:
            return values, gap, steps
        if 2 * steps > most_steps:
            raise RuntimeError(
                f"Expected attributions that sum to the change of the score within {LARGEST_GAP:.0%}. Received: a gap of {gap:.1%} after "
                f"{steps} steps. Load the model in float32, or raise most_steps."
            )
        steps *= 2


def midpoint_rule(path: Path, columns: list[int], steps: int) -> np.ndarray:
    """Returns float64 (K, ...): the way times the mean gradient at the middles of so many equal steps."""
    places = ((np.arange(steps) + 0.5) / steps).astype("float32").reshape(-1, *[1] * path.end.ndim)
    way = path.end - path.start
    return path.gradients(path.start + places * way, columns) * way
