"""What all builders of text models ask of their arguments."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection


def require_start(
    preset: str | os.PathLike[str] | None, size: str | None, vocabulary: object, sizes: Collection[str], learner: str
) -> None:
    """Raises unless a model starts from a preset, or from a size with a vocabulary.

    Args:
        preset: The preset, or None.
        size: The size, or None.
        vocabulary: The vocabulary, or None.
        sizes: The sizes that there are.
        learner: The function of `kerasbig.text` that learns the vocabulary.

    Raises:
        ValueError: If both are given or none, the size is unknown, or the vocabulary is missing or one too many.

    Example:
        >>> require_start("bert_tiny_en_uncased", None, None, ("tiny",), "learn_wordpiece")
    """
    if (preset is None) == (size is None):
        raise ValueError(f"Expected exactly one of preset and size. Received: preset={preset!r}, size={size!r}")
    if preset is not None and vocabulary is not None:
        raise ValueError("Expected no vocabulary beside a preset, which brings its own. Received both. Leave one out.")
    if size is None:
        return
    require_size(size, sizes)
    if vocabulary is None:
        raise ValueError(
            f"Expected a vocabulary for size={size!r}. Received none. Learn one with kerasbig.text.{learner}(lines, vocabulary_size=8000)."
        )


def require_size(size: str | None, sizes: Collection[str]) -> None:
    """Raises ValueError for a size that is not one of `sizes`.

    Example:
        >>> require_size("tinny", ("tiny", "mini"))
        Traceback (most recent call last):
        ...
        ValueError: Expected size to be one of tiny, mini. Received: size='tinny'. Did you mean 'tiny'?
    """
    if size not in sizes:
        close = difflib.get_close_matches(str(size), sizes, 1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Expected size to be one of {', '.join(sizes)}. Received: size={size!r}{hint}")


def require_dropout(dropout: float) -> None:
    """Raises ValueError for a share of activations to drop that is not from 0 to below 1.

    Example:
        >>> require_dropout(0.1)
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"Expected dropout from 0 to below 1. Received: dropout={dropout}")
