"""The plots of a page, as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerasbig.report.measures import Calibration

# Drawn in this colour, then written as `currentColor`, so that axes and text take the colour of the page's text.
_INK = "#010203"
BLUE, ORANGE, GREEN = "#3d7ff0", "#e5812c", "#2aa36b"
_STYLE: dict[str, Any] = {
    # Text stays text: the browser has fonts that Matplotlib lacks, and no glyph is drawn as a box.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def training_curves(history: Sequence[Mapping[str, float]], best: int) -> str:
    """Draws a panel for each metric, training and validation together, with the best epoch marked.

    Args:
        history: One dict an epoch; `val_x` is drawn beside `x`.
        best: Index of the best epoch.

    Returns:
        An `<svg>` element.

    Example:
        >>> training_curves([{"loss": 0.7, "val_loss": 0.6}, {"loss": 0.5, "val_loss": 0.5}], 1)[:4]
        '<svg'
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for epoch in history for name in epoch if name != "epoch"))
    names.sort(key=lambda name: (name != "loss", name in ("learning_rate", "sparsity")))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    epochs = np.arange(1, len(history) + 1)

    def draw(figure: Figure) -> None:
        for place, name in enumerate(names):
            axes = figure.add_subplot(lines, columns, place + 1)
            for key, label, colour in ((name, "training", BLUE), (f"val_{name}", "validation", ORANGE)):
                values = np.array([epoch.get(key, np.nan) for epoch in history], "float64")
                if not np.isnan(values).all():
                    axes.plot(epochs, values, "o-", color=colour, markersize=4, label=label)
            axes.axvline(best + 1, color=GREEN, linestyle="--", linewidth=1, label="best epoch")
            axes.set_title(name.replace("_", " "))
            if len(history) <= 8:
                axes.set_xticks(epochs)
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.ticklabel_format(axis="y", scilimits=(-2, 4), useOffset=False)
            axes.set_xlim(0.5, len(history) + 0.5)
            if place + columns >= len(names):
                axes.set_xlabel("epoch")
            if place == 0:
                axes.legend(fontsize=9)

    return _svg("curves", (3.3 * columns + 0.4, 2.6 * lines), "Metrics by epoch", draw)


def reliability(result: Calibration) -> str:
    """Draws the share of right answers by stated confidence, and how many answers stand behind each bar."""
    centres, width = (result.edges[:-1] + result.edges[1:]) / 2, result.edges[1] - result.edges[0]

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, np.nan_to_num(result.accuracy), width * 0.92, color=BLUE, alpha=0.75, label="right answers")
        upper.plot([0, 1], [0, 1], "--", color=_INK, linewidth=1, label="perfect calibration")
        upper.plot(result.confidence, result.accuracy, "o", color=ORANGE, markersize=5, label="mean confidence")
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of right answers")
        upper.legend(fontsize=9, loc="upper left")
        lower.bar(centres, result.counts, width * 0.92, color=BLUE, alpha=0.4)
        lower.set(xlabel="confidence", ylabel="answers")

    return _svg("calibration", (4.8, 4.6), "Reliability diagram", draw)


def precision_recall(curves: Sequence[Sequence[float]]) -> str:
    """Draws precision by recall, a line for each class, each with the number of its row at the end.

    Args:
        curves: For each class the precisions at recalls evenly spread from 0 to 1.

    Returns:
        An `<svg>` element.

    Example:
        >>> precision_recall([[1.0, 0.8, 0.0]])[:4]
        '<svg'
    """

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.9, len(curves)))
        for number, (precision, colour) in enumerate(zip(curves, colours, strict=True), start=1):
            recalls, values = np.linspace(0, 1, len(precision)), np.asarray(precision, "float64")
            axes.plot(recalls, values, color=colour, linewidth=1.6)
            last = int(np.flatnonzero(values > 0).max(initial=0))
            axes.annotate(str(number), (recalls[last], values[last]), textcoords="offset points", xytext=(3, 2), fontsize=9)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="recall", ylabel="precision at IoU 0.5")

    return _svg("precision-recall", (5.6, 3.8), "Precision by recall", draw)


