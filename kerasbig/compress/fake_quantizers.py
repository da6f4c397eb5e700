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
# A kernel's largest weight after training may use a little less than all 127 steps of its grid.
FEWEST_STEPS = 96
# TF-MOT's own 0.999 needs thousands of steps to follow: outputs that outgrow their range in a short fine-tune stop learning.
DECAY = 0.99
_LOG_2 = float(np.log(2.0))


class ActivationQuantizer(keras.layers.Layer):
    """Rounds a tensor to 8 bits over a range that follows its batches: TF-MOT's `MovingAverageQuantizer`.

    A few channels of a transformer's outputs are a hundred times as large as the others, which one range would round to
    nothing. So each channel may have a size that it is divided by before the rounding and multiplied by after it; the
    exporter folds the division into the kernel. Without a calibration all sizes are 1, as in TF-MOT.

    Args:
        name: "input" or "output".
        channels: Shape of the channels that have sizes of their own, (O,) or (heads, width); None for none.
        decay: Of the moving average of the batches' extremes.
    """

    def __init__(self, name: str, channels: tuple[int, ...] | None = None, decay: float = DECAY):
        super().__init__(name=f"{name}_quantizer", dtype="float32", autocast=False)
        self._decay = decay
        MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False).build(None, name, RangeVariables(self))
        self._sizes = None
        if channels is not None:
            self._sizes = self.add_weight(name="sizes", shape=channels, initializer="ones", trainable=False, autocast=False)
        self._seen: tuple[Any, ...] | None = None
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Rounds, and moves the range in training."""
        if self._seen is not None:
            axes = list(range(len(inputs.shape) - (0 if self._sizes is None else len(self._sizes.shape))))
            self._seen += ((tf.reduce_min(inputs, axes).numpy(), tf.reduce_max(inputs, axes).numpy()),)
            return inputs
        sizes = 1.0 if self._sizes is None else tf.convert_to_tensor(self._sizes._value)
        return moving_average_quantize(inputs / sizes, **_range_variables(self), ema_decay=self._decay, is_training=bool(training)) * sizes

    def observe(self) -> None:
        """From now on tensors pass as they are, and their extremes are noted."""
        self._seen = ()

    def settle(self) -> None:
        """Takes the means of the extremes that were noted; the range always holds zero, as int8 needs.

        Where nothing but zeros was seen, which is no range, it stays as it is.
        """
        low, high = (np.mean(values, axis=0) for values in zip(*self._seen, strict=True)) if self._seen else (np.zeros(()),) * 2
        if not (low.any() or high.any()):
            return
        if self._sizes is not None:
            largest = np.maximum(np.abs(low), np.abs(high))
            # A channel that is hardly ever used keeps a size that it can outgrow a little.
            sizes = np.maximum(largest, 1e-2 * largest.max() + 1e-6)
            self._sizes.assign(sizes)
            low, high = low / sizes, high / sizes
        self.set_range(min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0))

    def stop(self) -> None:
        """Ends the observation."""
        self._seen = None

    def range(self) -> list[float]:
        """Returns [minimum, maximum], of channels divided by their sizes."""
        return [float(keras.ops.convert_to_numpy(weight)) for weight in self.weights[:2]]

    def set_range(self, low: float, high: float) -> None:
        """Sets the range."""
        for weight, value in zip(self.weights[:2], (low, high), strict=True):
            weight.assign(value)

    def sizes(self) -> list[float] | None:
        """Returns the sizes of all channels; None without."""
        return None if self._sizes is None else [float(value) for value in self._sizes.numpy().ravel()]

    def set_sizes(self, sizes: list[float]) -> None:
        """Sets the sizes of all channels."""
        if self._sizes is not None:
            self._sizes.assign(np.reshape(np.asarray(sizes, "float32"), self._sizes.shape))


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

    def find_grid(self, weight: np.ndarray) -> None:
        """Sets the range to that of the grid a kernel was rounded to before, where there is one.

        The range is that of the last training step, so the largest weight of a stripped kernel need not lie at its end.
        """
        matrix = weight.reshape((-1, *self.weights[1].shape)) if self.per_channel else weight.reshape(-1, 1)  # (I, O)
        largest = np.abs(matrix).max(axis=0).astype("float64")
        ends, found = largest.copy(), largest == 0
        for steps in range(127, FEWEST_STEPS - 1, -1):
            step = np.where(largest > 0, largest, 1.0) / steps
            whole = np.abs(matrix / step - np.round(matrix / step)).max(axis=0) < 1e-3
            ends[whole & ~found] = (127 * step)[whole & ~found]
            found |= whole
        for variable, sign in zip(self.weights[:2], (-1, 1), strict=True):
            variable.assign(np.reshape(sign * ends, variable.shape))

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

    def find_grid(self, weight: Any) -> None:
        """Does nothing: a rounded row's size is the same again."""

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Rounds rows (..., D)."""
        largest = tf.maximum(tf.reduce_max(tf.abs(rows), axis=-1, keepdims=True), 1e-12)
        # What rounds to the largest step may be half a step larger: only so has a rounded row the same size again.
        eighths = tf.math.ceil(tf.math.log(largest * (127.0 / 127.5)) * (STEPS_AN_OCTAVE / _LOG_2))
        size = tf.stop_gradient(tf.exp(eighths * (_LOG_2 / STEPS_AN_OCTAVE)))
        return self._unit(rows / size, False, None) * size


def _range_variables(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the range as TF-MOT's quantizers take it: minimum first, as they made it."""
    minimum, maximum = layer.weights[:2]
    return {"min_var": minimum._value, "max_var": maximum._value}
