"""A text model's tokens and answers from functions that are traced once, since an explanation asks for them again and again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.batching import accept_prepared, grouped_by_length, padded, padded_widths
from kerasbig.data.tokenizing import TokenTable, packing, table_of

TEXTS_AT_ONCE = 64


class Reader:
    """Reads texts as a KerasHub text classifier does.

    `kerasbig.data.predict_logits` makes a new pipeline at each call, which takes seconds where an answer takes milliseconds.
    """

    def __init__(self, model: keras.Model):
        # The cache must not keep the model alive, so only a weak reference stays.
        known = weakref.ref(model)
        ids = tf.TensorSpec((None, None), tf.int32)
        self._pack = packing(model)
        self._answer = tf.function(
            lambda batch: known()(batch, training=False),  # type: ignore[misc]
            input_signature=[dict.fromkeys(INPUTS, ids)],
        )
        self._widths = padded_widths(model, None)
        self._model = known

    def tokens(self, texts: Sequence[str]) -> TokenTable:
        """Returns the token ids of N texts, cut to the model's length."""
        parts = [texts[start : start + 256] for start in range(0, len(texts), 256)]
        return table_of(tuple(tensor.numpy() for tensor in self._pack(tf.constant(part))) for part in parts)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the model's output for N texts, float32 (N, C); texts of like length are computed together."""
        table = self.tokens(texts)
        plan = grouped_by_length(np.arange(len(texts)), table.lengths, TEXTS_AT_ONCE, pool_batches=None)
        answers = np.concatenate([self._compute(padded(table, rows, self._widths)) for rows in plan])
        return answers[np.argsort(np.concatenate(plan))]

    def _compute(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        if keras.backend.backend() == "tensorflow":
            return np.asarray(self._answer({name: tf.constant(batch[name]) for name in INPUTS}), "float32")
        model: Any = self._model()
        accept_prepared(model, "token_ids")
        return np.asarray(model.predict_on_batch(batch), "float32")


INPUTS = ("token_ids", "segment_ids", "padding_mask")
_READERS: weakref.WeakKeyDictionary[keras.Model, tuple[Any, Reader]] = weakref.WeakKeyDictionary()


def reader_of(model: Any) -> Reader:
    """Returns the reader of a model; it is made anew where the tokenizer has changed."""
    tokenizer = model.preprocessor.tokenizer
    state = (id(tokenizer), model.preprocessor.sequence_length, str(tokenizer.get_config()), str(getattr(tokenizer, "strip_accents", None)))
    known = _READERS.get(model)
    if known is None or known[0] != state:
        known = _READERS[model] = (state, Reader(model))
    return known[1]
