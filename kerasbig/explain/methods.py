"""All methods under their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from kerasbig.explain.attention_maps import attention
from kerasbig.explain.explanation import Explanation
from kerasbig.explain.gradients import integrated_gradients
from kerasbig.explain.local_models import lime
from kerasbig.explain.shapley import shap

METHODS: dict[str, Callable[..., Explanation]] = {
    "lime": lime,
    "shap": shap,
    "integrated_gradients": integrated_gradients,
    "attention": attention,
}
_SEEDED = ("lime", "shap")


def explain(
    model: Any,
    example: Any,
    method: str = "lime",
    *,
    target: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: bool = True,
) -> Explanation:
    """Explains one answer by a method that is named.

    Args:
        model: As for `kerasbig.explain.subject`.
        example: A text, or an image (H, W, C).
        method: "lime", "shap", "integrated_gradients" or "attention".
        target: The class, or the classes, to explain; by default the three likeliest.
        class_names: Names of the classes, where the model does not know them.
        seed: For methods that draw random numbers.
        truncate: Whether a text beyond the model's length is cut; otherwise that is an error.
        progress: Whether to show a bar on standard error.

    Returns:
        An `Explanation`.

    Raises:
        ValueError: If there is no such method, or as the method says.

    Example:
        >>> import numpy as np
        >>> says = lambda texts: np.array([[float(len(text))] for text in texts])
        >>> explain(says, "a fine film", "shap", progress=False).label
        'value'
    """
    if method not in METHODS:
        close = difflib.get_close_matches(str(method), METHODS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Expected a method out of {', '.join(METHODS)}. Received: {method!r}.{hint}")
    seeded: dict[str, Any] = {"seed": seed} if method in _SEEDED else {}
    return METHODS[method](model, example, target=target, class_names=class_names, truncate=truncate, progress=progress, **seeded)
