"""An explanation: which words or pixels spoke for and against each class, and how far that can be believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasbig.explain.regions import ImageCase
from kerasbig.explain.words import TextCase

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a method says of one answer of a model.

    Attributes:
        kind: "text" or "image".
        method: The method's name.
        case: The example and its units: `case.text`, `case.tokens` and `case.spans`, or `case.image` (H, W, C),
            `case.segments` and `case.baseline`.
        attributions: For each explained class float64 (M,), one number a token, or (H, W), one a pixel. Positive ones speak
            for the class. "attention" has one entry of that name: it knows no classes.
        base_value: What the model says where all units are left out, by class; empty for attention.
        scores: What the model says of the example: the probability of every class, or the value.
        settings: What the method was asked to do.
        seed: Of the method's random numbers; None where there are none.
        checks: What was measured on the way, such as `additivity_gap`, `completeness_gap` or `r2`.
    """

    kind: str
    method: str
    case: TextCase | ImageCase
    attributions: Mapping[str, np.ndarray]
    base_value: Mapping[str, float]
    scores: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    checks: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words of a text; for an image there are none."""
        return self.case.tokens if isinstance(self.case, TextCase) else ()

    @property
    def label(self) -> str:
        """The likeliest class, or "value"."""
        return max(self.scores, key=lambda name: self.scores[name])

    def units(self, name: str | None = None) -> np.ndarray:
        """Returns float64 (M,): the attribution of each word, or of each region, summed over its pixels.

        Args:
            name: A class that is explained; the first one if None.

        Raises:
            ValueError: If the class is not explained here.
        """
        name = next(iter(self.attributions)) if name is None else name
        if name not in self.attributions:
            raise ValueError(f"Expected an explained class: {', '.join(self.attributions)}. Received: {name!r}. Name it as target.")
        values = self.attributions[name]
        if isinstance(self.case, TextCase):
            return values
        return np.bincount(self.case.segments.ravel(), values.ravel())

    def top(self, name: str | None = None, most: int = 10) -> list[tuple[Any, float]]:
        """Returns the units with the largest attributions of either sign, as (word or number of a region, attribution)."""
        values = self.units(name)
        order = np.argsort(-np.abs(values), kind="stable")[:most]
        return [(self.tokens[index] if self.tokens else int(index), float(values[index])) for index in order]

    def to_json(self) -> str:
        """Returns all of it but the image's pixels as one JSON object."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "method": self.method,
            "label": self.label,
            "scores": dict(self.scores),
            "base_value": dict(self.base_value),
            "attributions": {name: values.tolist() for name, values in self.attributions.items()},
            "settings": dict(self.settings),
            "seed": self.seed,
            "checks": dict(self.checks),
        }
        if isinstance(self.case, TextCase):
            content |= {"text": self.case.text, "tokens": list(self.tokens), "spans": self.case.spans.tolist()}
        else:
            regions = {name: self.units(name).tolist() for name in self.attributions}
            content |= {"image_shape": list(self.case.image.shape), "segments": self.case.segments.tolist(), "regions": regions}
        return json.dumps(content, ensure_ascii=False, default=str)

    def plot(self) -> Figure:
        """Draws the strongest words as bars, or the image beside a map for each class; returns the Matplotlib figure."""
        from kerasbig.explain.drawing import draw

        return draw(self)

    def to_html(self, *, whole: bool = True) -> str:
        """Returns a page that opens offline and runs no code.

        Args:
            whole: Whether it is a page of its own; otherwise a part to put into another page.
        """
        from kerasbig.explain.html import page, part

        return page(part(self)) if whole else part(self)

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)

    def __repr__(self) -> str:
        strongest = ", ".join(f"{unit} {value:+.3f}" for unit, value in self.top(most=3))
        name = next(iter(self.attributions))
        return f"<Explanation of {self.label!r} by {self.method}; for {name!r}: {strongest}>"
