"""What cannot be made right on several replicas is refused by name, before training starts."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_WRONG_STRATEGIES = {
    tf.distribute.ParameterServerStrategy: "Keras 3 cannot fit under it",
    tf.distribute.experimental.ParameterServerStrategy: "Keras 3 cannot fit under it",
    tf.distribute.experimental.CentralStorageStrategy: "Keras 3 reports wrong metrics under it",
}
_EXACT_REDUCTIONS = ("sum_over_batch_size", "mean")


def check_strategy(strategy: tf.distribute.Strategy) -> None:
    """Refuses strategies under which Keras fails or gives wrong results.

    Args:
        strategy: Any `tf.distribute.Strategy`.

    Raises:
        ValueError: For parameter servers, central storage, and while a `keras.distribution` is set.
    """
    for kind, reason in _WRONG_STRATEGIES.items():
        if isinstance(strategy, kind):
            raise ValueError(
                f"Expected MirroredStrategy, MultiWorkerMirroredStrategy or TPUStrategy. Received: {type(strategy).__name__}; {reason}. "
                "Use kerasbig.distribute.strategy('mirrored') on one machine, 'multi_worker' on several."
            )
    if keras.backend.backend() == "tensorflow" and keras.distribution.distribution() is not None:
        raise ValueError(
            f"Expected no keras.distribution on the TensorFlow backend, where it does nothing. Received: "
            f"{type(keras.distribution.distribution()).__name__}. Call keras.distribution.set_distribution(None) and use "
            "kerasbig.distribute.strategy('mirrored'), or kerasbig.distribute.model_parallel with KERAS_BACKEND=jax."
        )


def check_training(model: Any) -> None:
    """Refuses what would train wrongly on several replicas.

    Args:
        model: A compiled model.

    Raises:
        ValueError: For a loss that is not a mean over examples, loss scaling, and an optimizer made outside the scope.
    """
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in _EXACT_REDUCTIONS:
            raise ValueError(
                f"Expected a loss with reduction='sum_over_batch_size' on several replicas. Received: {type(loss).__name__} with "
                f"reduction={reduction!r}, which each replica would take of its own examples. Compile with 'sum_over_batch_size'."
            )
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Expected an optimizer without loss scaling on several replicas. Received: LossScaleOptimizer, which mixed_float16 brings. "
            "Use the dtype policy 'mixed_bfloat16', or compile with auto_scale_loss=False."
        )
    if model.optimizer._distribution_strategy is not model.distribute_strategy:
        raise ValueError(
            f"Expected an optimizer that was made inside the scope of the model's strategy. Received: {type(model.optimizer).__name__} "
            "made outside of it. Create the optimizer and compile inside `with strategy.scope():`."
        )
