"""Which variant of a model to deploy: accuracy, size, latency and agreement, all measured on the same examples."""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from kerasbig.compress.reports import Report, bytes_text

# A variant may be this much worse than the first and still be recommended: accuracy in absolute terms, RMSE relative.
ACCURACY_LOST, RMSE_LOST = 0.005, 0.01
# Latencies closer than this count as equal, and the smaller file wins.
LATENCY_TIE = 0.05
WARM_UP = 5


@runtime_checkable
class Predictor(Protocol):
    """An exported model, such as `kb.export.load` returns."""

    path: Path
    format: str
    class_names: tuple[str, ...] | None

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) for N texts."""
        ...

    def bytes_on_disk(self) -> int:
        """Returns the size of what has to be shipped."""
        ...


class LabelledTexts(Protocol):
    """What `kb.data.load` gives for a split: N texts, N targets, and the class names or None for regression."""

    @property
    def inputs(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def targets(self) -> np.ndarray: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...] | None: ...  # noqa: D102


@dataclass(frozen=True)
class Comparison(Report):
    """The result of `compare`: a row a variant, the first one being the reference.

    Each row has `name`, `format`, `accuracy` (or `rmse` and `pearson`), `bytes`, `gzip_bytes`, `latency_ms` (median),
    `latency_p95_ms` and `max_logit_difference`; with accuracy also `difference` to the reference and its
    `standard_error`.
    """

    def recommend(self) -> str:
        """Returns one sentence: the fastest variant that is as good as the reference, and what it costs."""
        reference, chosen = self.rows[0], self._chosen()
        metric, unit = self._metric()
        loss = f"{RMSE_LOST:.0%} of RMSE" if metric == "rmse" else f"{100 * ACCURACY_LOST:g} points"
        if chosen is reference:
            return f"Deploy {reference['name']!r}, the reference: no other variant within {loss} of it is faster or smaller."
        size = f"{bytes_text(chosen['bytes'])} ({chosen['bytes'] / reference['bytes']:.0%})"
        speed = f"{chosen['latency_ms']:.1f} ms a text ({reference['latency_ms'] / chosen['latency_ms']:.1f}x as fast)"
        quality = f"{unit} {chosen[metric]:.4f}"
        if metric == "accuracy":
            quality += f" ({100 * chosen['difference']:+.2f} points, standard error {100 * chosen['standard_error']:.2f})"
        else:
            quality += f" (reference {reference[metric]:.4f})"
        return f"Deploy {chosen['name']!r}: {speed}, {size}, {quality}, against {reference['name']!r}."

    def plot(self) -> Figure:
        """Returns a matplotlib figure: accuracy (or RMSE) against size, a labelled point for each variant."""
        metric, unit = self._metric()
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for index, row in enumerate(self.rows):
            axes.plot(row["bytes"] / 1e6, row[metric], "o", markersize=8, color=f"C{index}")
            axes.annotate(
                str(row["name"]), (row["bytes"] / 1e6, row[metric]), textcoords="offset points", xytext=(8, 6 if index % 2 else -12)
            )
        axes.set_xlabel("size on disk, MB")
        axes.set_ylabel(unit)
        axes.set_xlim(left=0)
        axes.margins(x=0.25, y=0.2)
        axes.grid(alpha=0.3)
        return figure

    def _metric(self) -> tuple[str, str]:
        return ("accuracy", "accuracy") if "accuracy" in self.columns else ("rmse", "RMSE")

    def _chosen(self) -> Mapping[str, Any]:
        """The smallest of the fastest of the good enough; a tie goes to the earlier row."""
        metric, reference = self._metric()[0], self.rows[0]
        good = [row for row in self.rows if _good_enough(metric, row[metric], reference[metric])]
        fastest = min(row["latency_ms"] for row in good)
        return min((row for row in good if row["latency_ms"] <= fastest * (1 + LATENCY_TIE)), key=lambda row: row["bytes"])


def compare(
    variants: Mapping[str, keras.Model | Predictor],
    examples: LabelledTexts,
    *,
    latency_examples: int = 50,
    batch_size: int = 64,
) -> Comparison:
    """Measures variants of one model against each other.

    Latency is that of one text at a time, tokenization included, on the examples themselves; the variants take turns on
    each text, so that a drift of the machine hits all alike. A Keras model is run as one compiled function, and its
    size is that of its `.weights.h5` without the optimizer.

    Args:
        variants: Names and what they stand for: a KerasHub text classifier with its preprocessor, or an exported model
            as `kb.export.load` returns it. The first one is the reference.
        examples: What `kb.data.load` returned for a split, best the test split.
        latency_examples: How many texts, evenly spread over the examples, latency is measured on.
        batch_size: Texts a Keras model computes at once for accuracy.

    Returns:
        A `Comparison`: `.rows`, `.table()`, `.plot()`, `.recommend()`, `.to_json()`.

    Raises:
        ValueError: If there is no variant or no example, the classes of a variant are not those of the examples, or its
            output has another shape; or if `latency_examples` or `batch_size` is below 1.
        TypeError: If a variant is neither a Keras text model nor a predictor.

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
    _check_arguments(variants, examples, latency_examples, batch_size)
    texts = list(examples.inputs)
    with tempfile.TemporaryDirectory() as folder:
        predictors = {
            name: _KerasPredictor(variant, Path(folder) / f"{index}.weights.h5", batch_size)
            if isinstance(variant, keras.Model)
            else variant
            for index, (name, variant) in enumerate(variants.items())
        }
        for name, predictor in predictors.items():
            _check_classes(name, predictor, examples)
        logits = {name: _checked_logits(name, predictor, texts, examples) for name, predictor in predictors.items()}
        chosen = np.unique(np.linspace(0, len(texts) - 1, latency_examples).round().astype(int))
        latencies = _latencies(predictors, [texts[index] for index in chosen])
        sizes = {name: (predictor.bytes_on_disk(), _gzip_bytes(predictor.path)) for name, predictor in predictors.items()}
    reference = next(iter(logits.values()))
    rows = tuple(
        {
            "name": name,
            "format": predictor.format,
            **_quality(logits[name], reference, examples),
            "bytes": sizes[name][0],
            "gzip_bytes": sizes[name][1],
            "latency_ms": float(np.median(latencies[name])),
            "latency_p95_ms": float(np.percentile(latencies[name], 95)),
            "max_logit_difference": float(np.max(np.abs(logits[name] - reference))),
        }
        for name, predictor in predictors.items()
    )
    note = f"{len(texts):,} examples; latency of one text at a time over {len(chosen):,} of them, tokenization included."
    return Comparison("Comparison", rows, (note,))


