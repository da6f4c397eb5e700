"""Layers whose kernel passes through steps before it is used: what clustering and quantization-aware training run on.

A built layer gets a sublayer, `compression`, that holds the steps and their variables, and a class derived from its own
that asks it for the kernel. Nothing else of the model changes; `kerasbig.compress.strip` undoes it. Shapes: B examples,
I and O the two sizes of a kernel's matrix.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.compress.kernels import Kernel, kernel_variable, weight_owners


class Compression(keras.layers.Layer):
    """What one layer's kernel, input and output pass through, all in float32.

    Attributes:
        plain_class: The layer's class before.
        matrix_shape: (in, out) of its kernel.
        keep_zeros: Whether weights that are zero stay zero.
        clusters: From flat weights to their centroids, or None.
        weight_quantizer: From a kernel to what int8 makes of it, or None.
        input_quantizer: The same for the layer's input, or None.
        output_quantizer: The same for its output, before the activation, or None.
    """

    def __init__(self, kernel: Kernel):
        super().__init__(name="compression", dtype="float32", autocast=False)
        self.plain_class = type(kernel.layer)
        self.matrix_shape = kernel.matrix_shape
        self.keep_zeros = False
        self.clusters: Any = None
        self.weight_quantizer: Any = None
        self.input_quantizer: Any = None
        self.output_quantizer: Any = None
        self.built = True

    def call(self, weight: tf.Tensor) -> tf.Tensor:
        """Takes a kernel, or rows of an embedding table, through the steps, in this order."""
        value = weight
        if self.keep_zeros:
            value = value * tf.stop_gradient(tf.cast(tf.not_equal(value, 0), value.dtype))
        if self.clusters is not None:
            value = self.clusters(value)
        if self.weight_quantizer is not None:
            more = {} if self.clusters is None else {"values": self.clusters.centroids._value}
            value = self.weight_quantizer(value, **more)
        return value

    # `kerasbig.export` knows these two by name alone, since it stands beside this package and not on it.

    def finished_kernel(self, layer: keras.layers.Layer) -> tuple[keras.Variable, np.ndarray]:
        """Returns a layer's variable and what `strip` would write into it."""
        variable = kernel_variable(layer)
        return variable, self(_raw(variable), training=False).numpy()

    def repeat_for_litert(self, layer: keras.layers.Layer) -> None:
        """Puts the same quantizers on a plain copy of the layer, in the form that LiteRT turns into int8 kernels."""
        from kerasbig.compress.litert_form import put_on  # it needs this module

        put_on(layer, self)


class _Rewired:
    """Mixed into each rewired layer: its class exists in this process alone, so no file could name it."""

    path: str

    def get_config(self) -> dict[str, Any]:
        """Refuses: what a file kept would not load again."""
        raise ValueError(
            f"Expected a plain model to save. Received: {self.path!r}, which is being clustered or quantized. "
            "Call kerasbig.compress.strip(model) first; to go on training later, keep the weights with model.save_weights."
        )


class _RewiredMatmul(_Rewired):
    """Mixed into Dense, EinsumDense and convolutions: their `call` asks for `kernel` and applies `activation`."""

    compression: Compression
    _kernel: keras.Variable

    @property
    def kernel(self) -> tf.Tensor:
        """The kernel after all steps, in the dtype of the computation."""
        return tf.cast(self.compression(_raw(self._kernel)), self._kernel.dtype)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Quantizes the input, if asked for; the output is quantized by `_QuantizedActivation`."""
        if self.compression.input_quantizer is not None:
            inputs = tf.cast(self.compression.input_quantizer(tf.cast(inputs, "float32")), inputs.dtype)
        return super().call(inputs)  # type: ignore[misc]


class _RewiredEmbedding(_Rewired):
    """Mixed into Embedding: the steps see the rows that are looked up, which is the same and much less work.

    One thing differs: the "average" of a centroid's gradient is over the weights that were looked up, not over the table.
    """

    compression: Compression
    compute_dtype: str
    _embeddings: keras.Variable

    @property
    def embeddings(self) -> tf.Tensor:
        """The whole table after all steps, for a tied output layer."""
        return tf.cast(self.compression(_raw(self._embeddings)), self._embeddings.dtype)

    def call(self, inputs: tf.Tensor, reverse: bool = False) -> tf.Tensor:
        """Looks token ids up."""
        if reverse:
            return super().call(inputs, reverse=True)  # type: ignore[misc]
        rows = tf.gather(_raw(self._embeddings), tf.cast(inputs, "int32"))
        return tf.cast(self.compression(rows), self.compute_dtype)


class _QuantizedActivation:
    """A layer's activation with the quantizer of its output before it, as int8 kernels round before they activate."""

    def __init__(self, quantizer: Any, activation: Any):
        self.quantizer, self.activation = quantizer, activation

    def __call__(self, outputs: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(self.quantizer(tf.cast(outputs, "float32")), outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)


def compression_of(layer: keras.layers.Layer) -> Compression | None:
    """Returns what `rewire` put on a layer, or None."""
    found = getattr(layer, "compression", None)
    return found if isinstance(found, Compression) else None


def rewired_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a model that are being clustered or quantized, in the order of its weights."""
    return [layer for layer in weight_owners(model) if compression_of(layer) is not None]


def rewire(kernel: Kernel) -> Compression:
    """Gives a layer its `compression`, empty at first, or returns the one that it has."""
    layer = kernel.layer
    existing = compression_of(layer)
    if existing is not None:
        return existing
    compression = Compression(kernel)
    # A built layer is locked against new sublayers; Keras's own LoRA opens and closes it in the same way.
    layer._tracker.unlock()
    layer.compression = compression
    layer._tracker.lock()
    mixin = _RewiredEmbedding if isinstance(layer, keras.layers.Embedding) else _RewiredMatmul
    layer.__class__ = type(f"Compressed{type(layer).__name__}", (mixin, type(layer)), {})
    return compression


def put_clusters(kernel: Kernel, clusters: keras.layers.Layer) -> None:
    """Clusters a layer's kernel; in a frozen layer the centroids are frozen too."""
    compression = rewire(kernel)
    compression.clusters = clusters
    # Each by itself: Keras passes on only what changes.
    clusters.trainable = compression.trainable = kernel.layer.trainable


def quantize_output(layer: keras.layers.Layer) -> None:
    """Puts the output quantizer of a rewired layer before its activation."""
    layer.activation = _QuantizedActivation(layer.compression.output_quantizer, layer.activation)


def unwire(layer: keras.layers.Layer) -> None:
    """Writes the kernel after all steps into the layer and gives it its own class back."""
    compression: Compression = layer.compression
    variable, value = compression.finished_kernel(layer)
    variable.assign(value)
    activation = getattr(layer, "activation", None)
    if isinstance(activation, _QuantizedActivation):
        layer.activation = activation.activation
    layer.__class__ = compression.plain_class
    layer._tracker.unlock()
    layer._tracker.untrack(compression)
    del layer.compression
    layer._tracker.lock()


def forget_traces(model: keras.Model) -> None:
    """Makes Keras trace the changed layers anew, and asks for a new `compile`: the optimizer knew other variables."""
    for part in (model, *(layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, keras.Model))):
        part.train_function = part.test_function = part.predict_function = None
        part.compiled = False
        if hasattr(part, "generate_function"):  # KerasHub's
            part.generate_function = None


def _raw(variable: keras.Variable) -> tf.Tensor:
    """Returns a kernel in float32: the public `value` is cast to the precision of the computation."""
    return tf.convert_to_tensor(variable._value)
