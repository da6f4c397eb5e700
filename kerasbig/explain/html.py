"""Explanations as HTML: parts for notebooks and other pages, and pages of their own."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from kerasbig.explain.drawing import AGAINST, FOR, draw_curves, heat_map, picture, strength
from kerasbig.explain.regions import ImageCase

if TYPE_CHECKING:
    from kerasbig.explain.explanation import Explanation
    from kerasbig.explain.faithful import Faithfulness
    from kerasbig.explain.overviews import Overview

WORDS = 12


def part(explanation: Explanation) -> str:
    """Returns an explanation as HTML to put into a page or a notebook."""
    return _render("explanation.html.jinja", explanation=explanation, classes=_classes(explanation), picture=_picture(explanation))


def faithfulness_part(measured: Faithfulness) -> str:
    """Returns curves and figures as HTML to put into a page or a notebook."""
    stream = io.BytesIO()
    draw_curves(measured).savefig(stream, format="png", dpi=110)
    plot = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return _render("faithfulness.html.jinja", measured=measured, figures=measured.figures(), plot=plot)


def overview_part(overview: Overview) -> str:
    """Returns the words or maps of each class as HTML to put into a page or a notebook."""
    largest = max((abs(word.total) for both in overview.words.values() for side in both for word in side), default=1.0)
    maps = {name: _map(values) for name, values in overview.maps.items()}
    return _render("overview.html.jinja", overview=overview, largest=largest, maps=maps)


def page(*parts: str, title: str = "Explanation") -> str:
    """Returns a page of its own, which opens offline and runs no code."""
    return _render("page.html.jinja", parts=parts, title=title)


def _classes(explanation: Explanation) -> list[dict[str, Any]]:
    largest = strength(explanation)
    found = []
    for name, values in explanation.attributions.items():
        entry: dict[str, Any] = {
            "name": name,
            "score": explanation.scores.get(name),
            "base": explanation.base_value.get(name),
            "map": heat_map(explanation.case, values, largest) if isinstance(explanation.case, ImageCase) else None,
            "pieces": [] if isinstance(explanation.case, ImageCase) else _pieces(explanation, values, largest),
            "top": [] if isinstance(explanation.case, ImageCase) else [_bar(*pair, largest) for pair in explanation.top(name, WORDS)],
        }
        found.append(entry)
    return found


def _pieces(explanation: Explanation, values: Any, largest: float) -> list[dict[str, Any]]:
    """Returns the text in pieces: what stands before each word, and the word with its colour."""
    text, end, pieces = explanation.case.text, 0, []  # type: ignore[union-attr]
    for (start, stop), value in zip(explanation.case.spans, values, strict=True):  # type: ignore[union-attr]
        pieces.append({"before": text[end:start], **_bar(text[start:stop], float(value), largest)})
        end = stop
    return [*pieces, {"before": text[end:], "word": "", "value": 0.0, "share": 0, "colour": FOR}]


def _bar(word: str, value: float, largest: float) -> dict[str, Any]:
    return {"word": word, "value": value, "share": round(100 * min(1.0, abs(value) / largest)), "colour": FOR if value >= 0 else AGAINST}


def _picture(explanation: Explanation) -> str | None:
    return picture(explanation.case) if isinstance(explanation.case, ImageCase) else None


def _map(values: Any) -> str:
    blank = ImageCase(np.full((*values.shape, 1), 0.5, "float32"), np.zeros(values.shape, int), np.zeros((*values.shape, 1), "float32"))
    return heat_map(blank, values, float(np.abs(values).max()))


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("kerasbig.explain", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(FOR=FOR, AGAINST=AGAINST)
    return environment.get_template(template).render(**content)
