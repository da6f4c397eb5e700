"""Pruning: step for step the masks of TF-MOT itself, on Keras 3 models, under every way of running `fit`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import kerasbig as kb
from kerasbig.compress import ConstantSparsity, PolynomialDecay, Pruning, _tfmot
from kerasbig.distribute import Resume

STEPS = 12
# Schedule (class, arguments) and Pruning arguments; the widths 8 and 12 leave a remainder for blocks of 5.
CASES: dict[str, dict[str, Any]] = {
    "constant": {"schedule": ("ConstantSparsity", [0.5, 2, -1, 3])},
    "polynomial": {"schedule": ("PolynomialDecay", [0.1, 0.8, 1, 9, 3, 2])},
    "blocks of 2x2": {"schedule": ("PolynomialDecay", [0.0, 0.5, 0, 8, 3, 2]), "block_size": [2, 2]},
    "blocks of 5x1, largest": {"schedule": ("ConstantSparsity", [0.4, 0, -1, 4]), "block_size": [5, 1], "block_pooling": "MAX"},
    "2 of 4": {"m_by_n": [2, 4]},
}

# Stock TF-MOT on Keras 2, in a process of its own: importing it changes the environment.
REFERENCE = """
    import json, sys
    import numpy as np
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    cases, data, out = json.loads(sys.argv[1]), np.load(sys.argv[2]), {}
    for name, case in cases.items():
        layers = [keras.layers.Dense(12, "tanh"), keras.layers.Dense(6)]
        plain = keras.Sequential([keras.Input((8,)), *layers])
        plain.set_weights([data[f"weight{i}"] for i in range(4)])
        kind, arguments = case.get("schedule", ("ConstantSparsity", [0.5, 0]))
        options = {"pruning_schedule": getattr(tfmot.sparsity.keras, kind)(*arguments)}
        if "m_by_n" in case:
            options["sparsity_m_by_n"] = tuple(case["m_by_n"])
        options["block_size"] = tuple(case.get("block_size", (1, 1)))
        options["block_pooling_type"] = case.get("block_pooling", "AVG")
        model = tfmot.sparsity.keras.prune_low_magnitude(plain, **options)
        masks = []

        class Record(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                masks.append([layer.pruning_vars[0][1].numpy() for layer in self.model.layers])

        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep(), Record()]
        model.fit(data["x"], data["y"], batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        for step, both in enumerate(masks):
            for layer, mask in enumerate(both):
                out[f"{name}/{step}/{layer}"] = mask
        for i, weight in enumerate(tfmot.sparsity.keras.strip_pruning(model).get_weights()):
            out[f"{name}/weight{i}"] = weight
    np.savez(sys.argv[3], **out)
"""


class Zeros(keras.callbacks.Callback):
    """Records which weights are zero before each step, and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[list[np.ndarray]] = []
        self.after: list[list[np.ndarray]] = []

    def _now(self) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(weight) == 0 for weight in self.model.trainable_weights if len(weight.shape) == 2]

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.before.append(self._now())

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.after.append(self._now())


def dense_net(data: dict[str, np.ndarray], **compile_arguments: Any) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(12, "tanh", name="hidden"), keras.layers.Dense(6, name="out")], name="net"
    )
    model.set_weights([data[f"weight{i}"] for i in range(4)])
    model.compile(**({"optimizer": keras.optimizers.SGD(0.5, momentum=0.9), "loss": "mse", "jit_compile": False} | compile_arguments))
    return model


def fit(model: keras.Model, data: dict[str, np.ndarray], *callbacks: keras.callbacks.Callback, **arguments: Any) -> keras.callbacks.History:
    return model.fit(data["x"], data["y"], **({"batch_size": 4, "shuffle": False, "verbose": 0} | arguments), callbacks=list(callbacks))


def pruning_of(case: dict[str, Any]) -> Pruning:
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in case.items()}
    if "schedule" in arguments:
        kind, values = arguments["schedule"]
        arguments["schedule"] = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}[kind](*values)
    return Pruning(**arguments)


