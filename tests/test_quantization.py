"""Quantization-aware training: TF-MOT's numbers, what it keeps, what it exports, and a plain model at the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasbig as kb
from kerasbig.compress.fake_quantizers import ActivationQuantizer, RowQuantizer, WeightQuantizer

# TF-MOT's own quantizers, from the whole package with Keras 2, in a process of its own: a dense layer by hand.
REFERENCE = """
    import sys
    import numpy as np
    import tensorflow_model_optimization as tfmot
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.quantization.keras import quantizers

    data, out = np.load(sys.argv[1]), {}
    x, y = data["x"], data["y"]
    for per_axis in (False, True):
        kernel, bias = tf.Variable(data["kernel"]), tf.Variable(data["bias"])
        weight_quantizer = quantizers.LastValueQuantizer(8, per_axis=per_axis, symmetric=True, narrow_range=True)
        shape = [kernel.shape[1]] if per_axis else []
        weight_range = {"min_var": tf.Variable(tf.fill(shape, -6.0)), "max_var": tf.Variable(tf.fill(shape, 6.0))}
        moving = quantizers.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
        ranges = [{"min_var": tf.Variable(-6.0), "max_var": tf.Variable(6.0)} for _ in range(2)]
        for step in range(len(x) // 4):
            inputs, targets = x[4 * step : 4 * step + 4], y[4 * step : 4 * step + 4]
            with tf.GradientTape() as tape:
                rounded = weight_quantizer(tf.convert_to_tensor(kernel), True, weight_range)
                outputs = moving(moving(tf.constant(inputs), True, ranges[0]) @ rounded + bias, True, ranges[1])
                loss = tf.reduce_mean((outputs - targets) ** 2)
            for variable, gradient in zip((kernel, bias), tape.gradient(loss, (kernel, bias))):
                variable.assign_sub(0.1 * gradient)
        key = int(per_axis)
        out[f"kernel{key}"], out[f"bias{key}"] = kernel.numpy(), bias.numpy()
        out[f"ranges{key}"] = np.array([[float(r["min_var"]), float(r["max_var"])] for r in ranges])
        out[f"weights{key}"] = weight_quantizer(tf.convert_to_tensor(kernel), False, weight_range).numpy()
        out[f"answer{key}"] = moving(moving(tf.constant(x), False, ranges[0]) @ out[f"weights{key}"] + bias, False, ranges[1]).numpy()
    np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"x": (24, 10), "y": (24, 6), "kernel": (10, 6), "bias": (6,)}
    made = {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    made["kernel"] *= np.exp(random.normal(size=6)).astype("float32")
    return made


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfmot")
    np.savez(folder / "data.npz", **data)
    command = [sys.executable, "-c", textwrap.dedent(REFERENCE), str(folder / "data.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as out:
        return dict(out)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_training_equals_tfmots_quantizers(per_channel, jit, data, reference, monkeypatch):
    monkeypatch.setattr(ActivationQuantizer.__init__, "__defaults__", (None, 0.999))  # TF-MOT's decay
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(6)])
    model.set_weights([data["kernel"], data["bias"]])
    kb.compress.quantize_model(model, per_channel=per_channel, preserve=False)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    model.fit(data["x"], data["y"], batch_size=4, shuffle=False, verbose=0)
    key, layer = int(per_channel), model.layers[0]
    np.testing.assert_allclose(layer._kernel.numpy(), reference[f"kernel{key}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.bias.numpy(), reference[f"bias{key}"], rtol=1e-5, atol=1e-5)
    row = kb.compress.ranges(model)[0]
    np.testing.assert_allclose([row["input"], row["output"]], reference[f"ranges{key}"], rtol=1e-5, atol=1e-5)
    step = np.ptp(reference[f"ranges{key}"][1]) / 255
    # Equal but where a value lies on the border between two steps of the output's range.
    difference = np.abs(model.predict(data["x"], verbose=0) - reference[f"answer{key}"])
    assert difference.max() <= 1.01 * step
    assert np.mean(difference < 1e-4) > 0.98
    kb.compress.strip(model)
    np.testing.assert_allclose(layer.get_weights()[0], reference[f"weights{key}"], rtol=1e-5, atol=1e-5)


def test_rows_are_rounded_by_their_own_size():
    table = np.random.default_rng(1).normal(size=(50, 8)).astype("float32") * np.exp(np.arange(50) / 8)[:, None].astype("float32")
    size = 2.0 ** (np.ceil(np.log2(np.abs(table).max(axis=1)) * 8) / 8)
    by_hand = np.round(table / size[:, None] * 127) / 127 * size[:, None]
    np.testing.assert_allclose(RowQuantizer()(tf.constant(table)), by_hand, rtol=2e-6, atol=1e-6)


def test_a_kernel_of_zeros_stays_zero():
    quantizer = WeightQuantizer(4)
    quantizer.start(tf.zeros((3, 4)))
    np.testing.assert_array_equal(quantizer(tf.zeros((3, 4)), training=False), np.zeros((3, 4)))


def net(seed: int = 0, policy: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((6,), dtype="int32"),
        keras.layers.Embedding(20, 16, name="table", dtype=policy),
        keras.layers.EinsumDense("abc,cde->abde", output_shape=(6, 4, 8), bias_axes="de", name="heads", dtype=policy),
        keras.layers.Reshape((6, 32)),
        keras.layers.Conv1D(8, 3, activation="relu", name="conv", dtype=policy),
        keras.layers.Flatten(),
        keras.layers.Dense(3, name="out", dtype=policy),
    ]
    return keras.Sequential(layers, name="net")


X = np.random.default_rng(2).integers(0, 20, size=(16, 6)).astype("int32")
Y = np.random.default_rng(3).normal(size=(16, 3)).astype("float32")


def fitted(model: keras.Model, epochs: int = 1, **options) -> keras.Model:
    model.compile(keras.optimizers.Adam(1e-3), "mse", **options)
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return model


def test_calibration_by_hand():
    random = np.random.default_rng(4)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, use_bias=False)])
    batches = [random.normal(size=(4, 5)).astype("float32") + i for i in range(3)]
    kernel = model.get_weights()[0]
    step = np.abs(kernel).max(axis=0) / 127
    kernel = np.round(kernel / step) * step  # outputs are measured with the kernel that they will have
    kb.compress.quantize_model(model, calibration=batches)
    row = kb.compress.ranges(model)[0]
    low, high = (np.mean([extreme(batch) for batch in batches]) for extreme in (np.min, np.max))
    np.testing.assert_allclose(row["input"], [min(low, 0), high], rtol=1e-5)
    lows, highs = (np.mean([extreme(batch @ kernel, axis=0) for batch in batches], axis=0) for extreme in (np.min, np.max))
    sizes = np.maximum(np.abs(lows), np.abs(highs))
    np.testing.assert_allclose(row["output_sizes"], sizes, rtol=1e-5)
    np.testing.assert_allclose(row["output"], [min((lows / sizes).min(), 0), max((highs / sizes).max(), 0)], rtol=1e-4)


