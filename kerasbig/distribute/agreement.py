"""What workers tell each other outside of the training step: numbers, compared before anything is lost."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def number_of_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes train together."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return int(strategy.extended._num_workers)
    return 1


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Returns this process's place among the workers, from 0; the chief has 0."""
    resolver = strategy.cluster_resolver if number_of_workers(strategy) > 1 else None
    if resolver is None:
        return 0
    return int(resolver.task_id) + (resolver.task_type != "chief" and "chief" in resolver.cluster_spec().as_dict())


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files."""
    return worker_number(strategy) == 0


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come this far."""
    gathered(strategy, [0])


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Runs a block on the chief, and on the others when the chief is through: they find the files that it made.

    Raises:
        RuntimeError: On the others, if the block failed on the chief.
    """
    if is_chief(strategy):
        failed = 1
        try:
            yield
            failed = 0
        finally:
            gathered(strategy, [failed])
        return
    if gathered(strategy, [0])[:, 0].any():
        raise RuntimeError("Expected the first worker to begin. It failed: see its log.")
    yield


def gathered(strategy: tf.distribute.Strategy, numbers: Sequence[int]) -> np.ndarray:
    """Returns the numbers of all workers; every worker must call it at the same place.

    Args:
        strategy: The strategy of the training.
        numbers: K integers of this worker.

    Returns:
        int64 (workers, K).

    Example:
        >>> gathered(tf.distribute.get_strategy(), [3, 4]).tolist()
        [[3, 4]]
    """
    if number_of_workers(strategy) == 1:
        return np.array([numbers], "int64")
    mine = np.array([numbers], "int64")
    each = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(mine))
    rows = strategy.gather(each, axis=0).numpy()
    return np.asarray(rows[:: len(rows) // number_of_workers(strategy)])


def check_same_data(model: Any, dataset: tf.data.Dataset, steps: int | None) -> None:
    """Compares the first batch and the number of batches of all workers.

    Args:
        model: The model that is about to be fitted; where its data begins (`epoch_order`) is left as it was.
        dataset: Global batches, as this worker reads them.
        steps: Batches in an epoch, or None.

    Raises:
        ValueError: On every worker, if one of them reads other data or in another order: examples would be seen twice
            and others never.
    """
    strategy = model.distribute_strategy
    policy = dataset.options().experimental_distribute.auto_shard_policy
    own_parts = (tf.data.experimental.AutoShardPolicy.FILE, tf.data.experimental.AutoShardPolicy.OFF)
    if number_of_workers(strategy) == 1 or policy in own_parts:
        return
    order = getattr(model, "epoch_order", None)
    epoch = None if order is None else order.epoch
    digest = hashlib.sha256()
    for batch in dataset.take(1):
        for part in tf.nest.flatten(batch):
            digest.update(np.asarray(part).tobytes() if part.dtype != tf.string else b"\0".join(np.asarray(part).ravel().tolist()))
    if order is not None:
        order.epoch = epoch
    everyone = gathered(strategy, [int.from_bytes(digest.digest()[:7], "big"), -1 if steps is None else steps])
    other = [worker for worker, row in enumerate(everyone) if (row != everyone[0]).any()]
    if other:
        what = "number of batches" if (everyone[:, 1] != everyone[0, 1]).any() else "first batch"
        raise ValueError(
            f"Expected the same data in the same order on all {len(everyone)} workers, which share each batch between them. Received: "
            f"another {what} on worker {', '.join(map(str, other))} than on worker 0. Give every worker the same files, seed and "
            "batch_size (keras.utils.set_random_seed), or the option auto_shard_policy=FILE."
        )
