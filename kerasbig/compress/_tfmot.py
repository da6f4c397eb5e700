"""The only file that imports TF-MOT, and takes from it just what runs without Keras 2.

`import tensorflow_model_optimization` sets `TF_USE_LEGACY_KERAS=1` for this process and its children, loads `tf_keras` and
may turn `tf.keras` into it. The mathematics of pruning, clustering and quantization needs none of that: files of
TensorFlow code that take four small names from TF-MOT's compatibility module. They are loaded here as private copies
under a stub package, so that a program that imports TF-MOT itself, before or after, gets TF-MOT whole and untouched.

Source: TensorFlow Model Optimization 0.8.1, `tensorflow_model_optimization/python/core`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

PACKAGE = "tensorflow_model_optimization"
CORE = f"{PACKAGE}.python.core"
# A test compares these with the installed files, so that an upgrade of TF-MOT is read before it is believed.
FILES_SHA256 = {
    "sparsity.keras.pruning_impl": "0c90e1474fbd2fa9262ff27dc167c365916a731a97dce73a9de726381abf300e",
    "sparsity.keras.pruning_schedule": "2f929c727cc03df3cabae67cf80178c65e86d780732293b6fbbe16bcd2e225e8",
    "sparsity.keras.pruning_utils": "e9ee1d7b13a36673bb9de7016d09de43d8b3bba41e1d89c595a8e79fd2a9b156",
    "clustering.keras.cluster_config": "3e73b0a9e1c3e783f11d0dc141489c95cf32c0178d3c8133c5dbe84b60e51875",
    "clustering.keras.clustering_algorithm": "8dfe1df52b71889dbed424b7c16d27fac34a2f69ca47ee0d7821648424dcad23",
    "clustering.keras.clustering_centroids": "556870e62bdc4199243f9981710adb58b9995f36202f2cd3526d89a39eb7b481",
    "quantization.keras.quant_ops": "1c39e8d841946d953e55b5294b56508aa06336d44726d95620ade0c30bbe8110",
    "quantization.keras.quantizers": "5e4898c85437e4796f34b639209b18b756998cb15254685357b40d77862bf9f3",
}

_lock = threading.Lock()


def _load() -> dict[str, ModuleType]:
    """Returns private copies of TF-MOT's modules by name."""
    with _lock, _stub_package():
        return {name: importlib.import_module(f"{CORE}.{name}") for name in FILES_SHA256}


@contextlib.contextmanager
def _stub_package() -> Iterator[None]:
    """Puts an empty TF-MOT package into `sys.modules`, and what was there before back at the end."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "Expected the package tensorflow-model-optimization, which kerasbig.compress runs on. It is not installed: "
            "pip install 'tensorflow-model-optimization>=0.8.1'"
        )
    root = ModuleType(PACKAGE)
    root.__path__ = list(spec.submodule_search_locations)
    compat = ModuleType(f"{CORE}.keras.compat")
    names = SimpleNamespace(initializers=keras.initializers, backend=SimpleNamespace(map_fn=_map_fn))
    vars(compat).update(assign=_assign, keras=names)
    # `quant_ops` imports the module itself from its package, so the package must be there too.
    package = ModuleType(f"{CORE}.keras")
    vars(package)["compat"] = compat
    kept = _take_modules()
    sys.modules.update({PACKAGE: root, package.__name__: package, compat.__name__: compat})
    try:
        yield
    finally:
        _take_modules()
        sys.modules.update(kept)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}


def _assign(variable: Any, value: Any, name: str | None = None) -> Any:
    return variable.assign(value)


def _map_fn(function: Any, elements: Any, dtype: Any = None) -> Any:
    return tf.map_fn(function, elements, fn_output_signature=dtype)


_modules = _load()

ConstantSparsity = _modules["sparsity.keras.pruning_schedule"].ConstantSparsity
PolynomialDecay = _modules["sparsity.keras.pruning_schedule"].PolynomialDecay
CentroidInitialization = _modules["clustering.keras.cluster_config"].CentroidInitialization
GradientAggregation = _modules["clustering.keras.cluster_config"].GradientAggregation
centroid_initializer = _modules["clustering.keras.clustering_centroids"].CentroidsInitializerFactory.get_centroid_initializer
FixedQuantizer = _modules["quantization.keras.quantizers"].FixedQuantizer
LastValueQuantizer = _modules["quantization.keras.quantizers"].LastValueQuantizer
moving_average_quantize = _modules["quantization.keras.quant_ops"].MovingAvgQuantize
MovingAverageQuantizer = _modules["quantization.keras.quantizers"].MovingAverageQuantizer


class RangeVariables:
    """What a TF-MOT quantizer takes for a Keras 2 layer: it makes its range variables in a Keras 3 layer.

    Args:
        layer: The Keras 3 layer that shall own them.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer

    def add_weight(self, name: str, initializer: Any, trainable: bool, shape: int | None = None) -> tf.Variable:
        """Adds one float32 variable, a scalar or (shape,)."""
        sizes = () if shape is None else (shape,)
        # Replicas see different batches; their mean is the range.
        variable = self.layer.add_weight(
            name=name, shape=sizes, initializer=initializer, trainable=trainable, dtype="float32", aggregation="mean"
        )
        return variable.value


