"""Strategies, what they refuse, how batches are split, and precision. What they compute: test_replicas.py."""

from __future__ import annotations

import inspect
import json
import re
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasbig as kb
from kerasbig.distribute import agreement, fastest_precision, keras_fixes, precision, refusals, strategy, workers


@pytest.mark.parametrize("name", ["auto", "one"])
def test_one_device(name):
    assert strategy(name).num_replicas_in_sync == 1


def test_a_strategy_of_the_user(run_python):
    printed = run_python("""
import tensorflow as tf, kerasbig as kb
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mine = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert kb.distribute.strategy(mine) is mine and kb.distribute.strategy(mine) is mine
print(mine.num_replicas_in_sync, kb.distribute.strategy("mirrored").num_replicas_in_sync)
""")
    assert printed.split() == ["2", "2"]


@pytest.mark.parametrize("name", ["parameter_server", "central_storage", "mirored"])
def test_other_strategies_are_refused_with_what_works(name):
    with pytest.raises(ValueError, match=rf"Expected a strategy out of auto, one.*Received: '{name}'.*use 'mirrored' or 'multi_worker'"):
        strategy(name)


def test_central_storage_is_refused():
    with pytest.raises(ValueError, match=r"Received: CentralStorageStrategy; Keras 3 reports wrong metrics"):
        strategy(tf.distribute.experimental.CentralStorageStrategy())


def test_keras_distribution_on_tensorflow_is_refused(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: keras.distribution.DataParallel)
    with pytest.raises(ValueError, match=r"Expected no keras\.distribution on the TensorFlow backend, where it does nothing"):
        strategy("one")


def test_more_replicas_than_devices():
    tf.constant(1)  # TensorFlow has begun: its CPU cannot be split any more
    with pytest.raises(ValueError, match=r"Expected replicas from 1 to \d+, the CPUs .*Received: replicas=64\. Ask for them before"):
        strategy("mirrored", replicas=64)
    with pytest.raises(ValueError, match=r"Expected replicas= with strategy 'mirrored' only"):
        strategy("one", replicas=2)


def test_no_tpu_here():
    with pytest.raises(ValueError, match=r"Expected a TPU for strategy 'tpu'"):
        strategy("tpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"Expected TF_CONFIG for strategy 'multi_worker'\. Received none\. Write TF_CONFIG="),
        ("{", r"Expected TF_CONFIG with a cluster and a task of it\. Received: '\{'"),
        ('{"cluster": {"worker": ["a:1"]}}', "Expected TF_CONFIG with a cluster and a task"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "Expected TF_CONFIG with a cluster and a task"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "with a different host:port for each task"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "with a different host:port for each task"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "Received: the job 'ps'"),
    ],
)
def test_a_wrong_tf_config_is_one_line(text, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        strategy("multi_worker")


def test_auto_reads_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "[]")
    with pytest.raises(ValueError, match="Expected TF_CONFIG with a cluster"):
        strategy("auto")


