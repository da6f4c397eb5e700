"""AdamW that is right for embeddings, and faster: Keras's own squares their gradients token by token."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("kerasbig")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW with the gradient of an embedding summed before it is squared, and the update in one kernel.

    On TensorFlow the gradient of an embedding comes as slices, one for each token of the batch. Keras 3 adds the square
    of each slice to the second moment; Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1) takes the square of
    their sum. A token that occurs twice with gradients 1 and -1 has a gradient of 0 and must not move its moments.
    The arguments are those of `keras.optimizers.AdamW`. `amsgrad` and other backends than TensorFlow take Keras's own
    arithmetic, on the summed gradient.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(3, 1)])
        >>> model.compile(AdamW(0.1, weight_decay=0.0), "mse")
        >>> history = model.fit(np.array([[1, 1]]), np.zeros((1, 2, 1)), verbose=0)
        >>> int(model.optimizer.iterations)
        1
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable.

        Args:
            gradient: Tensor of the variable's shape, or `tf.IndexedSlices` of its rows.
            variable: The variable.
            learning_rate: Scalar.
        """
        if isinstance(gradient, tf.IndexedSlices):
            gradient = tf.convert_to_tensor(gradient)
        if keras.backend.backend() != "tensorflow" or self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        weight, momentum, velocity = (_tf_variable(v) for v in (variable, self._momentums[index], self._velocities[index]))
        step = tf.cast(_tf_variable(self.iterations) + 1, weight.dtype)
        beta_1, beta_2 = (tf.cast(beta, weight.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, weight.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, weight.dtype),
            grad=tf.cast(gradient, weight.dtype),
        )


def _tf_variable(variable: Any) -> Any:
    """Returns the `tf.Variable` of this device: a mirrored one gives its own copy."""
    inner = variable.value if isinstance(variable, keras.Variable) else variable
    return inner._get() if hasattr(inner, "_get") else inner
