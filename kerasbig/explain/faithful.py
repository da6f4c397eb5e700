"""Whether explanations can be believed: what is called important is left out, and the model is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasbig.explain.explanation import Explanation
from kerasbig.explain.scores import Scores, scoring
from kerasbig.explain.subjects import chosen, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How fast an answer falls and rises as the units that were called important go and come.

    Attributes:
        method: The method that was measured.
        fractions: float64 (S + 1,): shares of the units, from 0 to 1.
        deletion: float64 (S + 1,): the mean score after the most important share was left out. It should fall fast.
        insertion: The mean score of the most important share alone. It should rise fast.
        random_deletion: The same in random orders.
        random_insertion: The same in random orders.
        deletion_areas: float64 (N,): the area under each example's curve of deletion; smaller is better.
        insertion_areas: float64 (N,); larger is better.
        random_deletion_areas: float64 (N,), the mean of several random orders.
        random_insertion_areas: float64 (N,).
        deletion_p: The chance of deletion areas this much below the random ones if there were no difference (Wilcoxon, one side).
        insertion_p: The same of insertion areas above them.
    """

    method: str
    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray
    deletion_areas: np.ndarray
    insertion_areas: np.ndarray
    random_deletion_areas: np.ndarray
    random_insertion_areas: np.ndarray
    deletion_p: float
    insertion_p: float

    def figures(self) -> dict[str, float]:
        """Returns the mean areas, the tests and the number of examples."""
        return {
            "examples": float(len(self.deletion_areas)),
            "deletion_area": float(self.deletion_areas.mean()),
            "random_deletion_area": float(self.random_deletion_areas.mean()),
            "deletion_p": self.deletion_p,
            "insertion_area": float(self.insertion_areas.mean()),
            "random_insertion_area": float(self.random_insertion_areas.mean()),
            "insertion_p": self.insertion_p,
        }

    def to_json(self) -> str:
        """Returns the figures and the curves as one JSON object."""
        curves = ("fractions", "deletion", "insertion", "random_deletion", "random_insertion")
        return json.dumps({"method": self.method, **self.figures(), **{name: getattr(self, name).tolist() for name in curves}})

    def plot(self) -> Figure:
        """Draws both curves beside those of random orders; returns the Matplotlib figure."""
        from kerasbig.explain.drawing import draw_curves

        return draw_curves(self)

    def to_html(self, *, whole: bool = True) -> str:
        """Returns a page with the curves and the figures, or a part to put into another page."""
        from kerasbig.explain.html import faithfulness_part, page

        return page(faithfulness_part(self)) if whole else faithfulness_part(self)

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)