def test_a_dead_address_is_named_within_the_time(run_python, monkeypatch):
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}))
    printed = run_python("""
import os, sys
from kerasbig.distribute.workers import join_workers
try:
    join_workers(timeout_seconds=3)
except ConnectionError as error:
    print(error)
sys.stdout.flush()
os._exit(0)
""")
    assert f"Expected 2 workers to meet within 3 s. Received no answer from {addresses[1]}" in printed


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {"cluster": {"worker": [own, "127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        with pytest.raises(ConnectionError, match=rf"Expected this worker's port in '{own}' to be free\. Received: Address already in use"):
            workers.join_workers(timeout_seconds=1)


def test_the_private_names_of_tensorflow_are_there():
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    wanted = {"service_type", "service_leader", "coordinated_jobs", "cluster_register_timeout_in_ms", "heartbeat_timeout_in_ms"}
    assert wanted <= set(inspect.signature(context.context().configure_coordination_service).parameters)
    assert {field.name for field in coordination_config_pb2.CoordinatedJob.DESCRIPTOR.fields} >= {"name", "num_tasks"}


MODEL = """
import json, tensorflow as tf, keras, numpy as np, kerasbig as kb
from keras.src.backend.tensorflow import trainer
stock = dict(vars(trainer.TensorFlowTrainer))
strategy = kb.distribute.strategy("mirrored", replicas=2)
def build():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
def said(action):
    try:
        action()
    except Exception as error:
        return str(error)
x, y = np.ones((5, 2), "float32"), np.ones((5, 1), "float32")
"""


def test_keras_is_as_before_outside_of_the_scope(run_python):
    printed = run_python(
        MODEL
        + """
other = build()
with strategy.scope():
    assert dict(vars(trainer.TensorFlowTrainer)) != stock
    model = build()
    model.compile("sgd", "mse")
assert dict(vars(trainer.TensorFlowTrainer)) == stock
other.compile("sgd", "mse")
other.fit(x, y, verbose=0)
print(sorted(set(vars(model)) - set(vars(other))), model.fit(x, y, batch_size=4, verbose=0).epoch)
model.save("/dev/shm/kerasbig-test.keras")
print(type(keras.models.load_model("/dev/shm/kerasbig-test.keras")).__name__)
"""
    )
    assert printed.split("\n")[:2] == ["['_make_function', '_maybe_symbolic_build', 'make_predict_function'] [0]", "Sequential"]


def test_what_would_train_wrongly_is_refused_before_training(run_python):
    printed = run_python(
        MODEL
        + """
found = {}
outsider = build()
outsider.compile("sgd", "mse")
def inside():
    with strategy.scope():
        outsider.fit(x, y, verbose=0)
found["outsider"] = said(inside)
with strategy.scope():
    model, summed, scaled = build(), build(), build()
    summed.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    scaled.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
model.compile(keras.optimizers.SGD(), "mse")
for name, each in {"optimizer": model, "sum": summed, "scaled": scaled}.items():
    found[name] = said(lambda: each.fit(x, y, verbose=0))
print(json.dumps(found))
"""
    )
    found = json.loads(printed)
    assert re.search(r"Expected a model that was built inside this strategy's scope\. Received: 'sequential'", found["outsider"])
    assert "made outside of it. Create the optimizer and compile inside" in found["optimizer"]
    assert "MeanSquaredError with reduction='sum'" in found["sum"]
    assert "Received: LossScaleOptimizer, which mixed_float16 brings" in found["scaled"]


def test_another_keras_is_refused(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    with pytest.raises(RuntimeError, match=r"Expected Keras 3\.15\.x, .*Received: Keras 3\.16\.0\."), keras_fixes.repaired(strategy("one")):
        pass


def test_each_row_is_on_one_replica_and_counts_differ_by_one_at_most(run_python):
    printed = run_python(
        MODEL
        + """
data = tf.data.Dataset.range(16).batch(7).map(lambda rows: {"a": rows, "b": rows[:, None]})
out = []
for element in strategy.experimental_distribute_dataset(data):
    parts = [strategy.experimental_local_results(element[name]) for name in ("a", "b")]
    assert all((a.numpy() == b.numpy()[:, 0]).all() for a, b in zip(*parts))
    out.append([part.numpy().tolist() for part in parts[0]])
print(json.dumps(out))
"""
    )
    assert json.loads(printed) == [[[0, 1, 2], [3, 4, 5, 6]], [[7, 8, 9], [10, 11, 12, 13]], [[14], [15]]]


def test_an_uneven_last_batch_is_not_traced_anew(run_python):
    printed = run_python(
        MODEL
        + """
class Counted(keras.layers.Layer):
    calls = 0
    def call(self, inputs):
        Counted.calls += 1
        return inputs
with strategy.scope():
    model = keras.Sequential([keras.Input((2,)), Counted(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
for action in (model.fit, model.evaluate, model.predict):
    for rows in (4, 5):
        before = Counted.calls
        action(x[:rows], *((y[:rows],) if action != model.predict else ()), batch_size=4, verbose=0)
        print(Counted.calls - before > 0)
"""
    )
    assert printed.split() == ["True", "False"] * 3


def test_files_and_own_parts_are_left_to_tensorflow(run_python):
    printed = run_python(
        MODEL
        + """
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
data = strategy.experimental_distribute_dataset(tf.data.Dataset.range(8).batch(4).with_options(options))
print([[part.numpy().tolist() for part in strategy.experimental_local_results(element)] for element in data])
"""
    )
    assert json.loads(printed) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


class TwoWorkers:
    """Stands for a strategy with two workers, of which the other one sees something else."""

    num_replicas_in_sync = 2


def test_workers_with_other_data_stop(monkeypatch):
    monkeypatch.setattr(agreement, "number_of_workers", lambda strategy: 2)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    data = tf.data.Dataset.range(4).batch(2)
    monkeypatch.setattr(agreement, "gathered", lambda strategy, numbers: np.array([numbers, numbers]))
    agreement.check_same_data(model, data, 2)
    monkeypatch.setattr(agreement, "gathered", lambda strategy, numbers: np.array([numbers, [numbers[0] + 1, numbers[1]]]))
    with pytest.raises(ValueError, match=r"on all 2 workers.*Received: another first batch on worker 1 than on worker 0"):
        agreement.check_same_data(model, data, 2)
    monkeypatch.setattr(agreement, "gathered", lambda strategy, numbers: np.array([numbers, [numbers[0], 3]]))
    with pytest.raises(ValueError, match=r"another number of batches on worker 1"):
        agreement.check_same_data(model, data, 2)


def test_looking_at_the_first_batch_does_not_move_the_order(monkeypatch, tiny_bert, review_examples):
    monkeypatch.setattr(agreement, "number_of_workers", lambda strategy: 2)
    monkeypatch.setattr(agreement, "gathered", lambda strategy, numbers: np.array([numbers, numbers]))
    data = kb.data.batches(review_examples, tiny_bert, batch_size=8)
    agreement.check_same_data(tiny_bert, data, 8)
    assert tiny_bert.epoch_order.epoch == 0


def test_losses_of_every_form_are_checked():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    refusals.check_training(model)
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    with pytest.raises(ValueError, match="mean_with_sample_weight"):
        refusals.check_training(model)


@pytest.mark.parametrize(("bfloat16", "policy"), [(1.0, "float32"), (0.81, "float32"), (0.79, "mixed_bfloat16"), (0.3, "mixed_bfloat16")])
def test_bfloat16_is_taken_where_it_is_a_quarter_faster(monkeypatch, bfloat16, policy):
    monkeypatch.setattr(precision, "_product_seconds", lambda dtype, *rest: {"float32": 1.0, "bfloat16": bfloat16}[dtype])
    found = fastest_precision()
    assert found.policy == policy
    assert (found.float32_ms, found.bfloat16_ms) == (1000.0, bfloat16 * 1000)
    assert found.to_dict()["policy"] == policy


def test_precision_is_measured():
    found = fastest_precision(32, 32, repeats=2)
    assert min(found.float32_ms, found.bfloat16_ms) > 0
    assert "CPU" in found.device or "GPU" in found.device