def sparsity(model: keras.Model) -> list[float]:
    return [float(np.mean(weight == 0)) for weight in model.get_weights() if weight.ndim > 1]


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {"x": (STEPS * 4, 8), "y": (STEPS * 4, 6), "weight0": (8, 12), "weight1": (12,), "weight2": (12, 6), "weight3": (6,)}
    return {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def reference(data: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("tfmot")
    np.savez(folder / "data.npz", **data)
    command = [sys.executable, "-c", textwrap.dedent(REFERENCE), json.dumps(CASES), str(folder / "data.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as out:
        return dict(out)


@pytest.mark.parametrize("name", CASES)
def test_masks_and_weights_equal_tfmot_at_every_step(name: str, data: dict, reference: dict) -> None:
    model, zeros = dense_net(data), Zeros()
    fit(model, data, pruning_of(CASES[name]), zeros)
    for step in range(STEPS):
        for layer in range(2):
            np.testing.assert_array_equal(~zeros.before[step][layer], reference[f"{name}/{step}/{layer}"] != 0, err_msg=f"step {step + 1}")
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(weight, reference[f"{name}/weight{i}"], atol=2e-5)


@pytest.mark.parametrize("name", ["polynomial", "blocks of 2x2", "2 of 4"])
def test_several_steps_an_execution_equal_one(name: str, data: dict) -> None:
    one, four = dense_net(data), dense_net(data, steps_per_execution=4)
    fit(one, data, pruning_of(CASES[name]))
    fit(four, data, pruning_of(CASES[name]))
    for a, b in zip(one.get_weights(), four.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_array_equal(a == 0, b == 0)
    assert all(weight.constraint is None for weight in four.trainable_weights)


def test_the_smallest_magnitudes_go(data: dict) -> None:
    model = dense_net(data)
    fit(model, data, Pruning(ConstantSparsity(0.6, 0, frequency=1)), zeros := Zeros())
    weights = data["weight0"]
    smallest = np.argsort(np.abs(weights), axis=None)[: round(weights.size * 0.6)]
    expected = np.zeros(weights.size, bool)
    expected[smallest] = True
    np.testing.assert_array_equal(zeros.before[0][0].reshape(-1), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_threshold_is_that_of_a_sort(dtype: str, jit_compile: bool) -> None:
    random = np.random.default_rng(0)
    # Ties, zeros, subnormal and very large numbers among them.
    values = np.concatenate([random.exponential(size=500), random.integers(0, 3, 60), [1e-40, 6e-8, 60000.0]])
    values = tf.cast(values.astype("float32"), dtype)
    descending = np.sort(values.numpy())[::-1]
    find = tf.function(_tfmot._kth_largest, jit_compile=jit_compile)
    for k in (1, 2, 57, 300, 440, 520, len(values)):
        assert find(values, tf.constant(k)).numpy() == descending[k - 1]
    assert find(values, tf.constant(1)).dtype == dtype


def test_zeros_stay_zero_between_updates(data: dict) -> None:
    model = dense_net(data)
    fit(model, data, Pruning(ConstantSparsity(0.5, 0, frequency=1000)), Pruning(ConstantSparsity(0.5, 1, 1)), zeros := Zeros())
    for after in zeros.after:
        for first, now in zip(zeros.before[0], after, strict=True):
            np.testing.assert_array_equal(first, now)


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 0.95])
def test_sparsity_is_reached_to_the_weight(target: float, data: dict) -> None:
    model, pruning = dense_net(data), Pruning(sparsity=target)
    history = fit(model, data, pruning, epochs=3)
    for row in pruning.report.rows:
        size = math.prod(row["shape"])
        assert abs(row["sparsity"] * size - target * size) <= 1
    assert history.history["sparsity"][-1] == pytest.approx(np.mean(np.concatenate([w.ravel() for w in model.get_weights()[::2]]) == 0))
    assert history.history["sparsity"] == sorted(history.history["sparsity"])


def test_two_of_four_run_along_the_input_axis() -> None:
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(6)])
    model.compile("sgd", "mse", jit_compile=False)
    fit(model, {"x": np.ones((8, 16)), "y": np.ones((8, 6))}, Pruning(m_by_n=(2, 4)))
    kernel = model.get_weights()[0]
    assert (np.sum(kernel.reshape(4, 4, 6) == 0, axis=1) == 2).all()


WAYS = {
    "jit_compile": {"jit_compile": True},
    "jit_compile, 4 steps an execution": {"jit_compile": True, "steps_per_execution": 4},
    "AdamW": {"optimizer": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1)},
    "average of weights": {"optimizer": lambda: keras.optimizers.Adam(0.01, use_ema=True)},
    "accumulated gradients": {"optimizer": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)},
    "accumulated gradients, 3 steps an execution": {
        "optimizer": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
        "steps_per_execution": 3,
    },
    "loss scale": {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_leaves_exact_zeros(way: str, data: dict) -> None:
    arguments = {name: value() if name == "optimizer" else value for name, value in WAYS[way].items()}
    model = dense_net(data, **arguments)
    fit(model, data, Pruning(sparsity=0.5), epochs=2)
    assert sparsity(model) == [0.5, 0.5]
    # A zero with a sign would take the runs of zeros apart that compress a file.
    assert not any(np.signbit(kernel[kernel == 0]).any() for kernel in model.get_weights()[::2])
    assert not np.allclose(model.get_weights()[1], data["weight1"])


def test_an_earlier_constraint_and_trace_are_kept_apart(data: dict) -> None:
    model = dense_net(data, steps_per_execution=4)
    own = keras.constraints.MaxNorm(0.7)
    model.layers[0]._kernel.constraint = own
    fit(model, data)
    fit(model, data, Pruning(sparsity=0.5))
    assert sparsity(model) == [0.5, 0.5]
    assert model.layers[0]._kernel.constraint is own
    assert np.linalg.norm(model.get_weights()[0], axis=0).max() <= 0.7 + 1e-5
    fit(model, data)
    assert sparsity(model) == [0.0, 0.0]


def test_a_fit_after_a_fit_counts_from_one(data: dict) -> None:
    model = dense_net(data)
    fit(model, data, epochs=2)
    fit(model, data, pruning := Pruning(PolynomialDecay(0.0, 0.5, 0, 8, frequency=2)))
    assert pruning.first_step == 2 * STEPS
    assert sparsity(model) == [0.5, 0.5]


def test_a_pruned_model_stays_pruned_in_a_new_ramp(data: dict) -> None:
    model = dense_net(data)
    fit(model, data, Pruning(sparsity=0.5), epochs=2)
    history = fit(model, data, Pruning(sparsity=0.8), Zeros(), epochs=4)
    assert min(history.history["sparsity"]) >= 0.5
    assert sparsity(model) == pytest.approx([0.8, 0.8], abs=0.01)


@pytest.mark.parametrize(
    ("case", "steps_per_execution"),
    [
        ({"sparsity": 0.8}, 1),
        ({"m_by_n": (2, 4)}, 1),
        ({"schedule": PolynomialDecay(0.1, 0.8, 3, 21, frequency=3)}, 1),
        ({"sparsity": 0.8}, 4),
    ],
)
def test_resume_takes_the_zeros_as_mask(case: dict, steps_per_execution: int, data: dict, tmp_path: Path) -> None:
    whole = dense_net(data, steps_per_execution=steps_per_execution)
    fit(whole, data, Pruning(**case), epochs=2)

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            self.model.save_weights(tmp_path / "state.weights.h5")
            self.model.stop_training = True

    fit(dense_net(data, steps_per_execution=steps_per_execution), data, Pruning(**case), Kill(), epochs=2)
    resumed = dense_net(data, steps_per_execution=steps_per_execution)
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(tmp_path / "state.weights.h5")
    fit(resumed, data, pruning := Pruning(**case), epochs=2, initial_epoch=1)
    assert pruning.first_step == 0
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_kill_in_the_middle_of_an_epoch_changes_nothing(steps_per_execution: int, data: dict, tmp_path: Path) -> None:
    def run(*more: keras.callbacks.Callback, folder: str) -> keras.Model:
        model = dense_net(data, steps_per_execution=steps_per_execution)
        fit(model, data)  # so that the optimizer does not begin at 0
        pruning = Pruning(PolynomialDecay(0.1, 0.8, 2, 20, frequency=2))
        resume = Resume(tmp_path / folder, every_seconds=0, callbacks=[pruning])
        fit(model, data, pruning, resume, *more, epochs=2)
        return model

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch >= 7:
                raise InterruptedError

    whole = run(folder="whole")
    with pytest.raises(InterruptedError):
        run(Kill(), folder="killed")
    resumed = run(folder="killed")
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_kernel_of_zeros_is_not_dead(data: dict) -> None:
    model = dense_net(data | {"weight2": np.zeros((12, 6), "float32")})
    fit(model, data, Pruning(ConstantSparsity(0.5, 10, frequency=1)), epochs=2)
    assert sparsity(model) == [0.5, 0.5]


@pytest.fixture(scope="module")
def bert() -> keras.Model:
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=8, dtype="mixed_bfloat16"
    )
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    ids = np.random.default_rng(0).integers(1, 30, (16, 8)).astype("int32")
    model.x = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    model.pruning = Pruning(sparsity=0.5)
    model.fit(model.x, np.arange(16) % 2, batch_size=4, epochs=4, verbose=0, callbacks=[model.pruning])
    return model


def test_bert_in_mixed_bfloat16_is_pruned_and_its_embeddings_are_not(bert: keras.Model) -> None:
    rows = {row["path"]: row for row in bert.pruning.report.rows}
    assert len([row for row in rows.values() if row["done"]]) == 4 + 2 + 2
    assert all(row["sparsity"] == 0.5 for row in rows.values() if row["done"])
    for name in ("token_embedding", "segment_embedding"):
        assert "left alone unless layers= names it" in rows[name]["reason"]
    assert rows["embeddings_layer_norm"]["reason"] == rows["position_embedding"]["reason"] == "has no kernel"
    assert np.count_nonzero(keras.ops.convert_to_numpy(bert.backbone.get_layer("token_embedding").embeddings) == 0) == 0
    three_axes = bert.backbone.get_layer("transformer_layer_0")._self_attention_layer._query_dense._kernel
    assert len(three_axes.shape) == 3
    assert float(np.mean(keras.ops.convert_to_numpy(three_axes) == 0)) == 0.5


def test_the_saved_model_needs_no_kerasbig(bert: keras.Model, tmp_path: Path) -> None:
    bert.save(tmp_path / "pruned.keras")
    np.savez(tmp_path / "x.npz", expected=bert.predict(bert.x, verbose=0).astype("float32"), **bert.x)
    script = f"""
        import sys; sys.modules["kerasbig"] = None
        import keras, keras_hub, numpy as np
        model = keras.saving.load_model({str(tmp_path / "pruned.keras")!r})
        x = dict(np.load({str(tmp_path / "x.npz")!r})); expected = x.pop("expected")
        np.testing.assert_allclose(model.predict(x, verbose=0).astype("float32"), expected, atol=1e-6)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_two_replicas_equal_one() -> None:
    script = """
        import numpy as np, tensorflow as tf, keras
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from kerasbig.compress import Pruning
        weights = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)])
                model.compile("adam", "mse", jit_compile=False)
            x = np.random.default_rng(0).normal(size=(32, 6))
            model.fit(x, x[:, :4], batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[Pruning(sparsity=0.5)])
            weights.append(model.get_weights())
        for one, two in zip(*weights):
            np.testing.assert_array_equal(one == 0, two == 0)
            np.testing.assert_allclose(one, two, atol=1e-5)
        assert np.mean(weights[1][0] == 0) == 0.5
        with strategy.scope():
            model.compile("adam", "mse", jit_compile=False, steps_per_execution=2)
        try:
            model.fit(x, x[:, :4], batch_size=8, verbose=0, callbacks=[Pruning(sparsity=0.5)])
        except ValueError as error:
            assert "Expected steps_per_execution=1 to prune on several replicas" in str(error), error
        else:
            raise AssertionError("no error")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_tfmot_leaves_no_trace() -> None:
    script = """
        import os, sys
        import tensorflow as tf, keras
        before = dict(os.environ)
        from kerasbig.compress import ConstantSparsity, Pruning
        assert dict(os.environ) == before
        assert "tf_keras" not in sys.modules
        assert not [name for name in sys.modules if name.startswith("tensorflow_model_optimization")]
        assert tf.keras.__version__.startswith("3."), tf.keras.__version__
        import tensorflow_model_optimization as stock  # the real one still loads, and its schedules are welcome
        Pruning(stock.sparsity.keras.ConstantSparsity(0.5, 0))
        assert stock.sparsity.keras.prune_low_magnitude
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_tfmot_is_the_one_that_was_read() -> None:
    spec = importlib.util.find_spec(_tfmot.PACKAGE)
    folder = Path(spec.submodule_search_locations[0], "python", "core")
    files = {name: folder / f"{name.replace('.', '/')}.py" for name in _tfmot.FILES_SHA256}
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert found == _tfmot.FILES_SHA256, (
        f"TF-MOT {metadata.version('tensorflow-model-optimization')} differs: read it, then renew the hashes"
    )


def test_a_missing_tfmot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Expected the package tensorflow-model-optimization"):
        _tfmot._load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected exactly one of schedule, sparsity and m_by_n. Received: schedule=None"),
        ({"sparsity": 0.5, "m_by_n": (2, 4)}, "Expected exactly one of"),
        ({"schedule": 0.8}, "write sparsity=0.8"),
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"sparsity": 80}, "between 0 and 1, such as 0.8"),
        ({"sparsity": "half"}, "Received: sparsity='half'"),
        ({"sparsity": 0.5, "block_size": (2,)}, "Expected block_size as two integers"),
        ({"sparsity": 0.5, "block_size": (0, 1)}, "Expected block_size as two integers of at least 1"),
        ({"sparsity": 0.5, "block_pooling": "SUM"}, "Expected block_pooling 'AVG' or 'MAX'"),
        ({"m_by_n": (4, 2)}, "Expected m_by_n as"),
        ({"m_by_n": 2}, "Expected m_by_n as"),
        ({"m_by_n": (2, 4), "block_size": (2, 2)}, "Expected either m_by_n or block_size"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pruning(**arguments)


def test_no_kernel_left_is_an_error() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(5, 4), keras.layers.LayerNormalization()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Expected at least one kernel to take.*Embedding: left alone"):
        model.fit(np.ones((2, 3)), np.ones((2, 3, 4)), verbose=0, callbacks=[Pruning(sparsity=0.5)])


def test_a_layer_with_too_few_blocks_is_left_alone_with_the_reason(data: dict) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1, name="head")])
    model.compile("sgd", "mse", jit_compile=False)
    pruning = Pruning(sparsity=0.5, block_size=(2, 2))
    fit(model, {"x": data["x"], "y": data["y"][:, :1]}, pruning)
    left = [row for row in pruning.report.rows if not row["done"]]
    assert [(row["shape"], row["reason"]) for row in left] == [((8, 1), "has fewer than two 2x2 blocks along an axis")]
    with pytest.raises(ValueError, match="Use smaller blocks"):
        fit(model, data, Pruning(sparsity=0.5, block_size=(64, 64)))


def test_an_axis_that_does_not_divide_into_groups_is_named(data: dict) -> None:
    message = r"groups of 3, for m_by_n=\(1, 3\)\. Received: 'net/hidden' with 8 inputs\. Leave it out with layers='!net/hidden'\."
    with pytest.raises(ValueError, match=message):
        fit(dense_net(data), data, Pruning(m_by_n=(1, 3)))
    model = dense_net(data)
    fit(model, data, Pruning(m_by_n=(1, 3), layers="!net/hidden"))
    assert sparsity(model) == [0.0, pytest.approx(1 / 3)]


def test_an_unknown_number_of_steps_needs_a_schedule(data: dict) -> None:
    def endless() -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(
            lambda: iter([(data["x"][:4], data["y"][:4])] * 3), output_signature=(tf.TensorSpec((4, 8)), tf.TensorSpec((4, 6)))
        )

    with pytest.raises(ValueError, match="Pass steps_per_epoch to fit, or a schedule"):
        dense_net(data).fit(endless(), verbose=0, callbacks=[Pruning(sparsity=0.5)])
    model = dense_net(data)
    model.fit(endless(), verbose=0, callbacks=[Pruning(ConstantSparsity(0.5, 0, frequency=1))])
    assert sparsity(model) == [0.5, 0.5]


def test_a_report_before_fit_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="Its report was asked for before"):
        _ = Pruning(sparsity=0.5).report
    with pytest.raises(RuntimeError, match=r"called by model\.fit"):
        Pruning(sparsity=0.5).on_train_end()


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Set KERAS_BACKEND=tensorflow"):
        Pruning(sparsity=0.5).on_train_begin()


def test_a_schedule_that_ends_after_training_is_warned_of_with_what_it_will_reach(data: dict) -> None:
    model, late = dense_net(data), Pruning(PolynomialDecay(0.0, 0.8, begin_step=0, end_step=24, frequency=1))
    with pytest.warns(UserWarning, match=r"within the 12 steps of this fit\. Received: end_step=24") as seen:
        fit(model, data, late)
    message = next(str(warning.message) for warning in seen if "will reach" in str(warning.message))
    reached = float(message.split("will reach ")[1].split("%")[0]) / 100
    assert sparsity(model) == pytest.approx([reached, reached], abs=0.02)


def test_a_model_that_is_being_clustered_is_refused(data: dict) -> None:
    model = kb.compress.cluster_weights(dense_net(data), 4)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Expected kernels that are not being clustered\. Received: 'net/hidden', which is"):
        fit(model, data, Pruning(sparsity=0.5))
