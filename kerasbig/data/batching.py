"""Examples -> batches of token ids: tokenized once, grouped by length, shuffled anew each epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.examples import Examples

logger = logging.getLogger(__name__)

# Batches are drawn from pools of this many, sorted by length inside: large enough for little padding, small enough to stay random.
POOL_BATCHES = 50


@dataclass(frozen=True)
class Padding:
    """How much of what is computed is real text.

    Attributes:
        examples: Number of texts.
        real_tokens: Tokens that stand for text, [CLS] and [SEP] included.
        computed_tokens: Tokens the model computes in one pass, padding included.
        fixed_tokens: Tokens it would compute if every text were padded to `sequence_length`.
        truncated: Texts that were longer than `sequence_length` and were cut.
        sequence_length: The longest text the model takes, in tokens.
    """

    examples: int
    real_tokens: int
    computed_tokens: int
    fixed_tokens: int
    truncated: int
    sequence_length: int

    @property
    def fraction(self) -> float:
        """The share of computed tokens that are padding, from 0 to 1."""
        return 1.0 - self.real_tokens / max(self.computed_tokens, 1)

    def __str__(self) -> str:
        cut = f", {self.truncated:,} cut to {self.sequence_length} tokens" if self.truncated else ""
        saved = self.fixed_tokens / max(self.computed_tokens, 1)
        left = f"{self.fraction:.1%} of the computed tokens are padding ({saved:.1f}x fewer tokens than fixed length)"
        return f"{self.examples:,} texts{cut}; {left}"


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


class EpochOrder:
    """Which examples make which batch, as a function of the seed and the epoch alone.

    `batches` leaves it at `model.epoch_order`, where `kerasbig.distribute.Resume` sets `epoch`, so that a resumed
    training sees the batches that the uninterrupted one would have seen.

    Attributes:
        epoch: The epoch that the next pass over the data belongs to. Each pass adds 1.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        self.epoch = 0
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed

    def next_epoch(self) -> list[np.ndarray]:
        """Returns the batches of the current epoch as lists of example numbers, and moves on to the next."""
        random = np.random.default_rng([self._seed, self.epoch])
        self.epoch += 1
        plan = grouped_by_length(random.permutation(len(self._lengths)), self._lengths, self._batch_size)
        random.shuffle(plan)
        return plan


def batches(
    examples: Examples,
    model: keras.Model,
    *,
    batch_size: int = 32,
    shuffle: bool | None = None,
    seed: int = 0,
    lengths: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Turns examples into batches that `model.fit`, `evaluate` and `predict` take.

    Texts are tokenized once, in parallel, by the model's own tokenizer, and grouped by length, so that little padding
    is computed. A training split is shuffled anew in each epoch, whatever the order of the file.

    Args:
        examples: What `kerasbig.data.load` returned.
        model: A KerasHub text classifier with its preprocessor.
        batch_size: Examples in a batch; the last one may hold fewer.
        shuffle: Whether to shuffle; by default only where `examples.role` is "train".
        seed: Decides the order, together with the number of the epoch.
        lengths: The lengths in tokens that batches are padded to; by default 16, 24, 32, 48, 64, 96, … up to the
            model's `sequence_length`.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets)`: inputs is a dict of int32 (B, T) `token_ids`, `segment_ids` and
        `padding_mask` (1 = real); targets is int32 (B,) class ids or float32 (B,) values. Its attribute `padding` is
        a `Padding` that says how much padding is left.

    Raises:
        ValueError: If `batch_size` is not positive, there is no example, or `lengths` does not reach the model's
            sequence length.
        TypeError: If `model` has no text preprocessor.

    Example:
        >>> import kerasbig as kb
        >>> lines = ["a fine film", "a dull film"] * 8
        >>> examples = kb.data.Examples(lines, np.array([1, 0] * 8, "int32"), ("bad", "good"), list(range(16)), "here", "train")
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(lines, 60))
        >>> train = kb.data.batches(examples, model, batch_size=4)
        >>> len(train), train.padding.truncated
        (4, 0)
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size of at least 1. Received: batch_size={batch_size}")
    if not len(examples):
        raise ValueError(f"Expected at least one example. Received an empty {examples.role} split of {examples.source}.")
    shuffle = examples.role == "train" if shuffle is None else shuffle
    _accept_token_ids(model)
    table = tokenize(model, examples.inputs)
    widths = _widths(model, lengths)
    order = EpochOrder(table.lengths, batch_size, seed)
    if shuffle:
        model.epoch_order = order
    fixed_plan = grouped_by_length(np.arange(len(examples)), table.lengths, batch_size, pool_batches=None)

    dataset = _dataset(table, order.next_epoch if shuffle else lambda: fixed_plan, len(fixed_plan), examples.targets, widths)
    measured_plan = EpochOrder(table.lengths, batch_size, seed).next_epoch() if shuffle else fixed_plan
    dataset.padding = _measure(table, measured_plan, widths)
    if table.truncated:
        logger.warning("%s (%s): %d of %d texts are longer than %d tokens and were cut.", examples.source, examples.role,
                       table.truncated, len(examples), widths[-1])  # fmt: skip
    return dataset


