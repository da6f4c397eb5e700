"""GPT-2's tokens of texts inside a graph, equal to those outside: strings in, token ids out, for an exported model.

KerasHub's own graph cuts texts by a pattern without looking ahead: it takes line breaks otherwise than GPT-2, ends a
text at a NUL and loses the Devanagari digit six, with which it marks places. Here each character gets a kind, and
where words begin follows from the kinds of its neighbours.

Shapes: B texts, N characters of all texts in a row, W words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tokenizers

from kerasbig.data.token_text import byte_letters

BLANK, LETTER, NUMBER, OTHER, SPECIAL, NONE = range(6)
# Code points that Unicode keeps free for use inside a program: each stands for a special token.
FIRST_MARK, MARKS = 0xFDD0, 32
ALL_MARKS = r"[\x{FDD0}-\x{FDEF}]"


def graph_token_ids(tokenizer: Any, texts: tf.Tensor) -> tf.RaggedTensor | tf.Tensor:
    """Tokenizes texts as GPT-2 does, in a graph that keeps no state.

    Args:
        tokenizer: A KerasHub tokenizer of GPT-2's family.
        texts: Strings (B,) or one string (). What is no UTF-8 becomes U+FFFD.

    Returns:
        int32 token ids: ragged (B, None), or (None,) for one string.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> tokenizer = model.preprocessor.tokenizer
        >>> graph_token_ids(tokenizer, tf.constant("a film")).numpy().tolist() == tokenizer.tokenize("a film").tolist()
        True
    """
    texts = tf.convert_to_tensor(texts)
    special_tokens = sorted(tokenizer.unsplittable_tokens or (), key=len, reverse=True)
    words = words_in(tf.reshape(texts, [-1]), special_tokens)  # ragged (B, W of each)
    ids = _joined(*_bytes_of(words.flat_values, tokenizer.vocabulary, special_tokens), tokenizer.vocabulary, tokenizer.merges)
    rows = tf.RaggedTensor.from_row_splits(ids.values, tf.gather(ids.row_splits, words.row_splits))
    return rows if texts.shape.rank else rows[0]


def words_in(texts: tf.Tensor, special_tokens: Sequence[str] = ()) -> tf.RaggedTensor:
    r"""Cuts texts into words as GPT-2's pattern does.

    The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

    Args:
        texts: Strings (B,).
        special_tokens: What is cut out first and never split; each comes as one character from U+FDD0 on.

    Returns:
        Strings, ragged (B, None).

    Raises:
        ValueError: If there are more special tokens than characters that can stand for them.

    Example:
        >>> words_in(tf.constant(["it's  a\n\nfilm"])).to_list()[0]
        [b'it', b"'s", b' ', b' a', b'\n', b'\n', b'film']

    Source: Radford et al., 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    if len(special_tokens) > MARKS:
        raise ValueError(
            f"Expected at most {MARKS} special tokens. Received: {len(special_tokens)}. Export the step without the tokenizer."
        )
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    texts = tf.strings.regex_replace(texts, ALL_MARKS, "\ufffd")
    for number, token in enumerate(special_tokens):
        texts = tf.strings.regex_replace(texts, re.escape(token), _mark(number))
    characters = tf.strings.unicode_split(texts, "UTF-8")  # ragged (B, characters of each)
    flat, rows = characters.flat_values, characters.value_rowids()  # (N,)
    changes, kinds = _kind_table()
    places = tf.searchsorted(changes, tf.strings.unicode_decode(texts, "UTF-8").flat_values, side="right") - 1
    starts = _starts(flat, tf.gather(kinds, places), rows != _moved(rows, 1, -1))
    begins = tf.where(starts)[:, 0]  # (W,)
    letters = tf.RaggedTensor.from_value_rowids(flat, tf.cumsum(tf.cast(starts, tf.int64)) - 1, nrows=tf.size(begins, tf.int64))
    words = tf.strings.reduce_join(letters, axis=-1)
    return tf.RaggedTensor.from_value_rowids(words, tf.gather(rows, begins), nrows=characters.nrows())


def _mark(number: int) -> str:
    return chr(FIRST_MARK + number)


