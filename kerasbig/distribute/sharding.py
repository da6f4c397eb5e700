"""Which replica gets which rows of a global batch: disjoint, complete, and the same split on every worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_Policy = tf.data.experimental.AutoShardPolicy
# Datasets that each worker reads its own part of are left to tf.distribute.
_OWN_PARTS = (_Policy.FILE, _Policy.OFF, _Policy.HINT)


def distribute_dataset(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset, stock: Callable[[tf.data.Dataset], Any]) -> Any:
    """Splits each batch of a dataset over the replicas by rows.

    Replica r of R takes rows floor(r n / R) to floor((r + 1) n / R) of a batch of n, so each row is on one replica, counts
    differ by one at most, and a batch of fewer rows than replicas leaves some with none. Every worker reads the whole
    dataset, must read the same, and makes the same number of steps.

    Args:
        strategy: The strategy to train under.
        dataset: Global batches, the same on every worker. With the option `experimental_distribute.auto_shard_policy` FILE
            each worker reads files of its own, with OFF it is taken as the worker's own part: tf.distribute does both.
        stock: The strategy's own `experimental_distribute_dataset`.

    Returns:
        A distributed dataset, one element a global batch.
    """
    if dataset.options().experimental_distribute.auto_shard_policy in _OWN_PARTS:
        return stock(dataset)
    replicas = strategy.num_replicas_in_sync
    workers = strategy.extended._num_workers if hasattr(strategy.extended, "_num_workers") else 1
    local_replicas = replicas // workers

    def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
        def parts(*batch: Any) -> tf.data.Dataset:
            element = batch if isinstance(dataset.element_spec, tuple) else batch[0]
            rows = tf.cast(tf.shape(tf.nest.flatten(element)[0])[0], tf.int64)

            def part(local: tf.Tensor) -> Any:
                # Keras puts predictions together in this order: the first replicas of all workers, then the second ones.
                position = local * workers + context.input_pipeline_id
                begin, end = position * rows // replicas, (position + 1) * rows // replicas
                return tf.nest.map_structure(lambda tensor: tensor[begin:end], element)

            return tf.data.Dataset.range(local_replicas).map(part)

        return dataset.flat_map(parts).prefetch(local_replicas)

    return strategy.distribute_datasets_from_function(make)