def predict_logits(model: keras.Model, inputs: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """Computes the logits of raw texts, batch by batch in order of length.

    Args:
        model: A KerasHub text classifier with its preprocessor.
        inputs: N texts.
        batch_size: Texts computed at once.

    Returns:
        float32 (N, C), in the order of `inputs`.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> predict_logits(model, ["a film", "film"]).shape
        (2, 2)
    """
    _accept_token_ids(model)
    table = tokenize(model, inputs)
    plan = grouped_by_length(np.arange(len(inputs)), table.lengths, batch_size, pool_batches=None)
    dataset = _dataset(table, lambda: plan, len(plan), np.zeros(len(inputs), "int32"), _widths(model, None))
    order = np.concatenate(plan)
    computed = np.asarray(model.predict(dataset, verbose=0), "float32")
    logits = np.empty_like(computed)
    logits[order] = computed
    return logits


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
    preprocessor: Any = getattr(model, "preprocessor", None)
    if getattr(preprocessor, "tokenizer", None) is None:
        raise TypeError(
            f"Expected a model with a text preprocessor. Received: {type(model).__name__} with preprocessor={preprocessor!r}. "
            "Build it with kerasbig.text.bert_classifier, which keeps its tokenizer."
        )
    if not preprocessor.built:
        preprocessor.build(None)
    room = preprocessor.sequence_length - 2

    def pack(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        tokens = preprocessor.tokenizer(texts)  # ragged (B, T)
        token_ids, _ = preprocessor.packer((tokens,))  # (B, sequence_length)
        whole = tokens.row_lengths()
        return token_ids, tf.minimum(whole, room) + 2, tf.cast(whole > room, tf.int32)

    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(list(inputs), tf.string)).batch(chunk)
    ids, lengths, truncated = [], [], 0
    for dense, kept, cut in dataset.map(pack, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator():
        ids.append(dense[np.arange(dense.shape[1]) < kept[:, None]])  # (B, T) -> (tokens of the chunk,)
        lengths.append(kept)
        truncated += int(cut.sum())
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype("int64")
    return TokenTable(np.concatenate(ids).astype("int32"), starts, truncated)


def grouped_by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, *, pool_batches: int | None = POOL_BATCHES
) -> list[np.ndarray]:
    """Cuts an order of examples into batches of similar length.

    Args:
        order: int (N,): example numbers.
        lengths: int (N,): tokens of each example, by its number.
        batch_size: Examples in a batch.
        pool_batches: Batches that are sorted together; None sorts all.

    Returns:
        ceil(N / batch_size) arrays of example numbers; only the last may be shorter.

    Example:
        >>> [group.tolist() for group in grouped_by_length(np.arange(4), np.array([9, 3, 8, 2]), 2)]
        [[3, 1], [2, 0]]
    """
    pool = len(order) if pool_batches is None else batch_size * pool_batches
    sorted_order = np.concatenate(
        [part[np.argsort(lengths[part], kind="stable")] for part in np.split(order, range(pool, len(order), pool))]
    )
    return np.split(sorted_order, range(batch_size, len(order), batch_size))


def _dataset(
    table: TokenTable, next_plan: Callable[[], list[np.ndarray]], steps: int, targets: np.ndarray, widths: np.ndarray
) -> tf.data.Dataset:
    """Returns the batches of a plan, asked for anew at each pass."""

    def generate() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        for chosen in next_plan():
            yield _padded(table, chosen, widths), targets[chosen]

    ids = tf.TensorSpec((None, None), tf.int32)
    signature = ({"token_ids": ids, "segment_ids": ids, "padding_mask": ids}, tf.TensorSpec((None,), targets.dtype))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def _widths(model: keras.Model, lengths: Sequence[int] | None) -> np.ndarray:
    """Returns the ascending lengths that batches are padded to; the last one is the model's sequence length."""
    longest = model.preprocessor.sequence_length
    if lengths is None:
        # Steps of 8 waste least on short texts, where a step weighs most; steps of a third suffice beyond.
        lengths = [*(n for n in (16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384) if n < longest), longest]
    if not lengths or max(lengths) < longest or min(lengths) < 1:
        raise ValueError(
            f"Expected positive `lengths` that reach the model's sequence_length of {longest}. Received: lengths={list(lengths)}. "
            f"Add {longest}, or build the model with a smaller sequence_length."
        )
    return np.array(sorted(n for n in set(lengths) if n <= longest))


def _padded(table: TokenTable, chosen: np.ndarray, widths: np.ndarray) -> dict[str, np.ndarray]:
    """Returns one batch of inputs, padded to the smallest width that holds its longest text."""
    rows = [table.token_ids[table.starts[i] : table.starts[i + 1]] for i in chosen]
    width = _width(max(len(row) for row in rows), widths)
    token_ids = np.zeros((len(rows), width), "int32")  # (B, T)
    padding_mask = np.zeros_like(token_ids)
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = row
        padding_mask[i, : len(row)] = 1
    return {"token_ids": token_ids, "segment_ids": np.zeros_like(token_ids), "padding_mask": padding_mask}


def _width(length: int, widths: np.ndarray) -> int:
    return int(widths[np.searchsorted(widths, length)])


def _measure(table: TokenTable, plan: list[np.ndarray], widths: np.ndarray) -> Padding:
    """Counts the tokens of one epoch without computing it."""
    lengths = table.lengths
    computed = sum(len(chosen) * _width(int(lengths[chosen].max()), widths) for chosen in plan)
    longest = int(widths[-1])
    return Padding(len(lengths), int(lengths.sum()), computed, len(lengths) * longest, table.truncated, longest)


def _accept_token_ids(model: keras.Model) -> None:
    """Lets `fit`, `evaluate` and `predict` of a KerasHub task take token ids as well as raw texts.

    A task runs its preprocessor on whatever it is given, so batches that are tokenized already must pass it by.
    """
    if not hasattr(model, "preprocess_samples") or getattr(model.preprocess_samples, "accepts_token_ids", False):
        return
    tokenize_samples = model.preprocess_samples

    def preprocess_samples(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        if isinstance(x, Mapping) and "token_ids" in x:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return tokenize_samples(x, y, sample_weight)

    preprocess_samples.accepts_token_ids = True  # type: ignore[attr-defined]
    model.preprocess_samples = preprocess_samples
