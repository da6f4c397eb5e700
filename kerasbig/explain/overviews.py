"""Many explanations in one: the words, or the places of a picture, that matter most for each class."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasbig.explain.explanation import Explanation


@dataclass(frozen=True)
class WordWeight:
    """A word over many explanations of one class.

    Attributes:
        word: The word, in lower case.
        mean: Its mean attribution where it occurs.
        total: The sum of its attributions, which the words are ranked by: strong and frequent ones first.
        count: How often it occurs.
    """

    word: str
    mean: float
    total: float
    count: int


@dataclass(frozen=True, eq=False)
class Overview:
    """What many explanations by one method have in common.

    Attributes:
        method: The method.
        examples: The number of explanations.
        words: For each class the words that speak most for it, and then those that speak most against it; for texts.
        maps: For each class float64 (H, W), the mean attribution of each pixel; for images of one size.
    """

    method: str
    examples: int
    words: Mapping[str, tuple[list[WordWeight], list[WordWeight]]]
    maps: Mapping[str, np.ndarray]

    def to_json(self) -> str:
        """Returns it as one JSON object."""
        words = {
            name: {side: [vars(word) for word in ranked] for side, ranked in zip(("for", "against"), both, strict=True)}
            for name, both in self.words.items()
        }
        content: dict[str, Any] = {"method": self.method, "examples": self.examples, "words": words}
        return json.dumps(content | {"maps": {name: values.tolist() for name, values in self.maps.items()}}, ensure_ascii=False)

    def to_html(self, *, whole: bool = True) -> str:
        """Returns a page, or a part to put into another page."""
        from kerasbig.explain.html import overview_part, page

        return page(overview_part(self)) if whole else overview_part(self)

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)


def overview(explanations: Sequence[Explanation], *, most: int = 15) -> Overview:
    """Sums up explanations of many examples: the words, or regions, that matter most per class.

    Args:
        explanations: Explanations by one method, of texts or of images of one size.
        most: Words to name for and against each class.

    Returns:
        An `Overview`.

    Raises:
        ValueError: If there are none, they are of several methods or kinds, or images are of several sizes.

    Example:
        >>> from kerasbig.explain import overview, shap
        >>> says = lambda texts: np.array([[1.0 - ("fine" in text), "fine" in text] for text in texts], float)
        >>> found = [shap(says, f"a fine film of {n} hours", class_names=("bad", "good"), progress=False) for n in range(3)]
        >>> overview(found).words["good"][0][0]
        WordWeight(word='fine', mean=1.0, total=3.0, count=3)
    """
    if not explanations:
        raise ValueError("Expected at least one explanation. Received: none.")
    kinds = {(explanation.method, explanation.kind) for explanation in explanations}
    if len(kinds) > 1:
        raise ValueError(f"Expected explanations by one method, of one kind. Received: {sorted(kinds)}. Sum each up by itself.")
    names = list(dict.fromkeys(name for explanation in explanations for name in explanation.attributions))
    first = explanations[0]
    if first.kind == "text":
        words = {name: _ranked(explanations, name, most) for name in names}
        return Overview(first.method, len(explanations), words, {})
    shapes = {values.shape for explanation in explanations for values in explanation.attributions.values()}
    if len(shapes) > 1:
        raise ValueError(f"Expected images of one size. Received: {sorted(shapes)}. Resize them first.")
    maps = {name: np.mean([e.attributions[name] for e in explanations if name in e.attributions], axis=0) for name in names}
    return Overview(first.method, len(explanations), {}, maps)


def _ranked(explanations: Sequence[Explanation], name: str, most: int) -> tuple[list[WordWeight], list[WordWeight]]:
    found: dict[str, list[float]] = defaultdict(list)
    for explanation in explanations:
        if name in explanation.attributions:
            for token, value in zip(explanation.tokens, explanation.attributions[name].tolist(), strict=True):
                found[token.lower()].append(value)
    words = [WordWeight(word, float(np.mean(values)), float(np.sum(values)), len(values)) for word, values in found.items()]
    words.sort(key=lambda word: (-word.total, word.word))
    return [word for word in words if word.total > 0][:most], [word for word in reversed(words) if word.total < 0][:most]
