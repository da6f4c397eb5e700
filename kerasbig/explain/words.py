"""Texts cut into what can be left out: words, or characters where a script has no spaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import regex

# Scripts without spaces between words: Han one character at a time, as BERT reads it; Kana in runs; the others by letter.
_UNITS = regex.compile(
    r"""(?V1)
    \p{Han}
    | \p{Hiragana}+ | [\p{Katakana}ー]+
    | [\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*
    | [[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+
      (?:['’-][[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+)*
    | \p{P}+
    | (?!\s)\X
    """,
    regex.VERBOSE,
)


@dataclass(frozen=True, eq=False)
class TextCase:
    """A text as the units that an explanation gives credit to.

    Attributes:
        text: The text.
        tokens: Its M units in their order: all of it but the spaces.
        spans: int (M, 2): where each begins and ends in the text, in characters.
    """

    text: str
    tokens: tuple[str, ...]
    spans: np.ndarray

    @property
    def count(self) -> int:
        """The number of units."""
        return len(self.tokens)

    @property
    def points(self) -> np.ndarray:
        """Where the units stand, to group neighbours by: float (M, 1)."""
        return np.arange(self.count, dtype="float64")[:, None]

    def keep(self, mask: np.ndarray) -> str:
        """Returns the text with only some of its units.

        Args:
            mask: bool (M,): the units that stay.

        Example:
            >>> split("not a good film").keep(np.array([True, True, False, True]))
            'not a film'
        """
        if mask.all():
            return self.text
        # A space takes a unit's place, so that its neighbours do not grow together into another word.
        parts, end = [], 0
        for (start, stop), kept in zip(self.spans, mask, strict=True):
            parts += [self.text[end:start], self.text[start:stop] if kept else " "]
            end = stop
        return one_space("".join(parts))


def one_space(text: str) -> str:
    """Returns a text with one space wherever it has several."""
    return " ".join(text.split())


def split(text: str) -> TextCase:
    """Cuts a text into words; into characters where the script has no spaces; punctuation stands alone.

    Args:
        text: A text in any script.

    Returns:
        A `TextCase`.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is empty or no valid Unicode.

    Example:
        >>> split("I don't like 这部电影!").tokens
        ('I', "don't", 'like', '这', '部', '电', '影', '!')
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected a text. Received: {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Expected valid Unicode. Received: a lone surrogate at character {error.start}. Clean the text.") from None
    found = [(match.group(), *match.span()) for match in _UNITS.finditer(text)]
    if not found:
        raise ValueError(f"Expected a text with at least one word. Received: an empty one, {text[:20]!r}. There is nothing to explain.")
    return TextCase(text, tuple(unit for unit, _, _ in found), np.array([span for _, *span in found], "int64"))
