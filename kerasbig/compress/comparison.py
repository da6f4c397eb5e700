"""Which variant of a model to deploy: quality, size, latency and agreement, all measured on the same examples."""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import keras
import numpy as np
from matplotlib.figure import Figure

from kerasbig.compress.reports import Report, bytes_text
from kerasbig.data.boxes import Boxes
from kerasbig.data.images import ImageFiles


@dataclass(frozen=True)
class Metric:
    """What decides between variants.

    Attributes:
        name: In words.
        lost: A variant may be this much worse than the first and still be recommended.
        lower: Whether less is better; `lost` is then a share of the first one's value, else a difference.
    """

    name: str
    lost: float
    lower: bool = False

    def good_enough(self, value: float, reference: float) -> bool:
        """Tells whether a value is hardly worse than that of the first variant, or better."""
        return value <= reference * (1 + self.lost) if self.lower else value >= reference - self.lost

    def __str__(self) -> str:
        if self.lower:
            return f"{self.lost:.0%} of {self.name}"
        points = f"{100 * self.lost:g} point{'' if self.lost == 0.01 else 's'}"
        return points if self.name == "accuracy" else f"{points} of {self.name}"


# What rows may be judged by, the first that they have.
METRICS = {
    "accuracy": Metric("accuracy", 0.005),
    "rmse": Metric("RMSE", 0.01, lower=True),
    "map": Metric("mAP", 0.01),
    "bits_per_byte": Metric("bits per byte", 0.01, lower=True),
}
# Latencies closer than this count as equal, and the smaller file wins.
LATENCY_TIE = 0.05
WARM_UP = 5


@runtime_checkable
class Exported(Protocol):
    """An exported model, such as `kb.export.load` returns: it has `logits`; of a detector `predict`, of a generator `generate`."""

    path: Path
    format: str

    def bytes_on_disk(self) -> int:
        """Returns the size of what has to be shipped."""
        ...


class Labelled(Protocol):
    """What `kb.data.load` gives for a split: N texts or images, N targets, and the class names or None for regression."""

    @property
    def inputs(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def targets(self) -> Any: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...] | None: ...  # noqa: D102


@dataclass(frozen=True)
class Comparison(Report):
    """The result of `compare`: a row a variant, the first one being the reference.

    Each row has `name`, `format`, the quality, `bytes`, `gzip_bytes`, `latency_ms` (median), `latency_p95_ms`. Quality is
    `accuracy` with its `difference` to the reference and the `standard_error` of that; or `rmse` and `pearson`; or what
    `measure` returned, with the `difference` of its first figure where more of that is better. Where there are logits,
    `max_logit_difference` is the last.

    Attributes:
        one: What one example is called: "text" or "image".
    """

    one: str = "text"

    def recommend(self) -> str:
        """Returns one sentence: the fastest variant that is as good as the reference, and what it costs."""
        reference, chosen, (key, metric) = self.rows[0], self._chosen(), self._metric()
        if chosen is reference:
            return f"Deploy {reference['name']!r}, the reference: no other variant within {metric} of it is faster or smaller."
        size = f"{bytes_text(chosen['bytes'])} ({chosen['bytes'] / reference['bytes']:.0%})"
        speed = f"{chosen['latency_ms']:.1f} ms {_a(self.one)} ({reference['latency_ms'] / chosen['latency_ms']:.1f}x as fast)"
        quality = f"{metric.name} {chosen[key]:.4f}"
        if metric.lower:
            quality += f" (reference {reference[key]:.4f})"
        else:
            error = f", standard error {100 * chosen['standard_error']:.2f}" if "standard_error" in chosen else ""
            quality += f" ({100 * chosen['difference']:+.2f} points{error})"
        return f"Deploy {chosen['name']!r}: {speed}, {size}, {quality}, against {reference['name']!r}."

    def plot(self) -> Figure:
        """Returns a matplotlib figure: quality against size, a labelled point for each variant."""
        key, metric = self._metric()
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for index, row in enumerate(self.rows):
            place = (row["bytes"] / 1e6, row[key])
            axes.plot(*place, "o", markersize=8, color=f"C{index}")
            axes.annotate(str(row["name"]), place, textcoords="offset points", xytext=(8, 6 if index % 2 else -12))
        axes.set_xlabel("size on disk, MB")
        axes.set_ylabel(metric.name)
        axes.set_xlim(left=0)
        axes.margins(x=0.25, y=0.2)
        axes.grid(alpha=0.3)
        return figure

    def _metric(self) -> tuple[str, Metric]:
        return next((key, metric) for key, metric in METRICS.items() if key in self.columns)

    def _chosen(self) -> Mapping[str, Any]:
        """The smallest of the fastest of the good enough; a tie goes to the earlier row."""
        key, metric = self._metric()
        good = [row for row in self.rows if metric.good_enough(row[key], self.rows[0][key])]
        fastest = min(row["latency_ms"] for row in good)
        return min((row for row in good if row["latency_ms"] <= fastest * (1 + LATENCY_TIE)), key=lambda row: row["bytes"])


