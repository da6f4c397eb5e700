"""The straight way from nothing to an example, where gradients are taken: through embeddings of words, or through pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.explain.bert_layers import answer, encode
from kerasbig.explain.reading import reader_of
from kerasbig.explain.regions import ImageCase
from kerasbig.explain.subjects import Subject, activation_of, with_activation
from kerasbig.explain.words import TextCase

AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Path:
    """Where gradients of an answer are taken.

    Attributes:
        start: float32, what stands for nothing: (T, D) embeddings or (H, W, C) pixels.
        end: float32, the example in the same shape.
        function: From a tensor (B, ...) to scores (B, C), differentiable.
        by_unit: From attributions in that shape to those of words (M,) or pixels (H, W).
        sums_to_one: Whether the scores of all outputs always sum to 1, so that the gradients of the last one follow from the others'.
    """

    start: np.ndarray
    end: np.ndarray
    function: Callable[[Any], Any]
    by_unit: Callable[[np.ndarray], np.ndarray]
    sums_to_one: bool = False

    def scores(self, points: np.ndarray) -> np.ndarray:
        """Returns float64 (N, C): the scores at N points."""
        parts = [self.function(tf.constant(points[i : i + AT_ONCE])) for i in range(0, len(points), AT_ONCE)]
        return np.concatenate([np.asarray(part, "float64") for part in parts])

    def gradients(self, points: np.ndarray, columns: list[int]) -> np.ndarray:
        """Returns float64 (K, ...): for each of K outputs the mean of its gradients over N points."""
        width = int(self.function(tf.constant(self.end[None])).shape[-1])
        asked = columns[:-1] if self.sums_to_one and 1 < len(columns) == width else columns
        total = np.zeros((len(asked), *self.end.shape))
        for first in range(0, len(points), AT_ONCE):
            at = tf.constant(points[first : first + AT_ONCE])
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(at)
                scores = self.function(at)
                parts = [tf.reduce_sum(scores[:, column]) for column in asked]
            total += np.stack([np.asarray(tape.gradient(part, at), "float64").sum(axis=0) for part in parts])
        if len(asked) < len(columns):
            total = np.concatenate([total, -total.sum(axis=0, keepdims=True)])
        return total / len(points)

    def model(self) -> keras.Model:
        """Returns the function as a Keras model, for a library that takes nothing else."""
        inputs = keras.Input(self.end.shape)
        width = int(self.function(tf.constant(self.end[None])).shape[-1])
        return keras.Model([inputs], _Apply(self.function, width)(inputs))


class _Apply(keras.layers.Layer):
    def __init__(self, function: Callable[[Any], Any], width: int):
        super().__init__()
        self._function, self._width = function, width

    def call(self, inputs: Any) -> Any:
        return self._function(inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self._width)


def path_of(of: Subject, case: TextCase | ImageCase) -> Path:
    """Returns the way to an example of a model that gradients can be taken from."""
    if isinstance(case, TextCase):
        return _through_embeddings(of, case)
    if of.differentiable is None:
        raise ValueError("Expected a model that gradients can be taken from. Received a plain function. Use lime, or shap by partition.")
    return Path(case.baseline, case.image, of.differentiable, lambda values: values.sum(axis=-1))


def _through_embeddings(of: Subject, case: TextCase) -> Path:
    """The way through a BERT's token embeddings, from a text of [MASK] to the text; [CLS] and [SEP] stay."""
    model: Any = of.model
    token_ids = reader_of(model).tokens([case.text]).token_ids  # (T,)
    masked = np.full_like(token_ids, model.preprocessor.tokenizer.mask_token_id)
    masked[[0, -1]] = token_ids[[0, -1]]
    embed = model.backbone.token_embedding
    start, end = (np.asarray(embed(tf.constant(ids[None])), "float32")[0] for ids in (masked, token_ids))
    made = activation_of(model, of.class_names)
    owners = pieces_of_units(model, case)

    def function(embeddings: Any) -> Any:
        return with_activation(answer(model, encode(model.backbone, embeddings)[0]), made)

    def by_unit(values: np.ndarray) -> np.ndarray:
        return owners @ values.reshape(len(token_ids), -1).sum(axis=1)

    return Path(start, end, function, by_unit, sums_to_one=made == "softmax")


def pieces_of_units(model: Any, case: TextCase) -> np.ndarray:
    """Returns which tokens make up which units.

    Args:
        model: A KerasHub BERT classifier.
        case: A text that the model reads to its end.

    Returns:
        float64 (M, T): the share of token t that belongs to unit m; [CLS] and [SEP] belong to none. Where a token reaches over
        several units, such as a word with an emoji at its end, they share it.
    """
    gaps = [i for i in range(1, case.count) if case.spans[i, 0] > case.spans[i - 1, 1]]
    # Between spaces, pieces never reach over: so much is sure of every tokenizer of this kind.
    chunks = np.split(np.arange(case.count), gaps)
    texts = [case.text[case.spans[chunk[0], 0] : case.spans[chunk[-1], 1]] for chunk in chunks]
    by_chunk, by_unit = _token_ids(model, texts), _token_ids(model, list(case.tokens))
    owners = np.zeros((case.count, sum(map(len, by_chunk)) + 2))
    place = 1  # after [CLS]
    for chunk, ids in zip(chunks, by_chunk, strict=True):
        if [token for unit in chunk for token in by_unit[unit]] == ids:
            for unit in chunk:
                owners[unit, place : place + len(by_unit[unit])] = 1
                place += len(by_unit[unit])
        else:
            owners[chunk, place : place + len(ids)] = 1 / len(chunk)
            place += len(ids)
    return owners


def _token_ids(model: Any, texts: list[str]) -> list[list[int]]:
    table = reader_of(model).tokens(texts)
    return [table.token_ids[start + 1 : stop - 1].tolist() for start, stop in zip(table.starts[:-1], table.starts[1:], strict=True)]