def test_ranges_rebuild_the_quantized_model_from_plain_weights():
    model = fitted(kb.compress.quantize_model(net(), calibration=[X]))
    before, ranges = model.predict(X, verbose=0), json.loads(json.dumps(kb.compress.ranges(model)))
    kb.compress.strip(model)
    again = net(seed=7)
    again.set_weights(model.get_weights())
    kb.compress.quantize_model(again, ranges=ranges, preserve=False)
    np.testing.assert_allclose(again.predict(X, verbose=0), before, atol=1e-5)


def test_strip_leaves_a_plain_model_on_the_grid(tmp_path, run_python):
    model = kb.compress.strip(fitted(kb.compress.quantize_model(net(), calibration=[X])))
    assert {type(layer).__name__ for layer in model.layers} == {"Embedding", "EinsumDense", "Reshape", "Conv1D", "Flatten", "Dense"}
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in net().weights]
    kernel = model.get_layer("out").get_weights()[0]
    steps = kernel / np.abs(kernel).max(axis=0) * 127
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", x=X, y=model.predict(X, verbose=0))
    code = f"""
import sys; sys.modules["kerasbig"] = None
import keras, numpy as np
data = np.load({str(tmp_path / "x.npz")!r})
print(np.abs(keras.saving.load_model({str(tmp_path / "model.keras")!r}).predict(data["x"], verbose=0) - data["y"]).max())
"""
    assert float(run_python(code).splitlines()[-1]) < 1e-6


def test_zeros_and_clusters_are_kept():
    model = net()
    values = np.linspace(-0.3, 0.3, 8).astype("float32")
    masks = {}
    for layer in model.layers:
        if hasattr(layer, "_kernel"):
            weights = layer.get_weights()
            kernel = values[np.abs(weights[0][..., None] - values).argmin(axis=-1)]
            masks[layer.name] = np.abs(weights[0]) < np.median(np.abs(weights[0]))
            layer.set_weights([np.where(masks[layer.name], 0, kernel), *weights[1:]])
    kb.compress.strip(fitted(kb.compress.quantize_model(model, calibration=[X]), epochs=3))
    for name, mask in masks.items():
        kernel = model.get_layer(name).get_weights()[0]
        assert (kernel[mask] == 0).all()
        assert len(np.unique(kernel)) <= 8 + 1


def test_nothing_is_kept_when_asked_not_to():
    model = net()
    layer = model.get_layer("out")
    layer.set_weights([np.where(np.abs(layer.get_weights()[0]) < 0.1, 0, layer.get_weights()[0]), *layer.get_weights()[1:]])
    zeros = np.mean(layer.get_weights()[0] == 0)
    kb.compress.strip(fitted(kb.compress.quantize_model(model, calibration=[X], preserve=False), epochs=3))
    assert np.mean(layer.get_weights()[0] == 0) < zeros / 2


