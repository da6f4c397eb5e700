"""Texts -> token ids, by the model's own preprocessor: all texts at once, end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class TokenTable:
    """Token ids of many texts, end to end.

    Attributes:
        token_ids: int32 (total tokens,).
        starts: int64 (N + 1,): text i is `token_ids[starts[i]:starts[i + 1]]`.
        truncated: Number of texts that were cut.
    """

    token_ids: np.ndarray
    starts: np.ndarray
    truncated: int

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): tokens of each text."""
        return np.diff(self.starts)


def tokenize(model: keras.Model, inputs: Sequence[str], *, chunk: int = 256) -> TokenTable:
    """Tokenizes and packs texts with the model's own preprocessor, in parallel.

    Args:
        model: A KerasHub text classifier with its preprocessor.
        inputs: N texts.
        chunk: Texts tokenized by one call.

    Returns:
        A `TokenTable` with [CLS] and [SEP] in place and texts cut to the model's `sequence_length`.

    Raises:
        TypeError: If `model` has no text preprocessor.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> tokenize(model, ["a film", "film"]).lengths.tolist()
        [7, 6]
    """
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(list(inputs), tf.string)).batch(chunk)
    return table_of(dataset.map(packing(model), num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())


def packing(model: keras.Model) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns the tokenizing of a model as a function of a string tensor (B,), traced once as long as the tokenizer stays the same.

    Args:
        model: A KerasHub text classifier with its preprocessor.

    Returns:
        A function that gives int32 (B, sequence_length) padded token ids, int64 (B,) their lengths and int32 (B,) whether a text
        was cut.

    Raises:
        TypeError: If `model` has no text preprocessor.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> [tensor.shape.as_list() for tensor in tf.function(packing(model))(tf.constant(["a film"]))]
        [[1, 128], [1], [1]]
    """
    preprocessor: Any = getattr(model, "preprocessor", None)
    if getattr(preprocessor, "tokenizer", None) is None:
        raise TypeError(
            f"Expected a model with a text preprocessor. Received: {type(model).__name__} with preprocessor={preprocessor!r}. "
            "Build it with kerasbig.text.bert_classifier, which keeps its tokenizer."
        )
    if not preprocessor.built:
        preprocessor.build(None)
    tokenizer = preprocessor.tokenizer
    room = preprocessor.sequence_length - 2
    state = (id(tokenizer), room, str(tokenizer.get_config()), str(getattr(tokenizer, "strip_accents", None)))
    # Past Keras's tracking of attributes, which would take the function for a part of the layer.
    kept_state, kept = vars(preprocessor).get("_kerasbig_packing", (None, None))
    if kept_state == state:
        return kept

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def pack(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        tokens = tokenizer(texts)  # ragged (B, T)
        token_ids, _ = preprocessor.packer((tokens,))  # (B, sequence_length)
        whole = tokens.row_lengths()
        return token_ids, tf.minimum(whole, room) + 2, tf.cast(whole > room, tf.int32)

    vars(preprocessor)["_kerasbig_packing"] = (state, pack)
    return pack


def table_of(packed: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> TokenTable:
    """Joins what a function from `packing` gave, batch by batch."""
    ids, lengths, truncated = [], [], 0
    for dense, kept, cut in packed:
        ids.append(dense[np.arange(dense.shape[1]) < kept[:, None]])  # (B, T) -> (tokens of the batch,)
        lengths.append(kept)
        truncated += int(cut.sum())
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype("int64")
    return TokenTable(np.concatenate(ids).astype("int32"), starts, truncated)
