"""Choosing a tf.distribute strategy."""

from __future__ import annotations

import tensorflow as tf

STRATEGIES = ("auto", "one")


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Returns the strategy whose scope a model is built in.

    This version trains on one device: "one", which "auto" stands for. Strategies over several devices and machines
    are refused until Keras's results under them are made right.

    Args:
        name: "auto" or "one".

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: If `name` is anything else.

    Example:
        >>> strategy("auto").num_replicas_in_sync
        1
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"Expected a strategy out of {', '.join(STRATEGIES)}. Received: {name!r}. Use 'one': this version trains on one device."
        )
    return tf.distribute.get_strategy()
