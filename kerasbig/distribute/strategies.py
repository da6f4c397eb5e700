"""Choosing a tf.distribute strategy under which `fit` is right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kerasbig.distribute.workers import join_workers, read_tf_config

STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


def strategy(name: str | tf.distribute.Strategy = "auto", *, replicas: int | None = None) -> tf.distribute.Strategy:
    """Returns the strategy whose scope a model is built, and its optimizer made, in.

    Inside the scope Keras is mended where it is wrong on several replicas (`kerasbig.distribute.keras_fixes`); models
    built there stay right after it. Batches are global: each is split over the replicas by rows.

    Args:
        name: "one" device; "mirrored" over the GPUs of this machine, or its logical CPUs where it has none;
            "multi_worker" over the machines that TF_CONFIG names; "tpu"; "auto" for what TF_CONFIG and the devices say;
            or a strategy of your own.
        replicas: For "mirrored", how many of the devices; on CPUs they are made if TensorFlow has not begun yet.
            None for all.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: If `name` is none of these, TF_CONFIG is missing or malformed, there are fewer devices than `replicas`,
            or the strategy is one under which Keras gives wrong results (parameter server, central storage).
        ConnectionError: If the other workers cannot be reached.
        RuntimeError: In the scope, if Keras is of another version than the mended one.

    Example:
        >>> strategy("auto").num_replicas_in_sync
        1
    """
    from kerasbig.distribute.refusals import check_strategy

    if isinstance(name, tf.distribute.Strategy):
        chosen = name
    elif name not in STRATEGIES:
        raise ValueError(
            f"Expected a strategy out of {', '.join(STRATEGIES)}, or a tf.distribute.Strategy. Received: {name!r}. Parameter servers, "
            "central storage and keras.distribution give no right results with Keras 3 on TensorFlow: use 'mirrored' or 'multi_worker'."
        )
    else:
        chosen = _made(_resolved(name), replicas)
    check_strategy(chosen)
    return _prepared(chosen) if chosen.num_replicas_in_sync > 1 else chosen


def _resolved(name: str) -> str:
    """Returns what "auto" stands for here."""
    if name != "auto":
        return name
    cluster = read_tf_config(required=False)
    if sum(map(len, cluster.values())) > 1:
        return "multi_worker"
    if tf.config.list_logical_devices("TPU"):
        return "tpu"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one"


def _made(name: str, replicas: int | None) -> tf.distribute.Strategy:
    if replicas is not None and name != "mirrored":
        raise ValueError(f"Expected replicas= with strategy 'mirrored' only. Received: replicas={replicas} with {name!r}.")
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices(replicas))
    if name == "multi_worker":
        return join_workers()
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME", "local"))
    except Exception as error:
        raise ValueError(f"Expected a TPU for strategy 'tpu'. Received: {error}. Use strategy 'auto' on other machines.") from error
    return tf.distribute.TPUStrategy(resolver)


def _devices(replicas: int | None) -> list[str]:
    """Returns the names of the GPUs, or of the logical CPUs, to train on."""
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if replicas is not None and kind == "CPU":
        _split_cpu(replicas)
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    if replicas is not None and not 1 <= replicas <= len(names):
        raise ValueError(
            f"Expected replicas from 1 to {len(names)}, the {kind}s that TensorFlow has here. Received: replicas={replicas}. "
            + ("Ask for them before anything else uses TensorFlow: it cannot split its CPU later." if kind == "CPU" else "Use fewer.")
        )
    return names[:replicas]


def _split_cpu(replicas: int) -> None:
    """Makes logical CPUs; TensorFlow refuses once it has begun, and then there are as many as there are."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)


def _prepared(chosen: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Gives a strategy the exact split of batches, and a scope in which Keras is mended."""
    from kerasbig.distribute.keras_fixes import repaired
    from kerasbig.distribute.sharding import distribute_dataset

    if hasattr(chosen, "kerasbig_prepared"):
        return chosen
    stock_scope, stock_distribute = chosen.scope, chosen.experimental_distribute_dataset

    @contextlib.contextmanager
    def scope() -> Iterator[Any]:
        with stock_scope() as inside, repaired(chosen):
            yield inside

    def experimental_distribute_dataset(dataset: tf.data.Dataset, options: Any = None) -> Any:
        return distribute_dataset(chosen, dataset, lambda given: stock_distribute(given, options))

    chosen.scope, chosen.experimental_distribute_dataset = scope, experimental_distribute_dataset
    chosen.kerasbig_prepared = True
    return chosen
