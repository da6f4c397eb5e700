"""Choosing the precision a model trains in, by measuring it on this device."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import tensorflow as tf

# bfloat16 rounds more, so it has to win clearly.
WORTH_IT = 1.25


@dataclass(frozen=True)
class Precision:
    """What was measured and chosen.

    Attributes:
        policy: A Keras dtype policy, "float32" or "mixed_bfloat16".
        float32_ms: Shortest time of one layer's products forward and backward in float32, in milliseconds.
        bfloat16_ms: The same with operands in bfloat16.
        device: Where it was measured.
    """

    policy: str
    float32_ms: float
    bfloat16_ms: float
    device: str

    def to_dict(self) -> dict[str, str | float]:
        """Returns the fields as a plain dict, for a Run's configuration."""
        return asdict(self)


def fastest_precision(hidden_dim: int = 384, tokens: int = 1024, *, repeats: int = 20) -> Precision:
    """Measures a feed-forward layer's matrix products in float32 and in bfloat16, and chooses.

    Args:
        hidden_dim: The model's width.
        tokens: Tokens in a batch.
        repeats: Timed runs of each; the shortest counts, which other work on the machine disturbs least.

    Returns:
        A `Precision`. bfloat16 is chosen where it is at least 1.25 times as fast.

    Example:
        >>> fastest_precision(64, 64, repeats=1).policy in ("float32", "mixed_bfloat16")
        True
    """
    device = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name
    timings = {dtype: _product_seconds(dtype, hidden_dim, tokens, repeats, device) * 1e3 for dtype in ("float32", "bfloat16")}
    policy = "mixed_bfloat16" if timings["float32"] >= WORTH_IT * timings["bfloat16"] else "float32"
    return Precision(policy, round(timings["float32"], 3), round(timings["bfloat16"], 3), device)


def _product_seconds(dtype: str, hidden_dim: int, tokens: int, repeats: int, device: str) -> float:
    with tf.device(device):
        inputs = tf.cast(tf.random.stateless_normal((tokens, hidden_dim), seed=(0, 1)), dtype)  # (B * T, D)
        kernel = tf.random.stateless_normal((hidden_dim, 4 * hidden_dim), seed=(0, 2))  # float32, as Keras keeps it

    @tf.function
    def step(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        w = tf.cast(w, dtype)
        outputs = tf.matmul(x, w)
        return tf.reduce_sum(tf.cast(tf.matmul(outputs, w, transpose_b=True), "float32")) + tf.reduce_sum(
            tf.cast(tf.matmul(x, outputs, transpose_a=True), "float32")
        )

    float(step(inputs, kernel))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        float(step(inputs, kernel))
        seconds.append(time.perf_counter() - start)
    return min(seconds)