def roc_curve(false_accepts: np.ndarray, true_accepts: np.ndarray) -> str:
    """Draws the share of the same that is accepted by the share of the different that is, the latter on a logarithmic scale.

    Args:
        false_accepts: float (T,), ascending from 0 to 1.
        true_accepts: float (T,).

    Returns:
        An `<svg>` element.

    Example:
        >>> roc_curve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.9, 1.0]))[:4]
        '<svg'
    """
    lowest = min(1e-3, float(false_accepts[false_accepts > 0].min(initial=1.0)))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(np.maximum(false_accepts, lowest), true_accepts, color=BLUE, linewidth=1.6, drawstyle="steps-post")
        chance = np.geomspace(lowest, 1, 50)
        axes.plot(chance, chance, "--", color=_INK, linewidth=1, label="chance")
        axes.axvline(1e-2, color=GREEN, linestyle="--", linewidth=1, label="1 % of the different")
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.03), xlabel="different accepted", ylabel="same accepted")
        axes.legend(fontsize=9, loc="lower right")

    return _svg("roc", (4.8, 3.6), "ROC curve of pairs of faces", draw)


def similarities(values: np.ndarray, same: np.ndarray, threshold: float | None) -> str:
    """Draws how similarities are spread, for pairs of one person and of different people.

    Args:
        values: float (P,), from -1 to 1.
        same: bool (P,).
        threshold: Marked if there is one.

    Returns:
        An `<svg>` element.

    Example:
        >>> similarities(np.array([0.9, 0.1]), np.array([True, False]), 0.5)[:4]
        '<svg'
    """
    edges = np.linspace(-1, 1, 61)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for chosen, label, colour in ((~same, "different people", ORANGE), (same, "the same person", BLUE)):
            counts = np.histogram(np.clip(values[chosen], -1, 1), edges)[0]
            axes.stairs(counts / max(counts.sum(), 1), edges, color=colour, fill=True, alpha=0.55, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=GREEN, linestyle="--", linewidth=1, label="threshold")
        axes.set(xlim=(-1, 1), xlabel="similarity", ylabel="share of the pairs")
        axes.legend(fontsize=9, loc="upper left")

    return _svg("similarities", (4.8, 3.6), "Similarities of pairs of faces", draw)


def residuals(targets: np.ndarray, values: np.ndarray) -> str:
    """Draws predicted against true values, and how the differences are spread."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        low, high = min(targets.min(), values.min()), max(targets.max(), values.max())
        left.plot([low, high], [low, high], "--", color=_INK, linewidth=1)
        # Thousands of circles as SVG would weigh megabytes.
        left.plot(targets, values, "o", color=BLUE, alpha=0.35, markersize=4, markeredgewidth=0, rasterized=True)
        left.set(xlabel="true", ylabel="predicted")
        right.hist(values - targets, bins=min(40, max(5, len(targets) // 10)), color=BLUE, alpha=0.75)
        right.axvline(0, color=_INK, linestyle="--", linewidth=1)
        right.set(xlabel="predicted - true", ylabel="examples")

    return _svg("residuals", (9.0, 3.8), "Predicted and true values", draw)


def size_and_quality(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Draws a metric against the size on disk, with the number of the table's row beside each point."""

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        for number, row in enumerate(rows, start=1):
            axes.plot(row["bytes"] / 1e6, row[metric], "o", color=BLUE, markersize=8)
            axes.annotate(str(number), (row["bytes"] / 1e6, row[metric]), textcoords="offset points", xytext=(7, 5))
        axes.set(xlabel="size on disk, MB", ylabel=metric)
        axes.margins(0.15, 0.25)
        axes.set_xlim(left=0)

    return _svg("variants", (5.6, 3.4), f"{metric} by size", draw)


def _svg(name: str, size: tuple[float, float], label: str, draw: Any) -> str:
    """Runs `draw` on a new figure and returns it as an element for a page; `name` keeps its ids apart from others'."""
    # The salt makes the same figure the same bytes; Matplotlib's settings are put back at the end.
    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    # Matplotlib names its groups figure_1, axes_1 in every figure.
    element = text[text.index("<svg") :].replace(_INK, "currentColor").replace('<g id="', f'<g id="{name}-')
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
