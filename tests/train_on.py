"""Trains the same small models under one strategy: `python tests/train_on.py CASES.json OUT.npz`, once for each process.

The cases say which strategy; the processes of several workers get theirs from TF_CONFIG. What one device computes is the
reference for all.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

OPTIMIZERS = {
    "sgd": lambda **more: keras.optimizers.SGD(0.01, momentum=0.9, **more),
    "adamw": lambda **more: keras.optimizers.AdamW(1e-3, weight_decay=0.01, **more),
    # The gradient of a key's bias is nothing but rounding, which a smaller epsilon would let Adam scale up to a whole step.
    "adamw above rounding": lambda **more: keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-4, **more),
    "kerasbig": lambda **more: _ours(**more),
    "kerasbig above rounding": lambda **more: _ours(epsilon=1e-4, **more),
}


def _ours(**more: Any) -> keras.optimizers.Optimizer:
    import kerasbig as kb

    return kb.distribute.AdamW(1e-3, weight_decay=0.01, **more)


class Positions(keras.layers.Layer):
    """Adds what is looked up for each place: one lookup for all examples, as in a ViT."""

    def build(self, shape: tuple) -> None:
        self.length = shape[1]
        self.table = keras.layers.Embedding(shape[1], shape[2])
        self.table.build((1, shape[1]))

    def call(self, x: Any) -> Any:
        return x + self.table(keras.ops.expand_dims(keras.ops.arange(self.length), 0))


def small() -> Any:
    """A model that trains in a second and has both kinds of lookups."""
    from builders import Built

    random = np.random.default_rng(2)
    ids, targets = random.integers(0, 20, (40, 6)).astype("int32"), random.integers(0, 3, 40).astype("int32")
    keras.utils.set_random_seed(3)
    layers = [keras.Input((6,), dtype="int32"), keras.layers.Embedding(20, 8), Positions(), keras.layers.Dense(8, "tanh")]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)])
    data = tf.data.Dataset.from_tensor_slices((ids, targets)).batch(8)
    return Built(model, data, ids[:8], keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])


def raw_strings() -> Any:
    """A BERT that gets texts, and tokenizes them with its own KerasHub preprocessor."""
    from builders import BUILDERS
    from conftest import review_lines

    return replace(BUILDERS["bert_classifier"](), batches=tf.data.Dataset.from_tensor_slices(review_lines(40)).batch(8))


def own_files(case: dict[str, Any]) -> tf.data.Dataset:
    """Two files of 16 rows: each of two workers reads one (FILE), where one device reads the same global batches from both."""
    random, files = np.random.default_rng(4), []
    for number in range(2):
        files.append(f"{case['folder']}/{os.getpid()}-{number}.txt")
        rows = np.concatenate([random.integers(0, 20, (16, 6)), random.integers(0, 3, (16, 1))], axis=1)
        np.savetxt(files[-1], rows, "%d")

    def parse(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        numbers = tf.ensure_shape(tf.strings.to_number(tf.strings.split(line), tf.int32), (7,))
        return numbers[:6], numbers[6]

    if not os.environ.get("TF_CONFIG"):
        halves = [tf.data.TextLineDataset(file).map(parse).batch(4) for file in files]
        both = tf.data.Dataset.zip(*halves).map(lambda *parts: tf.nest.map_structure(lambda *both: tf.concat(both, 0), *parts))
        # At the end of data of unknown size Keras on one device may count a step that it did not make, which Adam corrects by.
        return both.apply(tf.data.experimental.assert_cardinality(4))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    return tf.data.TextLineDataset(files).map(parse).batch(8).with_options(options)


BUILT_HERE = {"small": small, "raw strings": raw_strings}


def train(case: dict[str, Any], strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Trains one case and returns weights, the loss and metrics of each epoch, those of `evaluate`, and predictions."""
    from builders import BUILDERS

    with strategy.scope():
        built = (BUILT_HERE | BUILDERS)[case["builder"]]()
        model = built.model
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        optimizer = OPTIMIZERS[case["optimizer"]](**case.get("optimizer_arguments", {}))
        model.compile(optimizer, built.loss, metrics=built.metrics, **({"jit_compile": False} | case.get("compile", {})))
        if strategy.num_replicas_in_sync == 1:
            model.optimizer.build(model.trainable_variables)  # or Keras traces each first step twice
    examples = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *built.batches.as_numpy_iterator())
    data = tf.data.Dataset.from_tensor_slices(examples).take(case.get("examples", 40)).batch(case.get("batch_size", 8))
    if "folder" in case:
        data = own_files(case)
    history = model.fit(data, epochs=case.get("epochs", 2), shuffle=False, verbose=0).history
    out = {f"weight {i}": np.asarray(weight) for i, weight in enumerate(model.get_weights())}
    out |= {f"fit {name}": np.array(values) for name, values in history.items()}
    if not case.get("answers", True):
        return out
    out |= {f"evaluate {name}": np.array(value) for name, value in model.evaluate(data, verbose=0, return_dict=True).items()}
    return out | {"predictions": np.asarray(model.predict(data, verbose=0), "float32")}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    import kerasbig as kb

    # A value that rounding carries over a ReLU's kink moves a detector's weights by 5e-4; SiLU has none, and 1e-7 stays 1e-7.
    keras.ops.relu = keras.ops.silu

    if plan["strategy"] == "stock":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = kb.distribute.strategy(plan["strategy"], replicas=plan.get("replicas"))
    out: dict[str, Any] = {}
    for name, case in plan["cases"].items():
        print(name, flush=True)
        try:
            out |= {f"{name}/{key}": value for key, value in train(case, strategy).items()}
        except Exception as error:
            if plan["strategy"] != "stock":
                raise
            out[f"{name}/error"] = np.array(f"{type(error).__name__}: {error}"[:300])
    np.savez(sys.argv[2], **out)


if __name__ == "__main__":
    main()
