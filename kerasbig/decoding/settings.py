"""How to choose tokens: the settings, their ranges, and the random numbers that a seed stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

METHODS = ("greedy", "sample", "beam", "contrastive")
# Su et al., 2022, arXiv:2202.06417, use 3 to 10 candidates.
CONTRASTIVE_CANDIDATES = 4
_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class Settings:
    """How a continuation is chosen.

    Args:
        max_tokens: Most tokens to write.
        method: "greedy", "sample", "beam" or "contrastive".
        temperature: Logits are divided by it before a token is drawn; above 0.
        top_k: Tokens to draw from, the likeliest; 0 is all. For "contrastive" the number of candidates, 4 if 0.
        top_p: Draws from the fewest likeliest tokens with at least this share of the probability, above 0 to 1.
        num_beams: Texts that beam search follows at once.
        penalty_alpha: Weight of being unlike the text so far, in contrastive search, from 0 to 1.
        repetition_penalty: What positive logits of tokens in the text are divided by and negative ones multiplied with;
            above 0, 1 for none (Keskar et al., 2019, arXiv:1909.05858).

    Raises:
        ValueError: If one is out of range.

    Example:
        >>> Settings(max_tokens=8, method="sample", top_p=0.9).candidates
        4
    """

    max_tokens: int = 64
    method: str = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 4
    penalty_alpha: float = 0.6
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Expected method out of {', '.join(METHODS)}. Received: method={self.method!r}")
        for name, least in (("max_tokens", 1), ("top_k", 0), ("num_beams", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"Expected {name} to be a whole number from {least}. Received: {name}={value!r}")
        for name, good, words in (
            ("temperature", 0 < self.temperature < math.inf, "above 0; method='greedy' takes the likeliest token"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("penalty_alpha", 0 <= self.penalty_alpha <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0; 1 is none"),
        ):
            if not good:
                raise ValueError(f"Expected {name} {words}. Received: {name}={getattr(self, name)!r}")

    @property
    def candidates(self) -> int:
        """How many tokens contrastive search compares."""
        return self.top_k or CONTRASTIVE_CANDIDATES


def prompt_room(longest: int, max_tokens: int) -> int:
    """Returns how many tokens of a prompt are kept: what `max_tokens` leave of the context, and never less than half of it.

    Example:
        >>> prompt_room(64, 10), prompt_room(64, 100)
        (54, 32)
    """
    return longest - min(max_tokens, longest // 2)


def uniform_draws(seed: Any, count: int) -> Any:
    """Returns one number for each step of a row, the same wherever a seed is used: NumPy, TensorFlow, XLA.

    Threefry-2x32 with 20 rounds, keyed by the seed and counting the steps: row and batch play no part.

    Args:
        seed: A whole number of 64 bits, or an int64 tensor ().
        count: How many.

    Returns:
        Numbers from 0 to below 1, multiples of 2**-23: float64 (count,), an array or a tensor as `seed` is.

    Example:
        >>> uniform_draws(7, 3).round(4).tolist()
        [0.9085, 0.6903, 0.095]

    Source: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405.
    """
    steps = np.arange(count, dtype="int64")
    bits, _ = _threefry(seed & _32_BITS, (seed // 2**32) & _32_BITS, steps, 0 * steps)
    return bits // 2**9 / 2**23


def _threefry(key: Any, other_key: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Mixes 32-bit words that lie in int64, so that NumPy's and TensorFlow's operators mean the same."""
    keys = (key, other_key, key ^ other_key ^ 0x1BD11BDA)
    x, y = (x + key) & _32_BITS, (y + other_key) & _32_BITS
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = (x + y) & _32_BITS
            y = (((y * 2**bits) & _32_BITS) + y // 2 ** (32 - bits)) ^ x
        x = (x + keys[(group + 1) % 3]) & _32_BITS
        y = (y + keys[(group + 2) % 3] + group + 1) & _32_BITS
    return x, y
