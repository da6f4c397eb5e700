"""Documents to windows of tokens: what a text generator learns from, and is measured on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasbig.data.batching import EpochOrder, Padding, accept_prepared, grouped_by_length, padded_widths, width_for
from kerasbig.data.documents import Documents
from kerasbig.data.passes import planned_batches
from kerasbig.data.token_files import Tokens, tokenize_documents

# Each window read from a file maps about 64 KiB of it.
WINDOWS_KEPT_MAPPED = 256


@dataclass(frozen=True, eq=False)
class Windows:
    """Which tokens each window predicts; each token is predicted in one window, from the token before it on.

    Attributes:
        tokens: The row that windows are cut from.
        starts: int64 (N,): where the first token that a window reads stands.
        lengths: int64 (N,): how many tokens it reads, and as many it predicts, each one place further.

    Example:
        >>> tokens = Tokens(np.array([9, 1, 2, 9, 3, 9], "uint16"), np.array([0, 3, 5]), 1)
        >>> windows = packed_windows(tokens, 4)
        >>> windows.starts.tolist(), windows.lengths.tolist()
        ([0, 4], [4, 1])
    """

    tokens: Tokens
    starts: np.ndarray
    lengths: np.ndarray

    def batch(self, chosen: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Returns inputs, targets and weights of some windows, each (B, width).

        The weights are 0 where nothing is predicted and otherwise such that their mean is 1: Keras divides the loss by the
        number of places, and so gets the mean over the tokens.
        """
        token_ids = np.zeros((len(chosen), width), "int32")
        targets, padding_mask = np.zeros_like(token_ids), np.zeros_like(token_ids)
        for i, number in enumerate(chosen):
            start, length = int(self.starts[number]), int(self.lengths[number])
            row = self.tokens.ids[start : start + length + 1]
            token_ids[i, :length], targets[i, :length], padding_mask[i, :length] = row[:-1], row[1:], 1
        weights = padding_mask * np.float32(padding_mask.size / padding_mask.sum())
        return {"token_ids": token_ids, "padding_mask": padding_mask}, targets, weights


def packed_windows(tokens: Tokens, sequence_length: int) -> Windows:
    """Cuts the row of all documents into windows of `sequence_length` tokens; only the last may be shorter.

    Args:
        tokens: The row.
        sequence_length: Tokens that a window reads.

    Example:
        >>> tokens = Tokens(np.array([9, 1, 2, 9, 3, 9], "uint16"), np.array([0, 3, 5]), 1)
        >>> packed_windows(tokens, 5).lengths.tolist()
        [5]
    """
    predicted = len(tokens.ids) - 1
    starts = np.arange(0, predicted, sequence_length)
    return Windows(tokens, starts, np.minimum(sequence_length, predicted - starts))


