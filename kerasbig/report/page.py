"""Writing the pages: numbers and plots in, one HTML file out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kerasbig.files import replacing_file
from kerasbig.report import figures, measures
from kerasbig.report.summary import Faces, Objects, RunSummary

WORST_EXAMPLES = 20
# A matrix beyond this many classes says nothing to the eye; the pairs most often confused do.
MATRIX_CLASSES = 30
TEXT_CHARACTERS = 600
# Images shown with their labels and predictions.
GALLERY = 24
# More lines than this in a plot are a tangle.
CURVES = 12


def write(path: str | os.PathLike[str], summary: RunSummary) -> Path:
    """Writes the page of one run.

    The page is one file that opens offline, in light and dark: headline metrics, training curves, confusion matrix,
    calibration, worst mistakes (for regression: residuals), class balance, data and speed, variants, configuration.
    It is written whole or not at all.

    Args:
        path: The HTML file to write or replace.
        summary: What to show; sections without data are left out.

    Returns:
        The path.

    Example:
        >>> import pathlib, tempfile
        >>> import kerasbig as kb
        >>> summary = kb.report.RunSummary("Reviews", "text-classifier", metrics={"accuracy": 0.84})
        >>> page = kb.report.write(pathlib.Path(tempfile.mkdtemp()) / "report.html", summary)
        >>> "0.84" in page.read_text()
        True
    """
    targets, logits = np.asarray(summary.targets), np.asarray(summary.logits, "float64")
    sections: dict[str, Any] = {"training": _training(summary), "variants": _variants(summary)}
    headline = dict(summary.metrics)
    if len(targets) and summary.classes is not None:
        probabilities = measures.softmax(logits)
        sections |= _classification(summary, targets, probabilities)
        headline.setdefault("calibration_error", sections["calibration"]["error"])
    elif len(targets):
        sections["regression"] = _regression(summary, targets.astype("float64"), logits[:, 0])
    if summary.objects is not None:
        sections["objects"] = _objects(summary.objects)
    if summary.faces is not None:
        sections["faces"] = _faces(summary.faces)
    sections["balance"] = _balance(summary, targets)
    return _render(path, "run.html.jinja", summary=summary, headline=headline, config=_json(summary.config), **sections)


def overview(path: str | os.PathLike[str], runs: Sequence[Mapping[str, Any]], *, title: str = "Runs") -> Path:
    """Writes a page that puts the metrics of several runs side by side.

    Args:
        path: The HTML file to write or replace.
        runs: One dict a run: `name`, `metrics` (a dict of numbers), and if there is one `link`, the path of its own
            page relative to this one.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        ValueError: If there is no run, or one lacks its name or metrics.

    Example:
        >>> import pathlib, tempfile
        >>> import kerasbig as kb
        >>> runs = [{"name": "a", "metrics": {"accuracy": 0.8}}, {"name": "b", "metrics": {"accuracy": 0.9, "loss": 0.3}}]
        >>> page = kb.report.overview(pathlib.Path(tempfile.mkdtemp()) / "runs.html", runs)
        >>> "0.9" in page.read_text()
        True
    """
    if not runs:
        raise ValueError("Expected at least one run. Received: none.")
    for index, run in enumerate(runs):
        if "name" not in run or not isinstance(run.get("metrics"), Mapping):
            raise ValueError(f"Expected each run to have name and metrics. Received: run {index + 1} with {sorted(run)}")
    names = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    return _render(path, "overview.html.jinja", title=title, metrics=names, runs=[_overview_row(run, runs, names) for run in runs])


def _overview_row(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    cells = []
    for name in names:
        known = [float(other["metrics"][name]) for other in runs if _is_number(other["metrics"].get(name))]
        value = run["metrics"].get(name)
        if not _is_number(value):
            cells.append({"value": None, "share": 0.0, "best": False})
            continue
        best = min(known) if measures.lower_is_better(name) else max(known)
        highest = max(map(abs, known)) or 1.0
        judged = len(set(known)) > 1 and name not in ("examples", "epochs")
        cells.append({"value": value, "share": abs(value) / highest, "best": judged and value == best})
    return {"name": run["name"], "link": quote(str(run["link"])) if run.get("link") else None, "cells": cells}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _training(summary: RunSummary) -> dict[str, Any] | None:
    if not summary.history:
        return None
    best, key = measures.best_epoch(summary.history, summary.monitor)
    # Keys may differ by epoch, as with validation every second epoch.
    columns = list(dict.fromkeys(name for epoch in summary.history for name in epoch if name != "epoch"))
    rows = [{"epoch": number, **{name: epoch.get(name) for name in columns}} for number, epoch in enumerate(summary.history, 1)]
    return {"plot": Markup(figures.training_curves(summary.history, best)), "best": best + 1, "key": key, "columns": columns, "rows": rows}


def _classification(summary: RunSummary, targets: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    classes = list(summary.classes or ())
    predicted = probabilities.argmax(axis=1)
    matrix = measures.confusion(targets, predicted, len(classes))
    result = measures.calibration(probabilities, targets)
    chosen = measures.confident_mistakes(probabilities, targets, WORST_EXAMPLES)
    mistakes = [
        {
            "row": summary.rows[i],
            "text": _shortened(summary.inputs[i]),
            "picture": _picture(summary, i),
            "target": classes[targets[i]],
            "predicted": classes[predicted[i]],
            "probability": float(probabilities[i, predicted[i]]),
        }
        for i in chosen
    ]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    pairs = [(int(matrix[i, j]), classes[i], classes[j]) for i, j in np.argwhere(matrix) if i != j]
    return {
        "confusion": {
            "counts": matrix.tolist() if len(classes) <= MATRIX_CLASSES else None,
            "shares": shares.tolist(),
            "pairs": sorted(pairs, reverse=True)[:WORST_EXAMPLES],
            "scores": measures.class_scores(matrix),
            "support": matrix.sum(axis=1).tolist(),
        },
        "calibration": {"plot": Markup(figures.reliability(result)), "error": result.error, "bins": _bins(result)},
        "gallery": _gallery(summary, targets, probabilities),
        "mistakes": {"shown": mistakes, "all": int((predicted != targets).sum()), "examples": len(targets)},
    }


def _gallery(summary: RunSummary, targets: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Returns some of the images with their labels and what was predicted, evenly spread over the examples."""
    if summary.picture is None:
        return []
    classes = list(summary.classes or ())
    predicted = probabilities.argmax(axis=1)
    chosen = np.unique(np.linspace(0, len(targets) - 1, GALLERY).round().astype(int))
    return [
        {
            "picture": _picture(summary, i),
            "text": summary.inputs[i],
            "target": classes[targets[i]],
            "predicted": classes[predicted[i]],
            "right": bool(predicted[i] == targets[i]),
            "probability": float(probabilities[i, predicted[i]]),
        }
        for i in chosen
    ]


