"""Quantized layers in the form that LiteRT's converter turns into int8 kernels.

With a range for each output a matrix product does not convert: the converter transposes the kernel and refuses the
quantized axis that moved. A convolution of width 1 is the same product and converts. A kernel with one range whose outputs have
sizes is written as one with a range for each output: the codes are those of its one grid. Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.compress.kernels import contracted_axes, matrix_shape


def put_on(layer: keras.layers.Layer, compression: Any) -> None:
    """Makes a plain float32 layer compute with the quantizers of its original.

    Args:
        layer: A copy of a quantized layer that holds the finished kernel; it is changed in place and for good.
        compression: The `Compression` of the original.
    """
    quantizer = compression.weight_quantizer
    if quantizer is None or isinstance(layer, keras.layers.Embedding):
        return  # a table of finished rows is what the exporter's own int8 reproduces
    layer.ranges = {
        "input": compression.input_quantizer.range(),
        "output": compression.output_quantizer.range(),
        "weight": [weight.numpy() for weight in quantizer.weights],
    }
    layer.output_sizes = compression.output_quantizer.sizes()
    convolution = not isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)
    mixin = _Int8Convolution if convolution else _Int8Product
    layer.__class__ = type(f"Int8{type(layer).__name__}", (mixin, type(layer)), {})


class _Int8Layer:
    """What both forms share."""

    ranges: dict[str, Any]
    output_sizes: list[float] | None
    bias: Any
    activation: Any
    _kernel: keras.Variable

    def rounded(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """Rounds an input or an output."""
        low, high = self.ranges[name]
        return tf.quantization.fake_quant_with_min_max_args(tensor, min=low, max=high)

    @property
    def each_output(self) -> bool:
        """Whether the kernel is written with a range for each output."""
        return self.output_sizes is not None or bool(self.ranges["weight"][0].shape)

    def rounded_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """Rounds a kernel whose last axis is its outputs, where each has a range; outputs leave it divided by their sizes."""
        low, high = self.ranges["weight"]
        if not self.each_output:
            return tf.quantization.fake_quant_with_min_max_vars(kernel, low, high, narrow_range=True)
        sizes = np.ones(kernel.shape[-1], "float32") if self.output_sizes is None else np.asarray(self.output_sizes, "float32")
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel / sizes, low / sizes, high / sizes, narrow_range=True)

    def finished(self, outputs: tf.Tensor) -> tf.Tensor:
        """Adds the bias, rounds, and gives channels (last axis) their sizes back."""
        bias, sizes = self.bias, 1.0 if self.output_sizes is None else np.asarray(self.output_sizes, "float32")
        if bias is not None:
            outputs = tf.nn.bias_add(outputs, tf.reshape(tf.convert_to_tensor(bias), [-1]) / sizes)
        outputs = self.rounded(outputs, "output")
        return outputs if self.output_sizes is None else outputs * sizes


class _Int8Product(_Int8Layer):
    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Computes the layer as int8 would."""
        size_in, size_out = matrix_shape(self)
        kernel = tf.convert_to_tensor(self._kernel)
        axes_in = contracted_axes(self)
        inputs = self.rounded(inputs, "input")
        if self.each_output:
            pixels = tf.reshape(inputs, (1, 1, -1, size_in))
            outputs = tf.nn.conv2d(pixels, self.rounded_kernel(tf.reshape(kernel, (1, 1, size_in, size_out))), 1, "VALID")
        else:
            outputs = tf.matmul(tf.reshape(inputs, (-1, size_in)), self.rounded_kernel(tf.reshape(kernel, (size_in, size_out))))
        outputs = self.finished(outputs)
        outputs = tf.reshape(outputs, _leading(inputs, axes_in) + list(kernel.shape)[axes_in:])
        return outputs if self.activation is None else self.activation(outputs)


class _Int8Convolution(_Int8Layer):
    convolution_op: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Computes the convolution as int8 would."""
        kernel = self.rounded_kernel(tf.convert_to_tensor(self._kernel))
        outputs = self.finished(self.convolution_op(self.rounded(inputs, "input"), kernel))
        return outputs if self.activation is None else self.activation(outputs)


def _leading(tensor: tf.Tensor, axes: int) -> list[Any]:
    """Returns the sizes before the last axes; -1 for the one that is open, so that LiteRT knows the shape in advance."""
    sizes = tensor.shape[: len(tensor.shape) - axes].as_list()
    if sizes.count(None) <= 1:
        return [-1 if size is None else size for size in sizes]
    dynamic = tf.shape(tensor)
    return [dynamic[index] if size is None else size for index, size in enumerate(sizes)]