def bordered_windows(tokens: Tokens, sequence_length: int) -> Windows:
    """Cuts each document for itself: its windows read the border token before it and nothing of another document.

    Args:
        tokens: The row.
        sequence_length: Most tokens that a window reads.

    Example:
        >>> tokens = Tokens(np.array([9, 1, 2, 9, 3, 9], "uint16"), np.array([0, 3, 5]), 1)
        >>> windows = bordered_windows(tokens, 2)
        >>> windows.starts.tolist(), windows.lengths.tolist()
        ([0, 2, 3], [2, 1, 2])
    """
    predicted = _predicted(tokens)
    counts = -(-predicted // sequence_length)
    within = sequence_length * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
    starts = np.repeat(tokens.borders[:-1], counts) + within
    return Windows(tokens, starts, np.minimum(sequence_length, np.repeat(predicted, counts) - within))


def window_batches(
    documents: Documents,
    model: keras.Model,
    *,
    batch_size: int = 8,
    shuffle: bool | None = None,
    seed: int = 0,
    lengths: Sequence[int] | None = None,
    respect_borders: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tf.data.Dataset:
    """Turns documents into batches of windows; `kerasbig.data.batches` calls it.

    All documents are one row of tokens, with the end token between them, which is cut into windows of
    `model.preprocessor.sequence_length` tokens: no token is lost, and only the last window has padding. A window may then read
    the end of one document and the beginning of the next. With `respect_borders` it reads one document only: long ones are cut
    into windows, short ones are grouped by length and padded.

    Args:
        documents: What `kerasbig.data.load` returned.
        model: A model from `kerasbig.text.gpt_generator`, or another text generator of KerasHub.
        batch_size: Windows in a batch; the last one may hold fewer.
        shuffle: Whether to shuffle the windows anew in each epoch; by default only where `documents.role` is "train".
        seed: Decides the order, together with the number of the epoch.
        lengths: With `respect_borders`, the lengths that batches are padded to, as for `kerasbig.data.batches`.
        respect_borders: Whether no window reaches over the border of a document.
        cache_dir: Where token files are kept, as for `kerasbig.data.token_files.tokenize_documents`.
        progress: Whether to show on standard error how far the tokenizing is.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets, weights)`: inputs is a dict of int32 (B, T) `token_ids` and `padding_mask`
        (1 = real); targets is int32 (B, T), each place the next token; weights is float32 (B, T), 0 at padding and otherwise
        such that the loss of a batch is the mean over its tokens. Its attribute `padding` is a `Padding`.

    Raises:
        ValueError: If training documents have less than one window of text, `lengths` are given without
            `respect_borders`, or a file has changed since it was loaded.
        TypeError: If the model is no text generator with its tokenizer.

    Example:
        >>> import kerasbig as kb
        >>> documents = Documents.from_texts(["a fine film, a dull film"] * 8, role="train")
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(documents, 270), sequence_length=16)
        >>> inputs, targets, weights = next(iter(window_batches(documents, model, batch_size=2)))
        >>> inputs["token_ids"].shape, bool(tf.reduce_all(inputs["token_ids"][:, 1:] == targets[:, :-1]))
        (TensorShape([2, 16]), True)
    """
    if lengths is not None and not respect_borders:
        raise ValueError(f"Expected lengths with respect_borders only; other windows have no padding. Received: lengths={list(lengths)}.")
    tokens = tokenize_documents(documents, model, cache_dir=cache_dir, progress=progress)
    longest = model.preprocessor.sequence_length
    windows = (bordered_windows if respect_borders else packed_windows)(tokens, longest)
    shuffle = documents.role == "train" if shuffle is None else shuffle
    _require_a_window(documents, windows, longest)
    accept_prepared(model, "token_ids")

    widths = padded_widths(model, lengths) if respect_borders else np.array([longest])
    grouped_by = windows.lengths if respect_borders else np.zeros(len(windows.lengths), "int8")
    next_plan = _fixed_plan(grouped_by, batch_size)
    if shuffle:
        model.epoch_order = EpochOrder(grouped_by, batch_size, seed)
        next_plan = model.epoch_order.next_epoch
    dataset = _dataset(windows, next_plan, -(-len(grouped_by) // batch_size), widths)
    measured = EpochOrder(grouped_by, batch_size, seed).next_epoch if shuffle else next_plan
    dataset.padding = _measure_padding(windows, measured, widths)
    return dataset


def measure_documents(
    model: keras.Model,
    documents: Documents,
    *,
    batch_size: int = 8,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Measures how well a text generator foretells documents.

    Each token is foretold once, from what stands before it in its document, as far as `model.preprocessor.sequence_length`
    reaches: the first one from the end token alone, and at last the end token itself. What other documents there are, and in
    which order, changes nothing.

    Args:
        model: A model from `kerasbig.text.gpt_generator`, or another text generator of KerasHub.
        documents: What to measure on.
        batch_size: Windows computed at once.
        cache_dir: Where token files are kept, as for `kerasbig.data.token_files.tokenize_documents`.
        progress: Whether to show on standard error how far the tokenizing is.

    Returns:
        `loss`, nats a token; `perplexity`, its exponential; `bits_per_byte`, all bits by all UTF-8 bytes of the texts, which
        compares models with different tokenizers; and `accuracy`, the share of tokens that were the likeliest.

    Raises:
        TypeError: If the model is no text generator with its tokenizer.
        ValueError: If a file has changed since it was loaded.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> sorted(measure_documents(model, Documents.from_texts(["a film"])))
        ['accuracy', 'bits_per_byte', 'loss', 'perplexity']
    """
    tokens = tokenize_documents(documents, model, cache_dir=cache_dir, progress=progress)
    windows = bordered_windows(tokens, model.preprocessor.sequence_length)
    widths = padded_widths(model, None)
    scores = _Scores(model)
    scores.compile(jit_compile=False)  # XLA would compile anew for each width
    nats = right = 0.0
    for chosen in _fixed_plan(windows.lengths, batch_size)():
        inputs, targets, _ = windows.batch(chosen, width_for(int(windows.lengths[chosen].max()), widths))
        foretold = np.asarray(scores.predict_on_batch(inputs | {"targets": targets}), "float64")  # (B, T, 2)
        nats_of_batch, right_of_batch = foretold[inputs["padding_mask"] == 1].sum(axis=0).tolist()
        nats, right = nats + nats_of_batch, right + right_of_batch
    count = int(windows.lengths.sum())
    loss = nats / count
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": nats / math.log(2) / documents.bytes,
        "accuracy": right / count,
    }


class _Scores(keras.Model):
    """Computes float32 (B, T, 2) from inputs and `targets`: nats of each target, and 1 where it was the likeliest."""

    def __init__(self, model: keras.Model):
        super().__init__(name="scores", dtype="float32")
        self.model = model

    def call(self, inputs: dict[str, Any]) -> Any:
        targets = ops.expand_dims(inputs["targets"], -1)
        logits = ops.cast(self.model({name: inputs[name] for name in ("token_ids", "padding_mask")}, training=False), "float32")
        of_targets = ops.take_along_axis(logits, targets, axis=-1)[..., 0]
        right = ops.cast(ops.argmax(logits, axis=-1) == inputs["targets"], "float32")
        return ops.stack([ops.logsumexp(logits, axis=-1) - of_targets, right], axis=-1)


def _dataset(windows: Windows, next_plan: Callable[[], list[np.ndarray]], steps: int, widths: np.ndarray) -> tf.data.Dataset:
    """Returns the batches of a plan, asked for anew at each pass."""
    mapped = 0

    def make(chosen: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        nonlocal mapped
        if mapped >= WINDOWS_KEPT_MAPPED:
            windows.tokens.release()
            mapped = 0
        mapped += len(chosen)
        return windows.batch(chosen, width_for(int(windows.lengths[chosen].max()), widths))

    shape = (None, int(widths[0]) if len(widths) == 1 else None)
    ids = tf.TensorSpec(shape, tf.int32)
    signature = ({"token_ids": ids, "padding_mask": ids}, ids, tf.TensorSpec(shape, tf.float32))
    dataset = planned_batches(next_plan, make, signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def _fixed_plan(grouped_by: np.ndarray, batch_size: int) -> Callable[[], list[np.ndarray]]:
    """Returns what gives the same batches each time."""
    return lambda: grouped_by_length(np.arange(len(grouped_by)), grouped_by, batch_size, pool_batches=None)


def _measure_padding(windows: Windows, next_plan: Callable[[], list[np.ndarray]], widths: np.ndarray) -> Padding:
    """Counts the tokens of one epoch without computing it."""
    longest = int(widths[-1])
    computed = len(windows.starts) * longest
    if len(widths) > 1:
        computed = sum(len(chosen) * width_for(int(windows.lengths[chosen].max()), widths) for chosen in next_plan())
    fixed = int((-(-_predicted(windows.tokens) // longest)).sum()) * longest
    return Padding(len(windows.tokens.borders) - 1, int(windows.lengths.sum()), computed, fixed, 0, longest)


def _predicted(tokens: Tokens) -> np.ndarray:
    """Returns how many tokens each document has, its end token included."""
    return np.diff(tokens.borders) + tokens.overlap - 1


def _require_a_window(documents: Documents, windows: Windows, sequence_length: int) -> None:
    count = int(windows.lengths.sum())
    if documents.role == "train" and count < sequence_length:
        raise ValueError(
            f"Expected training text for at least one window of {sequence_length + 1} tokens. Received: {count + 1} tokens in "
            f"{documents.source}. Add text, or build the model with a smaller sequence_length (--sequence-length {max(count // 4, 2)})."
        )
