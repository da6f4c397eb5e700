"""Examples -> batches of token ids: tokenized once, grouped by length, shuffled anew each epoch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.augmentation import Augmentation
from kerasbig.data.box_augmentation import BoxAugmentation
from kerasbig.data.documents import Documents
from kerasbig.data.examples import Examples
from kerasbig.data.images import is_images
from kerasbig.data.passes import planned_batches
from kerasbig.data.tokenizing import TokenTable, tokenize

logger = logging.getLogger(__name__)

# Batches are drawn from pools of this many, sorted by length inside: large enough for little padding, small enough to stay random.
POOL_BATCHES = 50


@dataclass(frozen=True)
class Padding:
    """How much of what is computed is real text.

    Attributes:
        examples: Number of texts.
        real_tokens: Tokens that stand for text, [CLS], [SEP] and the like included.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, for a Run's config.json."""
        return asdict(self) | {"fraction": self.fraction}

    def __str__(self) -> str:
        cut = f", {self.truncated:,} cut to {self.sequence_length} tokens" if self.truncated else ""
        saved = self.fixed_tokens / max(self.computed_tokens, 1)
        left = f"{self.fraction:.1%} of the computed tokens are padding ({saved:.1f}x fewer tokens than fixed length)"
        return f"{self.examples:,} texts{cut}; {left}"


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
    examples: Examples | Documents,
    model: keras.Model,
    *,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    seed: int = 0,
    lengths: Sequence[int] | None = None,
    respect_borders: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    augment: Augmentation | BoxAugmentation | str | None = None,
    cache: bool | None = None,
) -> tf.data.Dataset:
    """Turns examples, or the documents of a text generator, into batches that `model.fit`, `evaluate` and `predict` take.

    Texts are tokenized once, in parallel, by the model's own tokenizer. Examples are grouped by length, so that little padding
    is computed; documents become windows, as `kerasbig.data.windows` tells; images are decoded, resized and augmented, as
    `kerasbig.data.image_batches` tells. A training split is shuffled anew in each epoch, whatever the order of the file.

    Args:
        examples: What `kerasbig.data.load` returned.
        model: A KerasHub text classifier with its preprocessor; for documents a text generator; for images an image task.
        batch_size: Examples in a batch, by default 32, or windows, by default 8; the last batch may hold fewer.
        shuffle: Whether to shuffle; by default only where `examples.role` is "train".
        seed: Decides the order, together with the number of the epoch.
        lengths: The lengths in tokens that batches are padded to; by default 16, 24, 32, 48, 64, 96, … up to the
            model's `sequence_length`.
        respect_borders: For documents: whether no window reaches over the border of a document.
        cache_dir: For documents: where token files are kept, as for `kerasbig.data.token_files.tokenize_documents`.
        progress: For documents: whether to show on standard error how far the tokenizing is.
        augment: For images: how they are changed at random, an `Augmentation` or a key of `AUGMENTATIONS`; where they have boxes,
            a `BoxAugmentation` or a key of `BOX_AUGMENTATIONS`; not at all if None.
        cache: For images: whether they are kept in memory once they are decoded; by default if they take up to 1 GiB.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets)`: inputs is a dict of int32 (B, T) `token_ids`, `segment_ids` and
        `padding_mask` (1 = real); targets is int32 (B,) class ids or float32 (B,) values. For documents see
        `kerasbig.data.windows.window_batches`, for images `kerasbig.data.image_batches.image_batches`. Its attribute `padding` is
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
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"Expected batch_size of at least 1. Received: batch_size={batch_size}")
    if isinstance(examples, Documents):
        # Only here, since that module takes the order of the epochs from this one.
        from kerasbig.data.windows import window_batches

        return window_batches(
            examples, model, batch_size=batch_size or 8, shuffle=shuffle, seed=seed, lengths=lengths, respect_borders=respect_borders,
            cache_dir=cache_dir, progress=progress,
        )  # fmt: skip
    batch_size = batch_size or 32
    if respect_borders:
        raise ValueError(f"Expected respect_borders for documents only. Received: it beside {type(examples).__name__}. Leave it out.")
    if not len(examples):
        raise ValueError(f"Expected at least one example. Received an empty {examples.role} split of {examples.source}.")
    if is_images(examples.inputs):
        # Only here, as above.
        from kerasbig.data.image_batches import image_batches

        return image_batches(examples, model, batch_size=batch_size, shuffle=shuffle, seed=seed, augment=augment, cache=cache)
    if augment is not None or cache is not None:
        raise ValueError("Expected augment and cache for images only. Received one of them beside texts. Leave it out.")
    shuffle = examples.role == "train" if shuffle is None else shuffle
    accept_prepared(model, "token_ids")
    table = tokenize(model, examples.inputs)
    widths = padded_widths(model, lengths)
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


def predict_logits(model: keras.Model, inputs: Any, *, batch_size: int = 64) -> np.ndarray:
    """Computes the logits of raw texts, batch by batch in order of length; or of images.

    Args:
        model: A KerasHub text classifier with its preprocessor, or an image classifier.
        inputs: N texts; for an image classifier N paths, or uint8 (N, H, W, 3).
        batch_size: Texts or images computed at once.

    Returns:
        float32 (N, C), in the order of `inputs`.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> predict_logits(model, ["a film", "film"]).shape
        (2, 2)
    """
    if getattr(model.preprocessor, "image_converter", None) is not None:
        from kerasbig.data.image_batches import predict_image_logits

        return predict_image_logits(model, inputs, batch_size=batch_size)
    accept_prepared(model, "token_ids")
    table = tokenize(model, inputs)
    plan = grouped_by_length(np.arange(len(inputs)), table.lengths, batch_size, pool_batches=None)
    dataset = _dataset(table, lambda: plan, len(plan), np.zeros(len(inputs), "int32"), padded_widths(model, None))
    order = np.concatenate(plan)
    computed = np.asarray(model.predict(dataset, verbose=0), "float32")
    logits = np.empty_like(computed)
    logits[order] = computed
    return logits


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

    def make(chosen: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        return padded(table, chosen, widths), targets[chosen]

    ids = tf.TensorSpec((None, None), tf.int32)
    signature = ({"token_ids": ids, "segment_ids": ids, "padding_mask": ids}, tf.TensorSpec((None,), targets.dtype))
    dataset = planned_batches(next_plan, make, signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def padded_widths(model: keras.Model, lengths: Sequence[int] | None) -> np.ndarray:
    """Returns the ascending lengths that batches are padded to; the last one is the model's sequence length.

    Raises:
        ValueError: If `lengths` are not positive or do not reach the model's sequence length.
    """
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


def padded(table: TokenTable, chosen: np.ndarray, widths: np.ndarray) -> dict[str, np.ndarray]:
    """Returns one batch of inputs, padded to the smallest width that holds its longest text."""
    rows = [table.token_ids[table.starts[i] : table.starts[i + 1]] for i in chosen]
    width = width_for(max(len(row) for row in rows), widths)
    token_ids = np.zeros((len(rows), width), "int32")  # (B, T)
    padding_mask = np.zeros_like(token_ids)
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = row
        padding_mask[i, : len(row)] = 1
    return {"token_ids": token_ids, "segment_ids": np.zeros_like(token_ids), "padding_mask": padding_mask}


def width_for(length: int, widths: np.ndarray) -> int:
    """Returns the smallest width that holds so many tokens.

    Example:
        >>> width_for(17, np.array([16, 24, 32]))
        24
    """
    return int(widths[np.searchsorted(widths, length)])


def _measure(table: TokenTable, plan: list[np.ndarray], widths: np.ndarray) -> Padding:
    """Counts the tokens of one epoch without computing it."""
    lengths = table.lengths
    computed = sum(len(chosen) * width_for(int(lengths[chosen].max()), widths) for chosen in plan)
    longest = int(widths[-1])
    return Padding(len(lengths), int(lengths.sum()), computed, len(lengths) * longest, table.truncated, longest)


def accept_prepared(model: keras.Model, name: str) -> None:
    """Lets `fit`, `evaluate` and `predict` of a KerasHub task take inputs that are prepared already, as well as raw ones.

    A task runs its preprocessor on whatever it is given, so batches that are tokenized or resized already must pass it by.

    Args:
        model: The task.
        name: A key that prepared inputs have, such as "token_ids". A model of one input gets what stands there alone.
    """
    if not hasattr(model, "preprocess_samples") or getattr(model.preprocess_samples, "accepts_prepared", False):
        return
    prepare_samples = model.preprocess_samples

    def preprocess_samples(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        if isinstance(x, Mapping) and name in x:
            x = x if isinstance(model.input, Mapping) else x[name]
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return prepare_samples(x, y, sample_weight)

    preprocess_samples.accepts_prepared = True  # type: ignore[attr-defined]
    model.preprocess_samples = preprocess_samples
