"""Quantization-aware training and static int8: TF-MOT's quantizers around the kernels of a Keras 3 model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerasbig.compress.clustering import PRUNED, Clusters, shared_values
from kerasbig.compress.fake_quantizers import ActivationQuantizer, RowQuantizer, WeightQuantizer
from kerasbig.compress.kernels import Kernel, Layers, select_kernels
from kerasbig.compress.rewiring import compression_of, forget_traces, put_clusters, quantize_output, rewire, rewired_layers

_NO_BATCH = "Expected at least one batch to calibrate on. Received none: a dataset that was read to its end gives no more."

# What `ranges` gives: a dict for each quantized layer, in the model's order, plain values only.
Ranges = Sequence[Mapping[str, Any]]


def quantize_model(
    model: keras.Model,
    *,
    layers: Layers | None = None,
    per_channel: bool = True,
    calibration: Iterable[Any] | None = None,
    ranges: Ranges | None = None,
    preserve: bool = True,
) -> keras.Model:
    """Makes a model compute as int8 would, so that it can be trained for it and exported to it.

    Each Dense, EinsumDense and convolution rounds its kernel, its input and its output to 8 bits; an embedding rounds
    each row by the row's own size. Gradients pass as in TF-MOT. The model is changed in place: compile it and fit it a
    little further (quantization-aware training), or calibrate it and export it as it is (static quantization after
    training). Then `kb.export.litert(model, ..., quantize="int8")` writes int8 kernels, and `kerasbig.compress.strip`
    gives the plain model back.

    Args:
        model: A built Keras 3 model, KerasHub's included, on TensorFlow.
        layers: Which layers; None for all of those kinds. Otherwise as in `Pruning`.
        per_channel: A range for each output of a kernel, and outputs measured channel by channel; otherwise one for the
            whole kernel, as clustered kernels always have. Where `ranges` are given, they say which it is.
        calibration: Batches to measure the ranges of inputs and outputs on, such as `kb.data.batches(...)` or a list of
            inputs. A few hundred examples do. Without it ranges begin at -6 to 6, as TF-MOT's do, and training moves them.
        ranges: What `kerasbig.compress.ranges` gave for this model before; instead of a calibration.
        preserve: Whether zeros and clusters of the kernels are kept while it trains: a kernel that is a quarter or more
            zeros keeps them, one of at most 256 values keeps its clusters (TF-MOT's PQAT, CQAT and PCQAT).

    Returns:
        The same model, to be compiled.

    Raises:
        ValueError: If the model is not built, no layer is left to quantize, a layer is quantized already, both
            `calibration` and `ranges` are given, `ranges` are those of another model, or `calibration` is empty.
        RuntimeError: On another Keras backend than TensorFlow.

    Example:
        >>> import keras, numpy as np
        >>> import kerasbig as kb
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = kb.compress.quantize_model(model, calibration=[np.ones((2, 8), "float32")])
        >>> kb.compress.ranges(model)[0]["input"]
        [0.0, 1.0]

    Source: TensorFlow Model Optimization, `quantization/keras`; Jacob et al., 2018, arXiv:1712.05877.
    """
    _check_arguments(calibration, ranges)
    batches = None if calibration is None else list(calibration)
    if batches == []:
        raise ValueError(_NO_BATCH)
    taken, _ = select_kernels(model, (lambda layer: True) if layers is None else layers)
    for kernel in taken:
        compression = compression_of(kernel.layer)
        if compression is not None and compression.weight_quantizer is not None:
            raise ValueError(
                f"Expected layers that are not quantized. Received: {kernel.path!r}, which is. "
                "Call kerasbig.compress.strip(model) first, or name other layers with layers=."
            )
    fresh: dict[str, Any] = {"per_channel": per_channel, "output_sizes": [] if per_channel else None}
    rows = [fresh] * len(taken) if ranges is None else _checked_ranges(taken, ranges)
    with model.distribute_strategy.scope():
        for kernel, row in zip(taken, rows, strict=True):
            if preserve:
                # The few values of a kernel that has ranges for its outputs are no clusters, but steps of 8 bits.
                _keep(kernel, clusters=ranges is None or not row["per_channel"])
            _quantize(kernel, row["per_channel"], sizes=row.get("output_sizes") is not None)
    forget_traces(model)
    if batches is not None:
        calibrate(model, batches)
    elif ranges is not None:
        _assign_ranges(taken, ranges)
    return model


def calibrate(model: keras.Model, batches: Iterable[Any]) -> None:
    """Sets the ranges of a quantized model's inputs and outputs to what they are on data.

    A range runs from the mean of the batches' minima to the mean of their maxima: where TF-MOT's moving average ends.
    Outputs are measured channel by channel, unless `per_channel=False`; see `ActivationQuantizer`.

    Args:
        model: A model from `quantize_model`.
        batches: Inputs as the model takes them, or (inputs, targets), one batch after the other.

    Raises:
        ValueError: If there is no batch, or the model is not quantized.

    Example:
        >>> import inspect
        >>> list(inspect.signature(calibrate).parameters)
        ['model', 'batches']
    """
    quantizers = _activation_quantizers(model)
    if not quantizers:
        raise ValueError(f"Expected a model from kerasbig.compress.quantize_model. Received: {model.name!r}, with nothing quantized.")
    for quantizer in quantizers:
        quantizer.observe()
    try:
        count = 0
        for batch in batches:
            model(batch[0] if isinstance(batch, tuple) else batch, training=False)
            count += 1
        if not count:
            raise ValueError(_NO_BATCH)
        for quantizer in quantizers:
            quantizer.settle()
    finally:
        for quantizer in quantizers:
            quantizer.stop()


def ranges(model: keras.Model) -> list[dict[str, Any]]:
    """Returns the ranges of a quantized model's inputs and outputs, to keep beside its stripped weights.

    Args:
        model: A model from `quantize_model`.

    Returns:
        A dict for each quantized layer, in the model's order: `layer` (its name), `per_channel`, and `input` and
        `output` as [minimum, maximum], which an embedding lacks, and `output_sizes`, which the outputs' channels are
        divided by before. Plain values, ready for JSON.

    Example:
        >>> import keras
        >>> import kerasbig as kb
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="logits")])
        >>> kb.compress.ranges(kb.compress.quantize_model(model))[0]
        {'layer': 'logits', 'per_channel': True, 'input': [-6.0, 6.0], 'output': [-6.0, 6.0], 'output_sizes': [1.0, 1.0, 1.0, 1.0]}
    """
    found = []
    for layer in _quantized_layers(model):
        compression = layer.compression
        row: dict[str, Any] = {"layer": layer.name, "per_channel": compression.weight_quantizer.per_channel}
        if compression.input_quantizer is not None:
            row |= {"input": compression.input_quantizer.range(), "output": compression.output_quantizer.range()}
            row |= {"output_sizes": compression.output_quantizer.sizes()}
        found.append(row)
    return found


def _quantize(kernel: Kernel, per_channel: bool, *, sizes: bool) -> None:
    compression = rewire(kernel)
    if isinstance(kernel.layer, keras.layers.Embedding):
        compression.weight_quantizer = WeightQuantizer(None) if compression.clusters is not None else RowQuantizer()
    else:
        channels = kernel.matrix_shape[1] if per_channel and compression.clusters is None else None
        compression.weight_quantizer = WeightQuantizer(channels)
        compression.input_quantizer = ActivationQuantizer("input")
        compression.output_quantizer = ActivationQuantizer("output", _output_shape(kernel.layer) if sizes else None)
        quantize_output(kernel.layer)
    clusters = compression.clusters
    compression.weight_quantizer.start((kernel.variable if clusters is None else clusters.centroids)._value)


def _output_shape(layer: keras.layers.Layer) -> tuple[int, ...] | None:
    """Returns the shape of a layer's outputs behind the axes that its kernel does not see; None if they do not come last."""
    shape = tuple(layer._kernel.shape)
    if not isinstance(layer, keras.layers.EinsumDense):
        return None if getattr(layer, "data_format", None) == "channels_first" else shape[-1:]
    inputs, output = layer.equation.replace(" ", "").split("->")
    axes = inputs.split(",")[1]
    last = "".join(axis for axis in axes if axis in output)
    return shape[len(axes) - len(last) :] if output.endswith(last) else None