def faithfulness(
    model: Any,
    explanations: Sequence[Explanation],
    *,
    class_names: Sequence[str] | None = None,
    steps: int = 20,
    random_orders: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Measures explanations by what happens when the units they name are left out, against random orders.

    Each example's units are sorted by their attribution to the likeliest class, those that speak for it first. Deletion leaves out
    more and more of them; insertion begins with nothing. Units go as the methods take them: words become nothing, regions the
    baseline.

    Args:
        model: The model they were made for, as for `kerasbig.explain.subject`.
        explanations: N explanations by one method, of examples with two units or more.
        class_names: Names of the classes, where the model does not know them.
        steps: Points of a curve after its beginning.
        random_orders: Random orders that each example is compared with.
        seed: Decides the random orders.
        progress: Whether to show a bar on standard error.

    Returns:
        A `Faithfulness`.

    Raises:
        ValueError: If there are no explanations, they are of several methods, one has a single unit, or a number is not positive.

    Example:
        >>> from kerasbig.explain import faithfulness, shap
        >>> says = lambda texts: np.array([[1.0 - ("fine" in text), "fine" in text] for text in texts], float)
        >>> found = [shap(says, f"a fine film of {n} hours", class_names=("bad", "good"), progress=False) for n in range(8)]
        >>> measured = faithfulness(says, found, class_names=("bad", "good"), progress=False)
        >>> bool(measured.deletion_areas.mean() < measured.random_deletion_areas.mean()), measured.deletion_p < 0.01
        (True, True)

    Source: Petsiuk et al., 2018, "RISE", arXiv:1806.07421, section 4.2.
    """
    _check(explanations, steps, random_orders)
    of = subject(model, class_names)
    random = np.random.default_rng(seed)
    total = len(explanations) * (random_orders + 1) * 2 * (steps + 1)
    rows: list[list[np.ndarray]] = []
    with scoring(of, "faithfulness", total, progress=progress) as scores:
        for explanation in explanations:
            count = explanation.case.count
            name = _target(explanation) if explanation.base_value else None  # attention has one entry for all classes
            orders = [np.argsort(-explanation.units(name), kind="stable")]
            orders += [random.permutation(count) for _ in range(random_orders)]
            rows.append(_curves(scores, explanation, orders, steps))
    # (N, orders, S + 1) of each kind; the first order is the explanation's.
    down, up = (np.stack([row[side] for row in rows]) for side in (0, 1))
    areas = {name: np.trapezoid(curves, dx=1 / steps, axis=-1) for name, curves in (("down", down), ("up", up))}
    random_down, random_up = areas["down"][:, 1:].mean(axis=1), areas["up"][:, 1:].mean(axis=1)
    return Faithfulness(
        method=explanations[0].method,
        fractions=np.arange(steps + 1) / steps,
        deletion=down[:, 0].mean(axis=0),
        insertion=up[:, 0].mean(axis=0),
        random_deletion=down[:, 1:].mean(axis=(0, 1)),
        random_insertion=up[:, 1:].mean(axis=(0, 1)),
        deletion_areas=areas["down"][:, 0],
        insertion_areas=areas["up"][:, 0],
        random_deletion_areas=random_down,
        random_insertion_areas=random_up,
        deletion_p=_chance(random_down - areas["down"][:, 0]),
        insertion_p=_chance(areas["up"][:, 0] - random_up),
    )


def _curves(scores: Scores, explanation: Explanation, orders: Sequence[np.ndarray], steps: int) -> list[np.ndarray]:
    """Returns the curves of deletion and insertion of each order, (orders, S + 1) each."""
    case = explanation.case
    kept: Callable[[np.ndarray], Any] = case.keep
    counts = np.ceil(np.arange(steps + 1) / steps * case.count - 1e-9).astype(int)
    masks = []
    for order in orders:
        gone = np.argsort(order)  # the place of each unit in the order
        masks += [gone >= count for count in counts] + [gone < count for count in counts]
    answers = scores([kept(mask) for mask in masks])
    column = chosen(tuple(explanation.scores), answers[0], _target(explanation))[0]
    values = answers[:, column].reshape(len(orders), 2, steps + 1)
    return [values[:, 0], values[:, 1]]


def _target(explanation: Explanation) -> str:
    """Returns the class whose score is followed: the likeliest, or the first one explained where that one is not."""
    known = explanation.label in explanation.attributions or not explanation.base_value
    return explanation.label if known else next(iter(explanation.attributions))


def _chance(gains: np.ndarray) -> float:
    """Returns the p-value of gains above 0, paired, without the assumption that they are normal."""
    from scipy.stats import wilcoxon

    return 1.0 if not gains.any() else float(wilcoxon(gains, alternative="greater").pvalue)


def _check(explanations: Sequence[Explanation], steps: int, random_orders: int) -> None:
    for name, value in (("steps", steps), ("random_orders", random_orders)):
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1. Received: {name}={value}")
    if not explanations:
        raise ValueError("Expected at least one explanation. Received: none.")
    methods = {explanation.method for explanation in explanations}
    if len(methods) > 1:
        raise ValueError(f"Expected explanations by one method. Received: {', '.join(sorted(methods))}. Measure each by itself.")
    single = next((i for i, explanation in enumerate(explanations) if explanation.case.count < 2), None)
    if single is not None:
        raise ValueError(f"Expected examples with two units or more. Received: explanations[{single}] has one. Leave it out.")
