"""What compression has made of a model, layer by layer, read off its weights."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from kerasbig.compress.clustering import shared_values
from kerasbig.compress.kernels import own_weights, select_kernels, weight_owners
from kerasbig.compress.reports import Report, bytes_text
from kerasbig.compress.rewiring import compression_of


def inspect(model: keras.Model) -> Report:
    """Measures each layer's weights: zeros, shared values, and the bits that they hold.

    It believes nothing but the weights: a model that was pruned, and then trained on without `Pruning`, shows that its
    zeros are gone. A layer that is being clustered or quantized is measured as it computes.

    Args:
        model: A built Keras 3 model, compressed or not, stripped or not.

    Returns:
        A `Report` with a row for each layer with weights: `path`, `kind`, `shape`, `sparsity` (fraction of zeros),
        `clusters` (how many values the kernel has, if few), `bits` (entropy of the values, in bits a weight: what no
        lossless file can go below if weights are independent), `bytes` as they lie in memory, and `reason` why a layer
        has no float kernel, such as one that Keras's own `quantize` made int8. The note sums up.

    Raises:
        ValueError: If the model has no weights.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="half")])
        >>> model.layers[0].kernel.assign(np.eye(8))
        <...>
        >>> row = inspect(model).rows[0]
        >>> row["sparsity"], row["clusters"], round(row["bits"], 2)
        (0.875, 2, 0.54)
    """
    taken, left = select_kernels(model, lambda layer: True, required=False)
    rows: list[dict[str, Any]] = []
    for kernel in taken:
        compression = compression_of(kernel.layer)
        values = kernel.variable.numpy() if compression is None else compression.finished_kernel(kernel.layer)[1]
        kind = type(kernel.layer).__name__ if compression is None else compression.plain_class.__name__
        rows.append(_row(kernel.path, kind, values))
    owners = {layer.path: layer for layer in weight_owners(model)}
    for item in left:
        stored = sum(weight.numpy().nbytes for weight in own_weights(owners[item.path]) if tuple(weight.shape) == item.shape)
        rows.append(_cells(item.path, item.kind, item.shape, stored, reason=item.reason))
    kernels = rows[: len(taken)]
    if not kernels:
        return Report("Layers", tuple(rows), (f"No float kernel: {bytes_text(sum(row['bytes'] for row in rows))} of weights as they lie.",))
    weights = sum(math.prod(row["shape"]) for row in kernels)
    zeros = sum(row["sparsity"] * math.prod(row["shape"]) for row in kernels)
    held = sum(row["bits"] * math.prod(row["shape"]) for row in kernels) / 8
    note = f"{weights:,} weights in {len(kernels)} kernels: {zeros / weights:.1%} zeros, {bytes_text(held)} of information."
    return Report("Layers", tuple(rows), (note,))


def _row(path: str, kind: str, values: np.ndarray) -> dict[str, Any]:
    shared = shared_values(values)
    _, counts = np.unique(values, return_counts=True)
    shares = counts / values.size
    bits = float(-(shares * np.log2(shares)).sum())
    clusters = None if shared is None else len(shared)
    return _cells(path, kind, values.shape, 4 * values.size, sparsity=float(np.mean(values == 0)), clusters=clusters, bits=bits)


def _cells(
    path: str,
    kind: str,
    shape: tuple[int, ...],
    stored: int,
    *,
    sparsity: float | None = None,
    clusters: int | None = None,
    bits: float | None = None,
    reason: str = "",
) -> dict[str, Any]:
    cells = {"path": path, "kind": kind, "shape": tuple(shape), "sparsity": sparsity, "clusters": clusters, "bits": bits}
    return {**cells, "bytes": stored, "reason": reason}
