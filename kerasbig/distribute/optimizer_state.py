"""The variables of an optimizer, such as Adam's averages, made before the first step."""

from __future__ import annotations

import keras


def build_optimizer(model: keras.Model) -> None:
    """Makes the variables of a compiled model's optimizer, unless they are there.

    Left to the first step, they are made while it is traced, and TensorFlow then traces it once more.

    Args:
        model: A built and compiled model.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        >>> build_optimizer(model)
        >>> [tuple(variable.shape) for variable in model.optimizer.variables]  # steps, learning rate, two averages
        [(), (), (2, 1), (1,)]
    """
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
