"""TF-MOT's quantizers as Keras 3 layers: 8-bit rounding in the forward pass, straight through in the backward pass.

Shapes: I and O are the sizes of a kernel's matrix.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.compress._tfmot import FixedQuantizer, LastValueQuantizer, MovingAverageQuantizer, RangeVariables, moving_average_quantize

# An embedding row's size is kept in eighths of an octave, as `kerasbig.export` stores it.
STEPS_AN_OCTAVE = 8
# TF-MOT's own 0.999 needs thousands of steps to follow: outputs that outgrow their range in a short fine-tune stop learning.
DECAY = 0.99
_LOG_2 = float(np.log(2.0))


class ActivationQuantizer(keras.layers.Layer):
    """Rounds a tensor to 8 bits over a range that follows its batches: TF-MOT's `MovingAverageQuantizer`.

    Args:
        name: "input" or "output".
        decay: Of the moving average of the batches' extremes.
    """

    def __init__(self, name: str, decay: float = DECAY):
        super().__init__(name=f"{name}_quantizer", dtype="float32", autocast=False)
        self._decay = decay
        MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False).build(None, name, RangeVariables(self))
        self._seen: tuple[Any, ...] | None = None
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Rounds, and moves the range in training."""
        if self._seen is not None:
            self._seen += ((float(tf.reduce_min(inputs)), float(tf.reduce_max(inputs))),)
            return inputs
        return moving_average_quantize(inputs, **_range_variables(self), ema_decay=self._decay, is_training=bool(training))

    def observe(self) -> None:
        """From now on tensors pass as they are, and their extremes are noted."""
        self._seen = ()

    def settle(self) -> None:
        """Takes the means of the extremes that were noted as the range; it always holds zero, as int8 needs."""
        low, high = np.mean(self._seen, axis=0) if self._seen else self.range()
        self.set_range(min(float(low), 0.0), max(float(high), 0.0))

    def stop(self) -> None:
        """Ends the observation."""
        self._seen = None

    def range(self) -> list[float]:
        """Returns [minimum, maximum]."""
        return [float(keras.ops.convert_to_numpy(weight)) for weight in self.weights]

    def set_range(self, low: float, high: float) -> None:
        """Sets the range."""
        for weight, value in zip(self.weights, (low, high), strict=True):
            weight.assign(value)


class WeightQuantizer(keras.layers.Layer):
    """Rounds a kernel to symmetric 8 bits over its own range: TF-MOT's `LastValueQuantizer`.

    Attributes:
        per_channel: Whether each output has a range of its own.
    """

    def __init__(self, channels: int | None):
        super().__init__(name="weight_quantizer", dtype="float32", autocast=False)
        self.per_channel = channels is not None
        self._quantizer = LastValueQuantizer(8, per_axis=self.per_channel, symmetric=True, narrow_range=True)
        self._quantizer.build((channels,), "weight", RangeVariables(self))
        self._unit = FixedQuantizer(8, -1.0, 1.0, narrow_range=True)
        self.built = True

    def start(self, weight: Any) -> None:
        """Sets the range to that of a kernel."""
        self(tf.convert_to_tensor(weight), training=True)

    def call(self, weight: tf.Tensor, training: bool | None = None, values: tf.Tensor | None = None) -> tf.Tensor:
        """Rounds a kernel of any shape whose last axes are its outputs.

        Args:
            weight: The kernel, or rows of a clustered table.
            training: Whether the range follows the kernel.
            values: The centroids of a clustered kernel: rows alone do not show its range.
        """
        if not self.per_channel:
            if values is not None:
                self._quantizer(tf.stop_gradient(values), bool(training), _range_variables(self))
                training = False
            return self._quantizer(weight, bool(training), _range_variables(self))
        matrix = tf.reshape(weight, (-1, self.weights[0].shape[0]))  # (I, O)
        # TF-MOT's own kernel for channels is ten times slower than this, which gives the same values.
        extremes = tf.stack([tf.reduce_min(matrix, axis=0), tf.reduce_max(matrix, axis=0)])  # (2, O)
        self._quantizer(tf.stop_gradient(extremes), bool(training), _range_variables(self))
        largest = tf.stop_gradient(tf.convert_to_tensor(self.weights[1]._value))  # (O,)
        size = tf.where(largest > 0, largest, 1.0)
        return tf.reshape(self._unit(matrix / size, False, None) * size, tf.shape(weight))


class RowQuantizer(keras.layers.Layer):
    """Rounds each row of an embedding table to 8 bits of the row's own size: frequent words have small rows."""

    per_channel = True

    def __init__(self) -> None:
        super().__init__(name="weight_quantizer", dtype="float32", autocast=False)
        self._unit = FixedQuantizer(8, -1.0, 1.0, narrow_range=True)
        self.built = True

    def start(self, weight: Any) -> None:
        """Does nothing: a row's range is its own."""

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Rounds rows (..., D)."""
        largest = tf.maximum(tf.reduce_max(tf.abs(rows), axis=-1, keepdims=True), 1e-12)
        eighths = tf.math.ceil(tf.math.log(largest) * (STEPS_AN_OCTAVE / _LOG_2))
        size = tf.stop_gradient(tf.exp(eighths * (_LOG_2 / STEPS_AN_OCTAVE)))
        return self._unit(rows / size, False, None) * size


def _range_variables(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the range as TF-MOT's quantizers take it: minimum first, as they made it."""
    minimum, maximum = layer.weights
    return {"min_var": minimum._value, "max_var": maximum._value}