def _picture(summary: RunSummary, index: int) -> Markup | None:
    # It comes from our own encoder, as base64.
    return None if summary.picture is None else Markup(summary.picture(int(index)))


def _objects(objects: Objects) -> dict[str, Any]:
    # Pictures come from our own encoder, as base64.
    def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "picture": Markup(row["picture"])} for row in rows]

    curves = [(row["name"], row["precision"]) for row in objects.classes if row["boxes"]][:CURVES]
    return {
        "classes": objects.classes,
        "curves": Markup(figures.precision_recall([precision for _, precision in curves])) if curves else None,
        "kinds": objects.kinds,
        "pictures": shown(objects.pictures),
        "mistakes": shown(objects.mistakes),
    }


def _faces(faces: Faces) -> dict[str, Any]:
    # Pictures come from our own encoder, as base64.
    def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "pictures": [Markup(picture) for picture in row["pictures"]]} for row in rows]

    return {
        "same": int(faces.same.sum()),
        "different": int((~faces.same).sum()),
        "curve": Markup(figures.roc_curve(faces.false_accepts, faces.true_accepts)),
        "histogram": Markup(figures.similarities(faces.similarities, faces.same, faces.threshold)),
        "threshold": faces.threshold,
        "unseen": faces.unseen,
        "errors": [
            ("Different people most alike", shown(faces.most_alike)),
            ("Photographs of one person least alike", shown(faces.least_alike)),
        ],
    }


def _bins(result: measures.Calibration) -> list[dict[str, Any]]:
    """Returns the bins that hold an answer."""
    return [
        {
            "range": f"{100 * result.edges[i]:.0f} to {100 * result.edges[i + 1]:.0f} %",
            "count": int(result.counts[i]),
            "confidence": float(result.confidence[i]),
            "accuracy": float(result.accuracy[i]),
        }
        for i in np.flatnonzero(result.counts)
    ]


def _regression(summary: RunSummary, targets: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-np.abs(values - targets), kind="stable")[:WORST_EXAMPLES]
    shown = [
        {"row": summary.rows[i], "text": _shortened(summary.inputs[i]), "target": float(targets[i]), "predicted": float(values[i])}
        for i in order
    ]
    return {"plot": Markup(figures.residuals(targets, values)), "shown": shown}


def _balance(summary: RunSummary, targets: np.ndarray) -> dict[str, list[int]]:
    """Returns the examples of each class by split; of what was evaluated if nothing else is known."""
    if summary.class_counts or summary.classes is None or not len(targets):
        return {split: [int(number) for number in numbers] for split, numbers in summary.class_counts.items()}
    return {"evaluated": np.bincount(targets, minlength=len(summary.classes)).tolist()}


def _variants(summary: RunSummary) -> dict[str, Any] | None:
    if not summary.comparison:
        return None
    rows = summary.comparison
    metric = next((name for name in ("accuracy", "rmse", "map", "bits_per_byte") if name in rows[0]), None)
    plot = Markup(figures.size_and_quality(rows, metric)) if metric and "bytes" in rows[0] else None
    return {"rows": rows, "columns": list(rows[0]), "plot": plot}


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""


def _render(path: str | os.PathLike[str], template: str, **content: Any) -> Path:
    environment = Environment(
        loader=PackageLoader("kerasbig.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=format_number, words=lambda name: str(name).replace("_", " "), unit=_format_cell, share=_format_share)
    html = environment.get_template(template).render(**content)
    with replacing_file(path) as temporary:
        # A text with half a surrogate pair is no reason to lose the page.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def format_number(value: Any) -> str:
    """Returns a number as a person writes it: whole ones grouped, others to four significant digits.

    Example:
        >>> format_number(10605), format_number(0.84375), format_number(8e-05), format_number(None)
        ('10,605', '0.8438', '8e-05', '–')
    """
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, int | np.integer) or (abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    return f"{float(value):.4g}"


def _format_share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _format_cell(value: Any, column: str) -> str:
    """Returns a cell of a comparison with the unit that its column's name tells."""
    if not _is_number(value):
        return format_number(value)
    if column.endswith("bytes"):
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"
    if column in ("difference", "standard_error"):
        return f"{100 * value:+.2f} points" if column == "difference" else f"{100 * value:.2f} points"
    return f"{value:.2f} ms" if column.endswith("_ms") else format_number(value)