def compare(
    variants: Mapping[str, keras.Model | Exported],
    examples: Labelled,
    *,
    latency_examples: int = 50,
    measure: Callable[[Any, Any], Mapping[str, float]] | None = None,
) -> Comparison:
    """Measures variants of one model against each other.

    Latency is that of one text or image at a time, tokenizing or decoding included, on the examples themselves; the
    variants take turns on each example, so that a drift of the machine hits all alike. A Keras model is run as one compiled
    function, as its SavedModel would be, and its size is that of its `.weights.h5` without the optimizer. Generators are
    timed while they write 32 tokens after the text.

    Args:
        variants: Names and what they stand for: a KerasHub classifier of texts or images, a detector or a generator, with
            its preprocessor, or an exported model as `kb.export.load` returns it. The first one is the reference.
        examples: What `kb.data.load` returned for a split, best the test split.
        latency_examples: How many examples, evenly spread over all, latency is measured on.
        measure: From a variant and the examples to figures, the deciding one first; by default accuracy, or RMSE, from
            logits. For detectors `kerasbig.vision.measure_detector`; for generators what calls `kerasbig.export.bits_per_byte`.

    Returns:
        A `Comparison`: `.rows`, `.table()`, `.plot()`, `.recommend()`, `.to_json()`.

    Raises:
        ValueError: If there is no variant or no example, the classes of a variant are not those of the examples, or its
            output has another shape; if the examples have boxes and there is no `measure`, or it returns nothing to decide
            by; or if `latency_examples` is below 1.
        TypeError: If a variant is neither a Keras model with its preprocessor nor an exported one, or has no logits.

    Example:
        >>> import numpy as np
        >>> import kerasbig as kb
        >>> lines = ["a fine film", "a dull film"]
        >>> test = kb.data.Examples(lines, np.array([1, 0], "int32"), ("bad", "good"), [1, 2], "here", "test")
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(lines, 60))
        >>> result = kb.compress.compare({"float": model}, test, latency_examples=2)
        >>> result.rows[0]["max_logit_difference"]
        0.0
    """
    _check_arguments(variants, examples, latency_examples, measure)
    for name, variant in variants.items():
        _check_classes(name, variant, examples)
    asked = {name: _function(name, variant, logits=measure is None) for name, variant in variants.items()}
    inputs = examples.inputs
    qualities = _by_logits(asked, examples) if measure is None else _by_measure(variants, examples, measure)
    chosen = np.unique(np.linspace(0, len(inputs) - 1, latency_examples).round().astype(int))
    latencies = _latencies(asked, [inputs[index] for index in chosen])
    rows = []
    for name, variant in variants.items():
        size, gzip_size = _sizes(variant)
        row = {"name": name, "format": "keras" if isinstance(variant, keras.Model) else variant.format, **qualities[name]}
        difference = {"max_logit_difference": row.pop("max_logit_difference")} if measure is None else {}
        row |= {"bytes": size, "gzip_bytes": gzip_size, "latency_ms": float(np.median(latencies[name]))}
        rows.append({**row, "latency_p95_ms": float(np.percentile(latencies[name], 95)), **difference})
    one = "image" if isinstance(inputs, np.ndarray | ImageFiles) else "text"
    ready = "decoding" if one == "image" else "tokenization"
    note = f"{len(inputs):,} examples; latency of one {one} at a time over {len(chosen):,} of them, {ready} included."
    return Comparison("Comparison", tuple(rows), (note,), one)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _function(name: str, variant: Any, *, logits: bool) -> Callable[[Sequence[Any]], Any]:
    """Returns what a variant answers to raw inputs."""
    from kerasbig.export.in_process import WRITTEN, compiled

    if isinstance(variant, keras.Model):
        return compiled(variant)
    answer: Callable[[Sequence[Any]], Any] | None = getattr(variant, "logits" if logits else "predict", None)
    if answer is None and not logits and hasattr(variant, "generate"):
        return partial(variant.generate, max_tokens=WRITTEN)
    if answer is None:
        raise TypeError(
            f"Expected {name!r} to return logits. Received: {type(variant).__name__}, which does not. Say how it is measured with measure=."
        )
    return answer