class Clustering(_modules["clustering.keras.clustering_algorithm"].ClusteringAlgorithm):  # type: ignore[misc]
    """TF-MOT's clustering of a flat list of weights: same values and gradients, without its (N, K) table of distances.

    Args:
        centroids: `tf.Variable` (K,).
        aggregation: A `GradientAggregation`.
    """

    def __init__(self, centroids: tf.Variable, aggregation: Any):
        super().__init__(centroids, aggregation)
        # Ten times as fast as op by op; inside an outer jit_compile it is simply part of it.
        self._compiled = tf.function(self._clustered, jit_compile=True, autograph=False)

    def __call__(self, weight: tf.Tensor, pinned: int | None = None) -> tf.Tensor:
        """Returns the nearest centroid in place of each weight, float32 (N,).

        Args:
            weight: float32 (N,).
            pinned: Index of a centroid that is zero and stays it.
        """
        centroids = tf.convert_to_tensor(self.cluster_centroids)
        if pinned is not None:
            centroids *= 1 - tf.one_hot(pinned, centroids.shape[0], dtype=centroids.dtype)
        clustered: tf.Tensor = self._compiled(weight, centroids)
        return clustered

    def get_pulling_indices(self, weight: tf.Tensor, centroids: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the index of the nearest centroid of each weight, int32 (N,): how many borders lie below it."""
        values = tf.convert_to_tensor(self.cluster_centroids) if centroids is None else centroids  # (K,)
        order = tf.argsort(values, stable=True)
        ordered = tf.gather(values, order)
        borders = (ordered[1:] + ordered[:-1]) / 2  # (K - 1,)
        below = tf.reduce_sum(tf.cast(weight[:, None] > borders, tf.int32), axis=1)
        return tf.gather(order, below)

    def _clustered(self, weight: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
        indices = self.get_pulling_indices(tf.stop_gradient(weight), tf.stop_gradient(centroids))
        if self.cluster_gradient_aggregation == GradientAggregation.AVG:
            # TF-MOT counts with bincount, which XLA lacks.
            sizes = tf.math.unsorted_segment_sum(tf.ones_like(weight), indices, centroids.shape[0])
            centroids = self.average_centroids_gradient_by_cluster_size(centroids, tf.stop_gradient(sizes))
        return self.add_gradient_to_original_weight(tf.gather(centroids, indices), weight)


class MatrixPruning(_modules["sparsity.keras.pruning_impl"].Pruning):  # type: ignore[misc]
    """TF-MOT's magnitude pruning of one kernel, on the kernel's (in, out) matrix.

    Args:
        variable: The `tf.Variable` to prune, of any rank.
        matrix_shape: (in, out), the view in which blocks and m:n groups are meant; groups of n run along `in`.
        step: Callable that returns the int32 step as TF-MOT counts it: 1 before the first update of the weights.
        schedule: Callable from a step to (whether to update the mask, sparsity).
        block_size: (height, width) of the blocks that are zeroed together.
        block_pooling: "AVG" or "MAX", how a block's magnitudes become one.
        m_by_n: (m, n): m zeros in each n consecutive weights; None for the schedule's sparsity.
    """

    def __init__(
        self,
        variable: tf.Variable,
        matrix_shape: tuple[int, int],
        *,
        step: Any,
        schedule: Any,
        block_size: tuple[int, int],
        block_pooling: str,
        m_by_n: tuple[int, int] | None,
    ):
        self.variable, self.matrix_shape = variable, matrix_shape
        self.mask = tf.Variable(tf.ones(variable.shape, variable.dtype), trainable=False, name="mask")
        self.threshold = tf.Variable(0.0, trainable=False, dtype=variable.dtype, name="threshold")
        super().__init__(step, [(variable, self.mask, self.threshold)], schedule, block_size, block_pooling, m_by_n)

    def read_zeros(self) -> None:
        """Makes the kernel's own zeros the mask; a kernel of nothing but zeros keeps a mask of ones."""
        kept = tf.cast(tf.not_equal(self.variable, 0), self.variable.dtype)
        self.mask.assign(tf.maximum(kept, 1 - tf.reduce_max(kept)))

    def _validate_block(self) -> None:
        """TF-MOT takes blocks of rank-2 kernels only; the matrix view always has rank 2."""

    def _update_mask(self, weights: Any) -> tuple[Any, Any]:
        """Returns TF-MOT's threshold and mask of (rows, columns) magnitudes, without sorting them all."""
        sparsity = self._pruning_schedule(self._step_fn())[1]
        magnitudes = tf.abs(weights)
        kept = tf.round(tf.cast(tf.size(weights), tf.float32) * (1 - sparsity))
        threshold = _kth_largest(magnitudes, tf.cast(tf.maximum(kept, 1), tf.int32))
        return threshold, tf.cast(magnitudes >= threshold, weights.dtype)

    def _maybe_update_block_mask(self, weights: Any) -> tuple[Any, Any]:
        threshold, mask = super()._maybe_update_block_mask(tf.reshape(weights, self.matrix_shape))
        return tf.cast(threshold, weights.dtype), tf.cast(tf.reshape(mask, self.mask.shape), weights.dtype)


def _kth_largest(values: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """Returns the k-th largest of values that are not negative, of any float dtype; the largest is the first.

    TF-MOT sorts them all. As integers the bits of such floats have the same order, so the answer is put together from its
    highest bit down, by 31 counts.
    """
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.int32)

    def next_bit(place: tf.Tensor, answer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        candidate = answer + tf.bitwise.left_shift(1, place)
        enough = tf.reduce_sum(tf.cast(bits >= candidate, tf.int32)) >= k
        return place - 1, tf.where(enough, candidate, answer)

    # A loop, not 31 copies: those would take seconds to trace in each `fit`.
    _, answer = tf.while_loop(lambda place, _: place >= 0, next_bit, (tf.constant(30), tf.constant(0)))
    return tf.cast(tf.bitcast(answer, tf.float32), values.dtype)
