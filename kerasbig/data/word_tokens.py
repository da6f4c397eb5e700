"""GPT-2's byte pairs word by word: each different word is encoded once, then looked up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex
import tokenizers

# Radford et al., 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# The same on ASCII, at twice the speed.
ASCII_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
# Words that are kept take about 250 bytes each. Long ones hardly come again.
MOST_WORDS, MOST_CHARACTERS = 100_000, 48


class WordTokenizer:
    """Gives the token ids of GPT-2's tokenizer, several times faster than encoding each word anew.

    Args:
        vocabulary: Tokens and their ids, all 256 bytes among them.
        merges: Pairs of tokens to join, such as "Ġ t", the first ones first.
        special_tokens: Tokens that stand for themselves where a text holds them.

    Raises:
        ValueError: If a byte is missing from the vocabulary: characters would get lost.

    Example:
        >>> letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        >>> vocabulary = {token: i for i, token in enumerate([*letters, "Ġt", "<|endoftext|>"])}
        >>> WordTokenizer(vocabulary, ["Ġ t"], ["<|endoftext|>"]).encode(" to<|endoftext|>").tolist()
        [256, 78, 257]

    Source: Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.2.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[str], special_tokens: Sequence[str]):
        missing = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys()
        if missing:
            raise ValueError(
                f"Expected a byte-level vocabulary with a token for each of 256 bytes. Received: {len(vocabulary)} tokens without "
                f"{len(missing)} of them, such as {min(missing)!r}. Learn one with kerasbig.text.learn_bpe."
            )
        self.description: dict[str, Any] = {
            "vocabulary": dict(vocabulary),
            "merges": list(merges),
            "special_tokens": sorted(special_tokens, key=len, reverse=True),
        }
        self.dtype = smallest_dtype(max(vocabulary.values()) + 1)
        pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges if not merge.startswith("#version"))]
        encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=dict(vocabulary), merges=pairs))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._ids = _Words(encoder, self.dtype)
        self._special = {token: np.array([vocabulary[token]], self.dtype).tobytes() for token in self.description["special_tokens"]}
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, self.description['special_tokens']))})")

    @classmethod
    def from_json(cls, text: str) -> WordTokenizer:
        """Makes the tokenizer that `to_json` wrote down."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Writes down all that decides the token ids."""
        return json.dumps(self.description)

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids of a text, uint16 or uint32 (T,)."""
        if not any(token in text for token in self._special):
            return np.frombuffer(self._encode_words(text), self.dtype)
        parts = self._special_pattern.split(text)
        return np.frombuffer(b"".join(self._special.get(part) or self._encode_words(part) for part in parts), self.dtype)

    def _encode_words(self, text: str) -> bytes:
        words = (ASCII_WORDS if text.isascii() else WORDS).findall(text)
        return b"".join(map(self._ids.__getitem__, words))


class _Words(dict[str, bytes]):
    """The token ids of words, as bytes; a new word is encoded when it is first asked for."""

    def __init__(self, encoder: Any, dtype: np.dtype):
        super().__init__()
        self._encoder, self._dtype = encoder, dtype

    def __missing__(self, word: str) -> bytes:
        ids = np.array(self._encoder.encode(word, add_special_tokens=False).ids, self._dtype).tobytes()
        if len(word) <= MOST_CHARACTERS and len(self) < MOST_WORDS:
            self[word] = ids
        return ids


def smallest_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the type that token ids take on disk.

    Example:
        >>> smallest_dtype(50257), smallest_dtype(65537)
        (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype("uint16" if vocabulary_size <= 1 << 16 else "uint32")


def word_tokenizer(own: Any) -> WordTokenizer | None:
    """Returns what gives a KerasHub tokenizer's token ids faster.

    Args:
        own: A KerasHub tokenizer.

    Returns:
        None where the tokenizer does not cut texts as GPT-2 does.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> own = model.preprocessor.tokenizer
        >>> word_tokenizer(own).encode("a film").tolist() == list(own("a film"))
        True
    """
    encoder = hugging_face_encoder(own)
    splitter = None if encoder is None else encoder.pre_tokenizer
    # KerasHub's own splitter takes its pattern for a plain word, and so cuts nothing; kerasbig.text puts GPT-2's in its place.
    if not isinstance(splitter, tokenizers.pre_tokenizers.ByteLevel) or splitter.add_prefix_space or not splitter.use_regex:
        return None
    return WordTokenizer(own.vocabulary, own.merges, own.unsplittable_tokens or [])


def hugging_face_encoder(own: Any) -> Any:
    """Returns the `tokenizers.Tokenizer` that a byte-pair tokenizer of KerasHub runs outside of graphs; None for other kinds.

    Example:
        >>> hugging_face_encoder("no tokenizer") is None
        True
    """
    import keras_hub

    if not isinstance(own, keras_hub.tokenizers.BytePairTokenizer):
        return None
    own._maybe_initialized_tokenizers()
    return own._tokenizer