def _keep(kernel: Kernel, *, clusters: bool) -> None:
    """Keeps what an earlier step left in a kernel: its zeros and, if asked to, its clusters."""
    compression = rewire(kernel)
    if compression.clusters is not None:
        return
    values = kernel.variable.numpy()
    if np.ptp(values) == 0:
        return  # such a kernel was not pruned or clustered, but begins so
    zeros = bool(np.mean(values == 0) >= PRUNED)
    centroids = shared_values(values) if clusters else None
    if centroids is not None:
        put_clusters(kernel, Clusters(centroids, keeps_zeros=zeros))
    compression.keep_zeros = zeros


def _quantized_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in rewired_layers(model) if layer.compression.weight_quantizer is not None]


def _activation_quantizers(model: keras.Model) -> list[ActivationQuantizer]:
    pairs = [(layer.compression.input_quantizer, layer.compression.output_quantizer) for layer in _quantized_layers(model)]
    return [quantizer for pair in pairs for quantizer in pair if quantizer is not None]


def _checked_ranges(taken: Sequence[Kernel], given: Ranges) -> list[Mapping[str, Any]]:
    """Returns ranges that fit the kernels, or raises."""
    advice = "Take them with kerasbig.compress.ranges from a model of the same structure and the same layers=."
    rows = list(given)
    received, names = [str(row.get("layer")) for row in rows], [kernel.layer.name for kernel in taken]
    if received != names:
        raise ValueError(
            f"Expected ranges of this model's layers, {', '.join(names)}. Received: those of {', '.join(received) or 'none'}. {advice}"
        )
    for kernel, row in zip(taken, rows, strict=True):
        sizes, outputs = row.get("output_sizes"), kernel.matrix_shape[1]
        needed = {"per_channel"} if isinstance(kernel.layer, keras.layers.Embedding) else {"per_channel", "input", "output"}
        compression = compression_of(kernel.layer)
        clustered = compression is not None and compression.clusters is not None
        if not needed <= row.keys() or (clustered and row["per_channel"]) or (sizes is not None and len(sizes) != outputs):
            raise ValueError(
                f"Expected ranges for the {outputs} outputs of {kernel.path!r}, {'one' if clustered else 'or one'} for all. "
                f"Received: {dict(row)}. {advice}"
            )
    return rows


def _assign_ranges(taken: Sequence[Kernel], rows: Ranges) -> None:
    for kernel, row in zip(taken, rows, strict=True):
        compression = compression_of(kernel.layer)
        if compression is not None and compression.clusters is None:
            compression.weight_quantizer.find_grid(kernel.variable.numpy())
        if compression is not None and compression.input_quantizer is not None:
            compression.input_quantizer.set_range(*row["input"])
            compression.output_quantizer.set_range(*row["output"])
            if row.get("output_sizes") is not None:
                compression.output_quantizer.set_sizes(row["output_sizes"])


def _check_arguments(calibration: Any, given: Any) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Expected Keras on TensorFlow, which TF-MOT's quantizers are written for. Received: backend={keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow for this step."
        )
    if calibration is not None and given is not None:
        raise ValueError("Expected calibration or ranges. Received both: leave out the one that is older.")
