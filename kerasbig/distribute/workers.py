"""Joining the workers that TF_CONFIG names, within a stated time."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping

import tensorflow as tf

START_TIMEOUT_SECONDS = 300
POLL_SECONDS = 0.2
# A worker that is silent for so long is lost: the others end.
LOST_AFTER_SECONDS = 30
_FIX = 'Write TF_CONFIG=\'{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}\''


def read_tf_config(*, required: bool) -> Mapping[str, list[str]]:
    """Reads and checks the cluster in the environment variable TF_CONFIG.

    Args:
        required: Whether it must be there.

    Returns:
        Addresses by job: {"worker": ["host:port", …]}, also "chief"; empty if TF_CONFIG is not set.

    Raises:
        ValueError: If it is not set and required, is no JSON, names no cluster, no task of the cluster or no port, or has
            parameter servers.

    Example:
        >>> read_tf_config(required=False)
        {}
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        if required:
            raise ValueError(f"Expected TF_CONFIG for strategy 'multi_worker'. Received none. {_FIX}, or use `kerasbig launch`.")
        return {}
    try:
        config = json.loads(text)
        cluster, task = dict(config["cluster"]), dict(config["task"])
        own = cluster[task["type"]][int(task["index"])]
        addresses = [address for job in cluster.values() for address in job]
        sound = int(task["index"]) >= 0 and bool(own) and all(address.rpartition(":")[2].isdigit() for address in addresses)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected TF_CONFIG with a cluster and a task of it. Received: {text!r} ({error!r}). {_FIX}") from None
    if not sound or len(set(addresses)) != len(addresses):
        raise ValueError(f"Expected TF_CONFIG with a different host:port for each task. Received: {text!r}. {_FIX}")
    wrong = sorted(set(cluster) - {"chief", "worker", "evaluator"})
    if wrong:
        raise ValueError(
            f"Expected a TF_CONFIG of chief and workers. Received: the job {wrong[0]!r}; parameter servers give no right results with "
            "Keras 3. Make every machine a worker and use strategy 'multi_worker'."
        )
    return cluster


def join_workers(timeout_seconds: int = START_TIMEOUT_SECONDS) -> tf.distribute.Strategy:
    """Returns the strategy over all workers of TF_CONFIG, once all of them are there.

    Args:
        timeout_seconds: How long to wait for the others.

    Raises:
        ValueError: If TF_CONFIG is missing or malformed.
        ConnectionError: If not all workers are there in time, naming those whose port cannot be reached, or this worker's
            own port is taken.
        RuntimeError: If TensorFlow is in use already.
    """
    cluster = read_tf_config(required=True)
    missing = _meet(cluster, timeout_seconds)
    if missing:
        raise ConnectionError(
            f"Expected {sum(map(len, cluster.values()))} workers to meet within {timeout_seconds} s. Received no answer from "
            f"{', '.join(missing)}. Check TF_CONFIG, that each runs and that its port is open."
        )
    try:
        return _joined(cluster, timeout_seconds)
    except (tf.errors.OpError, RuntimeError) as error:
        if "program startup" in str(error):
            raise RuntimeError(
                "Expected the strategy 'multi_worker' to be asked for before anything else uses TensorFlow. Received a call after. "
                "Make kerasbig.distribute.strategy('multi_worker') the first line after the imports."
            ) from error
        raise ConnectionError(f"Expected the workers to join. Received: {str(error).splitlines()[0]}. Start all of them again.") from error


def _meet(cluster: Mapping[str, list[str]], timeout_seconds: float) -> list[str]:
    """Waits until every worker's port answers, and returns the addresses that do not: TensorFlow would wait for them for ever.

    This worker's own port is open meanwhile, and TensorFlow's server takes it over.
    """
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    own = cluster[task["type"]][int(task["index"])]
    missing = [address for job, addresses in cluster.items() for address in addresses if job != "evaluator" and address != own]
    both = socket.has_dualstack_ipv6()
    place, family = ("", int(own.rpartition(":")[2])), socket.AF_INET6 if both else socket.AF_INET
    deadline = time.monotonic() + timeout_seconds
    try:
        listener = socket.create_server(place, family=family, backlog=4096, dualstack_ipv6=both)
    except OSError as error:
        raise ConnectionError(f"Expected this worker's port in {own!r} to be free. Received: {error.strerror}. Choose another.") from error
    with listener:
        while missing and time.monotonic() < deadline:
            missing = [address for address in missing if not _answers(address)]
            time.sleep(POLL_SECONDS if missing else 0)
    return missing


def _joined(cluster: Mapping[str, list[str]], timeout_seconds: int) -> tf.distribute.Strategy:
    """TensorFlow has no public name for how long a silent worker counts as there."""
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    chief = "chief" if "chief" in cluster else "worker"
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{chief}/replica:0/task:0",
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
            for job, addresses in cluster.items()
            if job != "evaluator"
        ],
        cluster_register_timeout_in_ms=1000 * timeout_seconds,
        heartbeat_timeout_in_ms=1000 * LOST_AFTER_SECONDS,
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True
