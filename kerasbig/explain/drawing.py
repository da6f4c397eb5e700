"""Explanations as Matplotlib figures and as coloured pictures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.image import imsave

from kerasbig.explain.regions import ImageCase

if TYPE_CHECKING:
    from kerasbig.explain.explanation import Explanation
    from kerasbig.explain.faithful import Faithfulness

# For and against; told apart also by those who do not tell red from green.
FOR, AGAINST = "#3d7ff0", "#e5812c"
# Matplotlib's own font has no Chinese; the first of these that is installed helps it out.
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "SimHei")
BARS = 12


def draw(explanation: Explanation) -> Figure:
    """Draws bars of the strongest words for each class, or the image beside a map for each class."""
    with rc_context({"font.family": _fonts()}):
        return _draw_image(explanation, explanation.case) if isinstance(explanation.case, ImageCase) else _draw_text(explanation)


def draw_curves(measured: Faithfulness) -> Figure:
    """Draws the curves of deletion and insertion."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    sides = (("deletion", measured.deletion, measured.random_deletion), ("insertion", measured.insertion, measured.random_insertion))
    for axis, (title, own, random) in zip(axes, sides, strict=True):
        axis.plot(measured.fractions, own, color=FOR, label=measured.method)
        axis.plot(measured.fractions, random, color="gray", linestyle="--", label="random order")
        axis.set(title=title, xlabel=f"share of units {'left out' if title == 'deletion' else 'shown'}")
        axis.legend(frameon=False)
    axes[0].set_ylabel("mean score")
    return figure


def heat_map(case: ImageCase, values: np.ndarray, largest: float) -> str:
    """Returns a PNG as a data address: the image in grey under the colours of its attributions.

    Args:
        case: The image.
        values: float (H, W).
        largest: The attribution that gets the full colour.
    """
    stream = io.BytesIO()
    imsave(stream, _coloured(case, values, largest), format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def picture(case: ImageCase) -> str:
    """Returns the image itself as a PNG, as a data address."""
    stream = io.BytesIO()
    imsave(stream, _visible(case.image), format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def strength(explanation: Explanation) -> float:
    """Returns the largest attribution of any class, which gets the full colour; never 0."""
    return max(*(float(np.abs(values).max()) for values in explanation.attributions.values()), 1e-12)


def _draw_text(explanation: Explanation) -> Figure:
    names = list(explanation.attributions)
    height = 0.28 * min(BARS, explanation.case.count) + 1.0
    figure = Figure(figsize=(4.5 * len(names), height), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        top = explanation.top(name, BARS)[::-1]
        axis.barh(range(len(top)), [value for _, value in top], color=[FOR if value >= 0 else AGAINST for _, value in top])
        axis.set_yticks(range(len(top)), [word for word, _ in top])
        axis.axvline(0, color="gray", linewidth=0.8)
        axis.set_title(_title(explanation, name))
    return figure


def _draw_image(explanation: Explanation, case: ImageCase) -> Figure:
    names, largest = list(explanation.attributions), strength(explanation)
    figure = Figure(figsize=(3.2 * (len(names) + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, len(names) + 1, squeeze=False)
    axes[0, 0].imshow(_visible(case.image))
    axes[0, 0].set_title("image")
    for axis, name in zip(axes[0, 1:], names, strict=True):
        axis.imshow(_coloured(case, explanation.attributions[name], largest))
        axis.set_title(_title(explanation, name))
    for axis in axes[0]:
        axis.set_axis_off()
    return figure


def _title(explanation: Explanation, name: str) -> str:
    return f"{name}: {explanation.scores[name]:.3g}" if name in explanation.scores else name


def _visible(image: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W, 3) of an image in any units."""
    low, high = float(image.min()), float(image.max())
    low, high = (0.0, 255.0) if low >= 0 and 1 < high <= 255 else (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    shown = np.clip(255 * (image - low) / (high - low), 0, 255).astype("uint8")
    return shown[..., :3] if shown.shape[-1] >= 3 else np.repeat(shown[..., :1], 3, axis=-1)


def _coloured(case: ImageCase, values: np.ndarray, largest: float) -> np.ndarray:
    grey = _visible(case.image).mean(axis=-1, keepdims=True) * 0.6 + 90
    share = np.clip(np.abs(values) / max(largest, 1e-12), 0, 1)[..., None]
    colour = np.where(values[..., None] >= 0, _rgb(FOR), _rgb(AGAINST))
    return ((1 - 0.85 * share) * grey + 0.85 * share * colour).clip(0, 255).astype("uint8")


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def _fonts() -> list[Any]:
    installed = set(font_manager.get_font_names())
    return ["sans-serif", *(name for name in CJK_FONTS if name in installed)][:2]