def _bytes_of(words: tf.Tensor, vocabulary: Mapping[str, int], special_tokens: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the token id of each byte, a special token being one, and its word, int32 (N,) both; and W."""
    own = tf.fill(tf.shape(words), -1)
    for number, token in enumerate(special_tokens):
        own = tf.where(words == _mark(number), vocabulary[token], own)
    lengths, count = tf.strings.length(words), tf.size(words)  # in bytes
    word_of = tf.repeat(tf.range(count), lengths)
    own = tf.gather(own, word_of)
    table = tf.constant([vocabulary[letter] for letter, _ in sorted(byte_letters().items(), key=lambda pair: pair[1])])
    ids = tf.gather(table, tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), "uint8"), tf.int32))
    kept = (own < 0) | (word_of != _moved(word_of, 1, -1))
    return tf.boolean_mask(tf.where(own < 0, ids, own), kept), tf.boolean_mask(word_of, kept), count


def _joined(ids: tf.Tensor, word_of: tf.Tensor, count: tf.Tensor, vocabulary: Mapping[str, int], merges: Sequence[str]) -> tf.RaggedTensor:
    """Joins pairs until none is left, in every word its first pair of the list wherever it stands, as GPT-2 does.

    Args:
        ids: int32 (N,) token ids of bytes.
        word_of: int32 (N,) the number of the word each stands in, rising.
        count: Number of words W.
        vocabulary: Tokens and their ids.
        merges: The pairs.

    Returns:
        int32 token ids, ragged (W, None).
    """
    pairs = [pair.split(" ") for pair in merges if not pair.startswith("#version")]
    keys = np.array([vocabulary[first] * len(vocabulary) + vocabulary[second] for first, second in pairs], "int64")
    order = np.argsort(keys, kind="stable")
    results = np.array([vocabulary[first + second] for first, second in pairs], "int32")[order]
    never = len(pairs)

    def step(ids: tf.Tensor, word_of: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        key = tf.cast(ids, tf.int64) * len(vocabulary) + tf.cast(_moved(ids, -1, 0), tf.int64)
        place = tf.minimum(tf.searchsorted(keys[order], key), never - 1)
        known = (tf.gather(keys[order], place) == key) & (word_of == _moved(word_of, -1, -1))
        rank = tf.where(known, tf.gather(order.astype("int32"), place), never)
        best = tf.gather(tf.math.unsorted_segment_min(rank, word_of, count), word_of)
        chosen = known & (rank == best)
        # Of "aaa" the first two are joined: in a row of equal pairs every second one.
        begins = chosen & ~_moved(chosen, 1, False)
        here = tf.range(tf.size(ids))
        begin = tf.gather(tf.concat([[0], tf.boolean_mask(here, begins)], axis=0), tf.cumsum(tf.cast(begins, tf.int32)))
        taken = chosen & ((here - begin) % 2 == 0)
        ids = tf.where(taken, tf.gather(results, place), ids)
        kept = ~_moved(taken, 1, False)
        return tf.boolean_mask(ids, kept), tf.boolean_mask(word_of, kept), tf.reduce_any(taken)

    vector = tf.TensorSpec([None], tf.int32)
    ids, word_of, _ = tf.while_loop(
        lambda ids, word_of, again: again, step, (ids, word_of, tf.constant(True)), (vector, vector, tf.TensorSpec([], tf.bool))
    )
    return tf.RaggedTensor.from_value_rowids(ids, word_of, nrows=count)


@functools.cache
def _kind_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the code points at which the kind changes, and the kinds from there on, as the library `tokenizers` has them.

    RE2 knows an older Unicode: 5,004 letters and numbers fewer.
    """
    # The planes that have any letter.
    codes = [*range(0xD800), *range(0xE000, 0x40000)]
    text = "".join(map(chr, codes))
    kinds = np.full(0x110000, OTHER, "int32")
    for kind, pattern in ((BLANK, r"\s"), (LETTER, r"\p{L}"), (NUMBER, r"\p{N}")):
        runs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[^{pattern}]+"), "removed").pre_tokenize_str(text)
        for _, (start, end) in runs:
            kinds[codes[start] : codes[end - 1] + 1] = kind
    kinds[FIRST_MARK : FIRST_MARK + MARKS] = SPECIAL
    changes = np.flatnonzero(np.diff(kinds, prepend=-1)).astype("int32")
    return changes, kinds[changes]


def _starts(characters: tf.Tensor, kinds: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """Returns where words begin, bool (N,).

    Args:
        characters: Strings (N,).
        kinds: int32 (N,).
        first: Where a text begins, bool (N,).
    """
    end = _moved(first, -1, True)
    before = tf.where(first, NONE, _moved(kinds, 1, NONE))
    after = tf.where(end, NONE, _moved(kinds, -1, NONE))
    visible, visible_after = (kinds >= LETTER) & (kinds <= OTHER), (after >= LETTER) & (after <= OTHER)
    # One space goes with what follows it, and so stands apart from blanks before it.
    joined = visible & ~first & (_moved(characters, 1, "") == " ")
    last_blank = (kinds == BLANK) & (before == BLANK) & visible_after
    starts = (kinds == SPECIAL) | last_blank | ((kinds != before) & ~joined)
    # 's and its like are words of their own where a word begins with the apostrophe.
    one, two = _moved(characters, -1, ""), _moved(characters, -2, "")
    apostrophe = starts & (characters == "'") & (after == LETTER)
    short = apostrophe & tf.strings.regex_full_match(one, "[stmd]")
    long = apostrophe & tf.strings.regex_full_match(tf.strings.join([one, two]), "re|ve|ll") & ~_moved(end, -1, True)
    return (starts & ~_moved(short | long, 1, False)) | _moved(short, 2, False) | _moved(long, 3, False)


def _moved(values: tf.Tensor, by: int, fill: Any) -> tf.Tensor:
    """Moves values (N,) to later places, or with a negative number to earlier ones."""
    filled = tf.fill([abs(by)], tf.constant(fill, values.dtype))
    return tf.concat([filled, values], axis=0)[: tf.size(values)] if by > 0 else tf.concat([values, filled], axis=0)[-by:]
