"""From logits to the next token: penalty, temperature, top-k, top-p, draw.

No sorting: a sort of the vocabulary costs more than a step of a small model. The least value that stays is found by
halving the range of floats instead, which is exact after 32 halvings. Values equal to it stay too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_LEAST, _MOST = -(2**31), 2**31 - 1


def choose(logits: tf.Tensor, draws: tf.Tensor, options: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the next token of each row.

    Args:
        logits: float32 (B, V), after the penalty.
        draws: float32 (B,), from 0 to below 1, what chance says.
        options: Scalars: `temperature` (0 takes the likeliest token), `top_k` (0 is all) and `top_p`.

    Example:
        >>> options = {"temperature": tf.constant(1.0), "top_k": tf.constant(2), "top_p": tf.constant(1.0)}
        >>> choose(tf.constant([[3.0, 1.0, 3.1]]), tf.constant([0.7]), options).numpy().tolist()
        [2]
    """
    return tf.cond(
        options["temperature"] > 0.0,
        lambda: _draw(weights_of(logits, options), draws),
        lambda: tf.argmax(logits, axis=-1, output_type=tf.int32),
    )


def weights_of(logits: tf.Tensor, options: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns (B, V) chances that need not sum to 1: temperature, then top-k, then top-p of what that leaves.

    Example:
        >>> options = {"temperature": tf.constant(1.0), "top_k": tf.constant(0), "top_p": tf.constant(0.6)}
        >>> [f"{weight:.2f}" for weight in weights_of(tf.math.log([[0.5, 0.3, 0.2]]), options).numpy()[0]]
        ['1.00', '0.60', '0.00']
    """
    scaled = (logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / options["temperature"]
    keys, weights = _ordered(scaled), tf.exp(scaled)

    def likeliest(count: tf.Tensor) -> tf.Tensor:
        return tf.where(keys >= _threshold(keys, tf.ones_like(weights), tf.cast(count, tf.float32)), weights, 0.0)

    def nucleus(weights: tf.Tensor) -> tf.Tensor:
        target = options["top_p"] * tf.reduce_sum(weights, axis=-1, keepdims=True)
        return tf.where(keys >= _threshold(keys, weights, target), weights, 0.0)

    weights = tf.cond(options["top_k"] > 0, lambda: likeliest(options["top_k"]), lambda: weights)
    return tf.cond(options["top_p"] < 1.0, lambda: nucleus(weights), lambda: weights)


def penalized(logits: tf.Tensor, tokens: tf.Tensor, written: tf.Tensor, penalty: tf.Tensor, ends: Sequence[int]) -> tf.Tensor:
    """Makes tokens that stand in a text less likely to come again; tokens that end it stay as they are.

    Args:
        logits: float32 (B, V).
        tokens: int32 (B, S).
        written: bool (B, S), which of them are text.
        penalty: float32 (), 1 for none.
        ends: Tokens that end a text.

    Example:
        >>> logits, tokens = tf.constant([[2.0, -2.0, 2.0]]), tf.constant([[0, 1, 1]])
        >>> penalized(logits, tokens, tokens >= 0, tf.constant(2.0), ends=[]).numpy().tolist()
        [[1.0, -4.0, 2.0]]
    """

    def lowered() -> tf.Tensor:
        values = tf.gather(logits, tokens, batch_dims=1)  # (B, S)
        counts = written & ~is_any(tokens, ends)
        values = tf.where(values > 0.0, values / penalty, values * penalty)
        rows = tf.broadcast_to(tf.range(tf.shape(tokens)[0])[:, None], tf.shape(tokens))
        # What does not count is written to a column that is cut off.
        columns = tf.where(counts, tokens, tf.shape(logits)[1])
        wider = tf.pad(logits, [[0, 0], [0, 1]])
        return tf.tensor_scatter_nd_update(wider, tf.stack([rows, columns], axis=-1), values)[:, :-1]

    return tf.cond(tf.equal(penalty, 1.0), lambda: logits, lowered)


def is_any(tokens: tf.Tensor, ends: Sequence[int]) -> tf.Tensor:
    """Returns where tokens are one of a few.

    Example:
        >>> is_any(tf.constant([1, 2, 3]), [3, 1]).numpy().tolist()
        [True, False, True]
    """
    found = tf.zeros_like(tokens, tf.bool)
    for end in ends:
        found |= tf.equal(tokens, end)
    return found


def _draw(weights: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Takes the first token at which the running sum exceeds a share of the whole; one of weight 0 never is."""
    sums = tf.cumsum(weights, axis=-1)
    return tf.argmax(sums > draws[:, None] * sums[:, -1:], axis=-1, output_type=tf.int32)


def _ordered(values: tf.Tensor) -> tf.Tensor:
    """Returns float32 as int32 in the same order."""
    bits = tf.bitcast(values, tf.int32)
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, _MOST), bits)


def _threshold(keys: tf.Tensor, weights: tf.Tensor, target: Any) -> tf.Tensor:
    """Returns (B, 1), the largest key so that those not below it weigh at least `target`."""
    rows = tf.shape(keys)[0]

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The mean rounded up, without the sum, which would be too large for int32.
        middle = tf.bitwise.bitwise_or(low, high) - tf.bitwise.right_shift(tf.bitwise.bitwise_xor(low, high), 1)
        enough = tf.reduce_sum(tf.where(keys >= middle, weights, 0.0), axis=-1, keepdims=True) >= target
        return tf.where(enough, middle, low), tf.where(enough, high, middle - 1)

    low, _ = tf.while_loop(lambda *_: True, halve, (tf.fill([rows, 1], _LEAST), tf.fill([rows, 1], _MOST)), maximum_iterations=32)
    return low