def test_xla_equals_plain():
    weights = [
        fitted(kb.compress.quantize_model(net(), calibration=[X]), jit_compile=jit).get_layer("out").get_weights()[0]
        for jit in (False, True)
    ]
    np.testing.assert_allclose(weights[1], weights[0], atol=2e-3)  # rounding to 8 bits turns a last bit into a whole step


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns(policy):
    model = kb.compress.quantize_model(net(policy=policy), calibration=[X])
    model.compile(keras.optimizers.Adam(3e-2), "mse", jit_compile=False)
    losses = model.fit(X, Y, batch_size=4, epochs=60, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert np.isfinite(kb.compress.strip(model).get_layer("out").get_weights()[0]).all()


def test_weights_saved_in_the_middle_come_back(tmp_path):
    model = fitted(kb.compress.quantize_model(net(), calibration=[X]))
    model.save_weights(tmp_path / "middle.weights.h5")
    again = kb.compress.quantize_model(net(seed=9))
    again.load_weights(tmp_path / "middle.weights.h5")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_two_replicas_equal_one(run_python):
    code = """
        import numpy as np, tensorflow as tf, keras
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import kerasbig as kb
        # Both halves of a batch are equal: a range is the mean over replicas.
        x = np.repeat(np.random.default_rng(0).normal(size=(8, 1, 4, 6)), 2, axis=1).reshape(64, 6).astype("float32")
        weights = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)])
                kb.compress.quantize_model(model, calibration=[x])
                model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
            model.fit(x, x[:, :4], batch_size=8, shuffle=False, verbose=0)
            weights.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
        print(np.abs(weights[1] - weights[0]).max())
    """
    assert float(run_python(textwrap.dedent(code)).splitlines()[-1]) < 1e-4


def litert_operations(folder) -> list[tuple[str, list[tuple[str, int]]]]:
    """Returns each operation of a file with the type and the number of scales of its inputs."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(folder / "model.tflite"), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}

    def kind(index: int) -> tuple[str, int]:
        return tensors[index]["dtype"].__name__, len(tensors[index]["quantization_parameters"]["scales"])

    return [(op["op_name"], [kind(i) for i in op["inputs"] if i in tensors]) for op in interpreter._get_ops_details()]


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_matrix_product_of_the_file_is_int8(per_channel, tiny_bert, review_examples, tmp_path):
    batches = [inputs for inputs, *_ in kb.data.batches(review_examples, tiny_bert, batch_size=16)]
    kb.compress.quantize_model(tiny_bert, calibration=batches, per_channel=per_channel)
    folder = kb.export.litert(tiny_bert, tmp_path / "bundle", quantize="int8")
    operations = litert_operations(folder)
    products = [inputs for name, inputs in operations if name in ("CONV_2D", "FULLY_CONNECTED")]
    assert len(products) == 2 * 6 + 2  # six kernels a layer, the pooler, the logits
    for inputs in products:
        assert inputs[0] == ("int8", 1)
        assert inputs[1][0] == "int8"
        assert (inputs[1][1] > 1) == per_channel
    assert ("GATHER", "int8") in [(name, inputs[0][0]) for name, inputs in operations]
    parity = kb.export.read_manifest(folder)["formats"]["litert"]["parity"]
    assert parity["max_abs_logit_difference"] < 0.05


def test_int8_without_ranges_is_refused(tiny_bert, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a model with ranges for quantize='int8'\. Received: one without"):
        kb.export.litert(tiny_bert, tmp_path / "bundle", quantize="int8")
    assert not (tmp_path / "bundle").exists()


def test_bad_input(monkeypatch):
    quantize = kb.compress.quantize_model
    ranges = kb.compress.ranges(quantize(net()))
    cases = [
        (lambda: quantize(quantize(net())), "Expected layers that are not quantized. Received: 'net/table', which is"),
        (lambda: quantize(net(), calibration=[X], ranges=ranges), "Expected calibration or ranges. Received both"),
        (
            lambda: quantize(net(), ranges=ranges[1:]),
            "this model's layers, table, heads, conv, out. Received: those of heads",
        ),
        (lambda: quantize(net(), calibration=[]), "Expected at least one batch to calibrate on. Received none"),
        (lambda: quantize(net(), layers="*/nothing"), "which names none"),
        (lambda: quantize(keras.Sequential([keras.layers.Dense(2)])), "Expected a built model"),
        (lambda: kb.compress.calibrate(net(), [X]), "Expected a model from kerasbig.compress.quantize_model. Received: 'net'"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Expected Keras on TensorFlow"):
        quantize(net())
