"""Loss and accuracy of labels that are class ids, or shares of classes as augmentation makes them."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="kerasbig")
class LabelCrossentropy(keras.losses.Loss):
    """Cross entropy in nats of logits (B, C), against class ids (B,) or (B, 1), or against labels (B, C) that sum to 1.

    Example:
        >>> import numpy as np
        >>> loss, logits = LabelCrossentropy(), np.array([[0.0, 2.0]])
        >>> abs(float(loss(np.array([1]), logits)) - float(loss(np.array([[0.0, 1.0]]), logits))) < 1e-6
        True
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns (B,)."""
        if are_shares(y_true, y_pred):
            return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)
        ids = keras.ops.reshape(y_true, (-1,))
        return keras.losses.sparse_categorical_crossentropy(ids, y_pred, from_logits=True)


@keras.saving.register_keras_serializable(package="kerasbig")
class LabelAccuracy(keras.metrics.Mean):
    """Share of examples whose largest logit is their class, or the class with the largest share."""

    def __init__(self, name: str = "accuracy", dtype: Any = None):
        super().__init__(name, dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Takes ids (B,) or (B, 1), or labels (B, C), and logits (B, C)."""
        ids = keras.ops.argmax(y_true, axis=-1) if are_shares(y_true, y_pred) else keras.ops.reshape(y_true, (-1,))
        right = keras.ops.equal(keras.ops.cast(ids, "int32"), keras.ops.cast(keras.ops.argmax(y_pred, axis=-1), "int32"))
        return super().update_state(keras.ops.cast(right, "float32"), sample_weight)


def are_shares(y_true: Any, y_pred: Any) -> bool:
    """Tells labels (B, C) from class ids by their shape.

    Example:
        >>> import numpy as np
        >>> are_shares(np.zeros((4, 3)), np.zeros((4, 3))), are_shares(np.zeros((4, 1)), np.zeros((4, 3)))
        (True, False)
    """
    return len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1]
