"""Weight clustering while `fit` runs: TF-MOT's centroids and algorithm on the kernels of a Keras 3 model."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.compress._tfmot import CentroidInitialization, Clustering, GradientAggregation, centroid_initializer
from kerasbig.compress.kernels import Kernel, Layers, select_kernels
from kerasbig.compress.rewiring import compression_of, forget_traces, put_clusters

# From this share of zeros on a kernel counts as pruned, and clustering keeps its zeros.
PRUNED = 0.25
# Lloyd's steps after TF-MOT's initialization: kmeans++ alone gives seeds, not means.
LLOYD_STEPS = 10
# A kernel with at most so many values, each shared by a few weights, counts as clustered.
MOST_CLUSTERS = 256


class Clusters(keras.layers.Layer):
    """Gives each weight the value of its nearest centroid, with TF-MOT's gradients for both.

    Attributes:
        centroids: float32 (K,), trained with the model.
        keeps_zeros: Whether one centroid is zero for good.
    """

    def __init__(self, centroids: np.ndarray, *, aggregation: Any = GradientAggregation.AVG, keeps_zeros: bool = False):
        super().__init__(name="clusters", dtype="float32", autocast=False)
        values = np.sort(np.asarray(centroids, "float32"))
        self.centroids = self.add_weight(
            name="centroids", shape=values.shape, initializer=lambda shape, dtype=None: tf.constant(values), autocast=False
        )
        self.keeps_zeros = keeps_zeros
        self._clustering = Clustering(self.centroids._value, aggregation)
        self.built = True

    def call(self, weight: tf.Tensor) -> tf.Tensor:
        """Clusters a kernel of any shape."""
        flat = tf.reshape(weight, [-1])
        if not self.keeps_zeros:
            return tf.reshape(self._clustering(flat), tf.shape(weight))
        kept = tf.stop_gradient(tf.cast(tf.not_equal(flat, 0), flat.dtype))
        # Without a gradient a zero stays one; weights that are loaded may have it in another place.
        zero = tf.argmin(tf.abs(tf.convert_to_tensor(self.centroids._value)))
        return tf.reshape(self._clustering(flat, pinned=zero) * kept, tf.shape(weight))


def cluster_weights(
    model: keras.Model,
    number_of_clusters: int | Mapping[str, int] = 16,
    *,
    layers: Layers | None = None,
    initialization: str = "kmeans++",
    aggregation: str = "average",
    preserve_sparsity: bool | None = None,
) -> keras.Model:
    """Lets the weights of each kernel share a few values, which train on with `fit`.

    The model is changed in place: compile it, fit it a little further, and take the values into its kernels with
    `kerasbig.compress.strip`. A clustered kernel costs log2(number of clusters) bits a weight in the file that
    `kb.export.hdf5` writes, and less where zeros are kept.

    Args:
        model: A built Keras 3 model, KerasHub's included, on TensorFlow. Start from a trained one.
        number_of_clusters: Values a kernel, at least 2; or path patterns and a number for each, the first that fits
            a layer's path counting, such as `{"*/logits": 64, "*": 16}`.
        layers: Which layers; None for every Dense and EinsumDense, as in `Pruning`.
        initialization: Where centroids begin: "kmeans++", "linear", "density" or "random", TF-MOT's own, each refined
            by ten steps of Lloyd's algorithm; "random" draws from TensorFlow's seed.
        aggregation: "average" or "sum" of its weights' gradients for a centroid. With the sum, clusters collapse.
        preserve_sparsity: Whether zeros stay zero, with a centroid of their own. None: where a quarter or more of a
            kernel is zero.

    Returns:
        The same model, to be compiled.

    Raises:
        ValueError: If an argument is out of range, the model is not built, no kernel is left to cluster, a kernel has
            fewer weights than clusters, or a kernel is already being clustered or quantized.
        RuntimeError: On another Keras backend than TensorFlow.

    Example:
        >>> import keras, numpy as np
        >>> import kerasbig as kb
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(4)])
        >>> model = kb.compress.strip(kb.compress.cluster_weights(model, 4))
        >>> len(np.unique(model.layers[0].get_weights()[0]))
        4

    Source: TensorFlow Model Optimization, `clustering/keras`; Han et al., 2016, arXiv:1510.00149, section 3.
    """
    _check_arguments(number_of_clusters, initialization, aggregation)
    taken, _ = select_kernels(model, layers)
    counts = {kernel.path: _count(number_of_clusters, kernel) for kernel in taken}
    for kernel in taken:
        if compression_of(kernel.layer) is not None:
            raise ValueError(
                f"Expected kernels that are not being compressed. Received: {kernel.path!r}, which is. "
                "Call kerasbig.compress.strip(model) first, or name other layers with layers=."
            )
    with model.distribute_strategy.scope():
        for kernel in taken:
            values = kernel.variable.numpy()
            keeps = bool(np.mean(values == 0) >= PRUNED) if preserve_sparsity is None else preserve_sparsity
            centroids = initial_centroids(values, counts[kernel.path], initialization, keep_zeros=keeps)
            clusters = Clusters(centroids, aggregation=_AGGREGATIONS[aggregation], keeps_zeros=keeps)
            put_clusters(kernel, clusters)
    forget_traces(model)
    return model


def initial_centroids(
    weights: np.ndarray, number_of_clusters: int, initialization: str = "kmeans++", *, keep_zeros: bool = False, steps: int = LLOYD_STEPS
) -> np.ndarray:
    """Finds where the centroids of a kernel begin.

    Args:
        weights: A kernel of any shape.
        number_of_clusters: How many, at least 2.
        initialization: As in `cluster_weights`.
        keep_zeros: Whether one centroid is zero and the others leave the zeros out.
        steps: Steps of Lloyd's algorithm after TF-MOT's initialization.

    Returns:
        float32 (K,), sorted, without doubles: fewer than `number_of_clusters` if the weights have fewer values.

    Example:
        >>> [round(float(value), 2) for value in initial_centroids(np.array([0.0, 0.1, 1.0, 1.1]), 2)]
        [0.05, 1.05]
    """
    values = np.asarray(weights, "float32").ravel()
    found = centroid_initializer(_INITIALIZATIONS[initialization])(
        tf.constant(values), number_of_clusters, False, "channels_last", keep_zeros
    ).get_cluster_centroids()
    centroids = np.unique(np.asarray(found, "float32"))
    free = values[values != 0] if keep_zeros else values
    for _ in range(steps):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, free)
        sizes = np.bincount(nearest, minlength=len(centroids))
        means = np.bincount(nearest, weights=free, minlength=len(centroids)) / np.maximum(sizes, 1)
        moved = np.where((sizes > 0) & ~(keep_zeros & (centroids == 0)), means, centroids).astype("float32")
        centroids = np.unique(moved)
    return centroids


def shared_values(weights: np.ndarray) -> np.ndarray | None:
    """Returns the values of a clustered kernel, sorted; None if it is not clustered.

    Example:
        >>> shared_values(np.array([[1.0, 2.0]] * 8, "float32")).tolist(), shared_values(np.arange(99.0))
        ([1.0, 2.0], None)
    """
    few = min(MOST_CLUSTERS, weights.size // 4)
    flat = weights.ravel()
    # The first few thousand weights of any other kernel tell it apart without sorting them all.
    if len(np.unique(flat[:4096])) > few:
        return None
    values = np.unique(flat)
    return values if len(values) <= few else None


_INITIALIZATIONS = {
    "kmeans++": CentroidInitialization.KMEANS_PLUS_PLUS,
    "linear": CentroidInitialization.LINEAR,
    "density": CentroidInitialization.DENSITY_BASED,
    "random": CentroidInitialization.RANDOM,
}
_AGGREGATIONS = {"average": GradientAggregation.AVG, "sum": GradientAggregation.SUM}


def _count(number_of_clusters: int | Mapping[str, int], kernel: Kernel) -> int:
    if isinstance(number_of_clusters, int):
        count = number_of_clusters
    else:
        fitting = [count for pattern, count in number_of_clusters.items() if fnmatch.fnmatchcase(kernel.path, pattern)]
        if not fitting:
            raise ValueError(
                f"Expected number_of_clusters to have a pattern for each layer. Received: {dict(number_of_clusters)}, none of which "
                f"fits {kernel.path!r}. Add '*', or leave the layer out with layers=."
            )
        count = fitting[0]
    weights = int(np.prod(kernel.variable.shape))
    if count > weights:
        raise ValueError(f"Expected fewer clusters than weights. Received: {count} clusters for the {weights} weights of {kernel.path!r}.")
    return count


def _check_arguments(number_of_clusters: Any, initialization: str, aggregation: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Expected Keras on TensorFlow, which TF-MOT's clustering is written for. Received: backend={keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow for this step; the clustered weights load on any backend."
        )
    counts = list(number_of_clusters.values()) if isinstance(number_of_clusters, Mapping) else [number_of_clusters]
    if not counts or any(type(count) is not int or count < 2 for count in counts):
        raise ValueError(f"Expected number_of_clusters as whole numbers of at least 2. Received: {number_of_clusters!r}")
    for name, value, known in (("initialization", initialization, _INITIALIZATIONS), ("aggregation", aggregation, _AGGREGATIONS)):
        if value not in known:
            raise ValueError(f"Expected {name} out of {', '.join(known)}. Received: {name}={value!r}")