def _sizes(variant: Any) -> tuple[int, int]:
    """Returns the bytes that have to be shipped, and what they come to in gzip."""
    if not isinstance(variant, keras.Model):
        return variant.bytes_on_disk(), _gzip_bytes(variant.path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        save_bare_weights(variant, path)
        return path.stat().st_size, _gzip_bytes(path)


def save_bare_weights(model: keras.Model, path: Path) -> None:
    """Saves the weights of a model as Keras does, but never the optimizer's, which are twice as many.

    Args:
        model: A built Keras model.
        path: The `.weights.h5` file to write.

    Example:
        >>> import keras, pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> save_bare_weights(model, pathlib.Path(tempfile.mkdtemp()) / "model.weights.h5")
    """
    whole = path.with_name(f"whole-{path.name}")
    model.save_weights(whole)
    with h5py.File(whole) as source, h5py.File(path, "w") as target:
        target.attrs.update(source.attrs)
        for name in source:
            if name != "optimizer":
                source.copy(name, target)
    whole.unlink()


def _by_logits(asked: Mapping[str, Callable[[Sequence[Any]], Any]], examples: Labelled) -> dict[str, dict[str, float]]:
    """Returns the quality of each variant from its logits, and how far they are from those of the first."""
    logits = {name: _checked_logits(name, ask(examples.inputs), examples) for name, ask in asked.items()}
    reference = next(iter(logits.values()))
    return {
        name: {**_quality(values, reference, examples), "max_logit_difference": float(np.max(np.abs(values - reference)))}
        for name, values in logits.items()
    }


def _by_measure(variants: Mapping[str, Any], examples: Labelled, measure: Callable[[Any, Any], Any]) -> dict[str, dict[str, float]]:
    """Returns the figures of each variant, and how far the first of them is from that of the first variant, where more is better."""
    figures = {name: dict(measure(variant, examples)) for name, variant in variants.items()}
    reference = next(iter(figures.values()))
    key = next(iter(reference), None)
    if key not in METRICS:
        raise ValueError(f"Expected the first figure of measure to be one of {', '.join(METRICS)}. Received: {key!r}.")
    if METRICS[key].lower:
        return figures
    return {name: {**found, "difference": found[key] - reference[key]} for name, found in figures.items()}


def _quality(logits: np.ndarray, reference: np.ndarray, examples: Labelled) -> dict[str, float]:
    targets = np.asarray(examples.targets)
    if examples.classes is None:
        values = logits[:, 0].astype("float64")
        # A constant has no correlation with anything; 0 says so without a warning.
        varies = np.ptp(values) > 0 and np.ptp(targets) > 0
        pearson = float(np.corrcoef(values, targets)[0, 1]) if varies else 0.0
        return {"rmse": float(np.sqrt(np.mean((values - targets) ** 2))), "pearson": pearson}
    right = (logits.argmax(axis=1) == targets).astype("float64")
    gained = right - (reference.argmax(axis=1) == targets)
    return {
        "accuracy": float(right.mean()),
        "difference": float(gained.mean()),
        "standard_error": float(gained.std() / math.sqrt(len(targets))),
    }


def _latencies(asked: Mapping[str, Callable[[Sequence[Any]], Any]], inputs: Sequence[Any]) -> dict[str, list[float]]:
    """Returns milliseconds an example; variants take turns, each example beginning with another one."""
    names = list(asked)
    for name in names:
        for each in inputs[:WARM_UP]:
            asked[name]([each])
    latencies: dict[str, list[float]] = {name: [] for name in names}
    for turn, each in enumerate(inputs):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            start = time.perf_counter()
            asked[name]([each])
            latencies[name].append(1e3 * (time.perf_counter() - start))
    return latencies


def _gzip_bytes(path: Path) -> int:
    """Returns what a file, or the files of a folder, come to in gzip."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = 0
    for file in files:
        with tempfile.TemporaryFile() as stream, open(file, "rb") as source:
            with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6) as packed:
                shutil.copyfileobj(source, packed, 1 << 20)
            total += stream.tell()
    return total


def _check_arguments(variants: Mapping[str, Any], examples: Labelled, latency_examples: int, measure: Any) -> None:
    if not variants:
        raise ValueError('Expected at least one variant, such as {"float": model}. Received: an empty mapping.')
    if not len(examples.inputs):
        raise ValueError("Expected at least one example. Received: none.")
    if latency_examples < 1:
        raise ValueError(f"Expected latency_examples of at least 1. Received: latency_examples={latency_examples}")
    if measure is None and isinstance(examples.targets, Boxes):
        raise ValueError("Expected measure for examples with boxes. Received: None. Give measure=kerasbig.vision.measure_detector.")
    for name, variant in variants.items():
        if not isinstance(variant, keras.Model | Exported):
            raise TypeError(
                f"Expected {name!r} to be a Keras model or an exported one. Received: {type(variant).__name__}. "
                "Load an exported model with kb.export.load(path)."
            )


def _check_classes(name: str, variant: Any, examples: Labelled) -> None:
    names = getattr(variant, "class_names", None)
    if names is not None and examples.classes is not None and tuple(names) != tuple(examples.classes):
        raise ValueError(
            f"Expected {name!r} to have the classes of the examples, in their order: {examples.classes}. "
            f"Received: {names}. Read the data with these classes."
        )


def _checked_logits(name: str, received: Any, examples: Labelled) -> np.ndarray:
    logits = np.asarray(received, "float32")
    expected = (len(examples.inputs), 1 if examples.classes is None else len(examples.classes))
    if logits.shape != expected:
        raise ValueError(f"Expected {name!r} to return logits of shape {expected}, one column a class. Received: {logits.shape}.")
    return logits
