"""Datasets whose order Python decides anew at each pass.

`tf.data.Dataset.from_generator` would be shorter. But once one runs, TensorFlow sets glibc's M_TRIM_THRESHOLD to 128 KiB, which also
ends glibc's own adapting of its thresholds: from then on each larger tensor of the process is memory mapped anew, cleared by the
system, and given back.

Source: mallopt(3); TensorFlow 2.21, `tensorflow/core/kernels/data/generator_dataset_op.cc`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def asked_anew(ask: Callable[[], Any], signature: Any) -> tf.data.Dataset:
    """Returns a dataset of one element, which a function gives when a pass begins.

    Args:
        ask: Returns arrays, nested as `signature`.
        signature: `tf.TensorSpec`s of them; also nested in tuples and dicts.

    Returns:
        A `tf.data.Dataset` of one element with that signature.

    Example:
        >>> numbers = iter([5, 6])
        >>> dataset = asked_anew(lambda: next(numbers), tf.TensorSpec((), tf.int64))
        >>> [int(element) for element in dataset], [int(element) for element in dataset]
        ([5], [6])
    """
    return tf.data.Dataset.from_tensors(0).map(lambda _: _from_python(ask, [], signature))


def planned_batches(next_plan: Callable[[], Sequence[np.ndarray]], make: Callable[[np.ndarray], Any], signature: Any) -> tf.data.Dataset:
    """Returns the batches of a plan, which is asked for when a pass begins.

    Args:
        next_plan: Returns for each batch the int (B,) numbers of its examples.
        make: Makes a batch from them: arrays, nested as `signature`. It is called for one batch after the other.
        signature: `tf.TensorSpec`s of a batch; also nested in tuples and dicts.

    Returns:
        A `tf.data.Dataset` of batches with that signature, of unknown cardinality.

    Example:
        >>> plan = [np.array([2, 0]), np.array([1])]
        >>> dataset = planned_batches(lambda: plan, lambda chosen: chosen * 10, tf.TensorSpec((None,), tf.int64))
        >>> [batch.tolist() for batch in dataset.as_numpy_iterator()]
        [[20, 0], [10]]
    """

    def order() -> tuple[np.ndarray, np.ndarray]:
        plan = next_plan()
        return np.concatenate(plan), np.cumsum([0, *map(len, plan)])

    def batches(numbers: tf.Tensor, borders: tf.Tensor) -> tf.data.Dataset:
        steps = tf.data.Dataset.range(tf.size(borders, tf.int64) - 1)
        return steps.map(lambda step: _from_python(make, [numbers[borders[step] : borders[step + 1]]], signature))

    row = tf.TensorSpec((None,), tf.int64)
    return asked_anew(order, (row, row)).flat_map(batches)


def _from_python(function: Callable[..., Any], arguments: Sequence[tf.Tensor], signature: Any) -> Any:
    """Calls a function on arrays, from within a graph."""
    specs = tf.nest.flatten(signature)

    def flat(*arrays: np.ndarray) -> list[np.ndarray]:
        values = tf.nest.flatten(function(*arrays))
        return [np.asarray(value, spec.dtype.as_numpy_dtype) for value, spec in zip(values, specs, strict=True)]

    values = tf.numpy_function(flat, arguments, [spec.dtype for spec in specs])
    return tf.nest.pack_sequence_as(signature, [tf.ensure_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True)])