class _KerasPredictor:
    """A KerasHub text model behind the interface of an exported one."""

    format = "keras"

    def __init__(self, model: keras.Model, path: Path, batch_size: int):
        self.path, self._model, self._batch_size = path, model, batch_size
        self.class_names: tuple[str, ...] | None = getattr(model, "class_names", None)
        if getattr(model, "preprocessor", None) is None:
            raise TypeError(f"Expected a KerasHub text model with its preprocessor. Received: {type(model).__name__} with none.")
        self._compute = tf.function(self._trace, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
        save_bare_weights(model, path)

    def _trace(self, texts: tf.Tensor) -> tf.Tensor:
        inputs = self._model.preprocessor(texts)
        width = tf.reduce_max(tf.reduce_sum(tf.cast(inputs["padding_mask"], tf.int32), axis=1))
        outputs = self._model({name: value[:, :width] for name, value in inputs.items()}, training=False)  # each (B, T)
        return tf.cast(outputs, tf.float32)

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        computed = [self._compute(tf.constant([inputs[index] for index in batch])).numpy() for batch in batches]
        logits = np.concatenate(computed)
        return logits[np.argsort(order)]

    def bytes_on_disk(self) -> int:
        return self.path.stat().st_size


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


def _quality(logits: np.ndarray, reference: np.ndarray, examples: LabelledTexts) -> dict[str, float]:
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


def _latencies(predictors: Mapping[str, Predictor], texts: Sequence[str]) -> dict[str, list[float]]:
    """Returns milliseconds a text; variants take turns, each text beginning with another one."""
    names = list(predictors)
    for name in names:
        for text in texts[:WARM_UP]:
            predictors[name].logits([text])
    latencies: dict[str, list[float]] = {name: [] for name in names}
    for turn, text in enumerate(texts):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            start = time.perf_counter()
            predictors[name].logits([text])
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


def _good_enough(metric: str, value: float, reference: float) -> bool:
    return value <= reference * (1 + RMSE_LOST) if metric == "rmse" else value >= reference - ACCURACY_LOST


def _check_arguments(variants: Mapping[str, Any], examples: LabelledTexts, latency_examples: int, batch_size: int) -> None:
    if not variants:
        raise ValueError('Expected at least one variant, such as {"float": model}. Received: an empty mapping.')
    if not len(examples.inputs):
        raise ValueError("Expected at least one example. Received: none.")
    for name, value in (("latency_examples", latency_examples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1. Received: {name}={value}")
    for name, variant in variants.items():
        if not isinstance(variant, keras.Model | Predictor):
            raise TypeError(
                f"Expected {name!r} to be a Keras text model or a predictor. Received: {type(variant).__name__}. "
                "Load an exported model with kb.export.load(path)."
            )


def _check_classes(name: str, predictor: Predictor, examples: LabelledTexts) -> None:
    if predictor.class_names is not None and examples.classes is not None and tuple(predictor.class_names) != tuple(examples.classes):
        raise ValueError(
            f"Expected {name!r} to have the classes of the examples, in their order: {examples.classes}. "
            f"Received: {predictor.class_names}. Read the data with these classes."
        )


def _checked_logits(name: str, predictor: Predictor, texts: Sequence[str], examples: LabelledTexts) -> np.ndarray:
    logits = np.asarray(predictor.logits(texts), "float32")
    expected = (len(texts), 1 if examples.classes is None else len(examples.classes))
    if logits.shape != expected:
        raise ValueError(f"Expected {name!r} to return logits of shape {expected}, one column a class. Received: {logits.shape}.")
    return logits
