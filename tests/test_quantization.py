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
from conftest import whole_and_resumed

import kerasbig as kb
from kerasbig.compress import _tfmot
from kerasbig.compress.fake_quantizers import ActivationQuantizer, RowQuantizer, WeightQuantizer
from kerasbig.export import twin

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
    # And all of TF-MOT: its `quantize_model`, which takes Keras 2 models.
    import tf_keras as keras

    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(6)])
    model.set_weights([data["kernel"], data["bias"]])
    model = tfmot.quantization.keras.quantize_model(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(data["bounded"], y, batch_size=4, shuffle=False, verbose=0)
    for weight in model.weights:
        out["stock/" + weight.name] = weight.numpy()
    np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"x": (24, 10), "y": (24, 6), "kernel": (10, 6), "bias": (6,)}
    made = {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    made["kernel"] *= np.exp(random.normal(size=6)).astype("float32")
    # From -1 to 1 in each batch of four: then all ways to follow a range agree.
    made["bounded"] = np.clip(made["x"], -1, 1)
    made["bounded"][::4, :2] = [-1, 1]
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


def test_training_equals_tfmots_quantize_model(data, reference, monkeypatch):
    monkeypatch.setattr(ActivationQuantizer.__init__, "__defaults__", (None, 0.999))
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(6)])
    model.set_weights([data["kernel"], data["bias"]])
    kb.compress.quantize_model(model, per_channel=False, preserve=False)
    compression = model.layers[0].compression
    compression.input_quantizer.set_range(-1.0, 1.0)  # TF-MOT takes the extremes of all inputs so far
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(data["bounded"], data["y"], batch_size=4, shuffle=False, verbose=0)
    stock = {name.removeprefix("stock/"): value for name, value in reference.items() if name.startswith("stock/")}

    def find(end: str) -> np.ndarray:
        (name,) = [name for name in stock if name.endswith(end)]
        return stock[name]

    np.testing.assert_allclose(model.layers[0]._kernel.numpy(), find("kernel:0"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.layers[0].bias.numpy(), find("bias:0"), rtol=1e-5, atol=1e-6)
    row = kb.compress.ranges(model)[0]
    np.testing.assert_allclose(row["output"], [find("post_activation_min:0"), find("post_activation_max:0")], rtol=1e-5)
    np.testing.assert_allclose(row["input"], [find("quantize_layer_min:0"), find("quantize_layer_max:0")], rtol=1e-5)
    low, high = (weight.numpy() for weight in compression.weight_quantizer.weights)
    np.testing.assert_allclose([low, high], [find("kernel_min:0"), find("kernel_max:0")], rtol=1e-5)


def equal_steps(own, stock, variables: dict[str, tf.Variable], batches: list[np.ndarray], *, most: float = 0.0) -> None:
    """Compares a quantizer with TF-MOT's over several steps of training and one after it; `most` may lie a step apart."""
    for step, batch in enumerate([*batches, batches[0]]):
        training, outputs = step < len(batches), []
        upstream = tf.constant(np.random.default_rng(step).normal(size=batch.shape).astype("float32"))
        for quantizer in (own, lambda inputs, training: stock(inputs, training, variables)):
            inputs = tf.constant(batch)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                values = quantizer(inputs, training=training)
                loss = tf.reduce_sum(values * upstream)
            outputs.append((values.numpy(), tape.gradient(loss, inputs).numpy()))
        apart = [np.abs(ours - theirs) > 1e-6 * np.abs(theirs).max() for ours, theirs in zip(*outputs, strict=True)]
        assert np.mean(apart[0]) <= most
        assert np.mean(apart[1]) <= most
        for ours, theirs in zip(own.weights[:2], variables.values(), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-7)


def test_a_kernels_quantizer_equals_tfmots():
    random = np.random.default_rng(6)
    kernels = [random.normal(size=(40, 5)).astype("float32") * np.exp(np.arange(5, dtype="float32")) for _ in range(4)]
    for channels in (None, 5):
        shape = () if channels is None else (channels,)
        variables = {"min_var": tf.Variable(tf.fill(shape, -6.0)), "max_var": tf.Variable(tf.fill(shape, 6.0))}
        stock = _tfmot.LastValueQuantizer(8, per_axis=channels is not None, symmetric=True, narrow_range=True)
        # Divided by a channel's size, a value on the border between two steps may fall on the other side.
        equal_steps(WeightQuantizer(channels), stock, variables, kernels, most=0.0 if channels is None else 0.01)


def test_an_activations_quantizer_equals_tfmots():
    random = np.random.default_rng(7)
    batches = [random.normal(size=(6, 5)).astype("float32") * 4 + 3 * i for i in range(5)]
    variables = {"min_var": tf.Variable(-6.0), "max_var": tf.Variable(6.0)}
    stock = _tfmot.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
    equal_steps(ActivationQuantizer("input", decay=0.999), stock, variables, batches)


def test_rows_are_rounded_by_their_own_size():
    table = np.random.default_rng(1).normal(size=(50, 8)).astype("float32") * np.exp(np.arange(50) / 8)[:, None].astype("float32")
    size = 2.0 ** (np.ceil(np.log2(np.abs(table).max(axis=1) * 127 / 127.5) * 8) / 8)
    by_hand = np.clip(np.round(table / size[:, None] * 127), -127, 127) / 127 * size[:, None]
    np.testing.assert_allclose(RowQuantizer()(tf.constant(table)), by_hand, rtol=2e-6, atol=1e-6)


def test_rounded_rows_are_not_rounded_again():
    random = np.random.default_rng(2)
    rows = random.normal(size=(4000, 8)).astype("float32") * np.exp2(random.uniform(-3, 3, (4000, 1))).astype("float32")
    once = RowQuantizer()(tf.constant(rows))
    np.testing.assert_allclose(RowQuantizer()(once), once, rtol=1e-6)


@pytest.mark.parametrize("channels", [None, 6])
def test_the_grid_of_a_rounded_kernel_is_found_though_its_end_is_not_used(channels):
    kernel = np.random.default_rng(3).normal(size=(40, 6)).astype("float32")
    trained = WeightQuantizer(channels)
    trained.start(kernel)
    moved = 0.9 * kernel  # what the last step of a training does, after the range was taken
    rounded = trained(tf.constant(moved)).numpy()
    again = WeightQuantizer(channels)
    again.start(rounded)
    assert np.abs(again(tf.constant(rounded)).numpy() - rounded).max() > 1e-3
    again.find_grid(rounded)
    np.testing.assert_allclose(again(tf.constant(rounded)).numpy(), rounded, atol=1e-6)
    again.find_grid(kernel)  # no grid: its own range
    own = WeightQuantizer(channels)
    own.start(kernel)
    np.testing.assert_allclose(again(tf.constant(kernel)).numpy(), own(tf.constant(kernel)).numpy(), atol=1e-6)


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


def test_zeros_alone_are_no_range_and_a_bad_batch_leaves_all_as_it_was():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    kb.compress.quantize_model(model, calibration=[np.zeros((2, 5), "float32")])
    before = [{"layer": model.layers[0].name, "per_channel": True, "input": [-6, 6], "output": [-6, 6], "output_sizes": [1, 1, 1]}]
    assert kb.compress.ranges(model) == before
    with pytest.raises(Exception, match="shape"):
        kb.compress.calibrate(model, [np.ones((2, 5), "float32"), np.ones((2, 4), "float32")])
    assert kb.compress.ranges(model) == before
    quantizer = model.layers[0].compression.input_quantizer
    assert float(quantizer(tf.constant([9.0]))[0]) == pytest.approx(6.0, abs=0.05)  # it rounds again, and does not note


def test_ranges_say_which_kernels_have_a_range_for_each_output():
    keras.utils.set_random_seed(0)
    x = 10 * np.random.default_rng(8).normal(size=(32, 1200)).astype("float32")
    # The 8-bit values of one output are few enough to pass for clusters.
    for wide, again in ((True, False), (False, True)):
        model = keras.Sequential([keras.Input((1200,)), keras.layers.Dense(1)])
        kb.compress.quantize_model(model, calibration=[x], per_channel=wide)
        before, ranges = model.predict(x, verbose=0), kb.compress.ranges(model)
        kb.compress.strip(model)
        for options in ({}, {"per_channel": again}):
            kb.compress.quantize_model(model, ranges=ranges, **options)
            assert kb.compress.ranges(model) == ranges
            np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=2e-4)
            kb.compress.strip(model)


def test_clusters_come_back_with_their_ranges():
    model = kb.compress.cluster_weights(net(), 8, layers=["*/heads", "*/conv", "*/out"])
    kb.compress.quantize_model(model, calibration=[X])
    before, ranges = model.predict(X, verbose=0), kb.compress.ranges(model)
    assert [row["per_channel"] for row in ranges] == [True, False, False, False]
    assert [len(set(row["output_sizes"])) > 1 for row in ranges[1:]] == [True] * 3  # channels are measured one by one all the same
    kb.compress.strip(model)
    assert [len(np.unique(model.get_layer(name).get_weights()[0])) for name in ("heads", "conv", "out")] == [8, 8, 8]
    for preserve in (True, False):
        again = net(seed=7)
        again.set_weights(model.get_weights())
        kb.compress.quantize_model(again, ranges=ranges, preserve=preserve)
        np.testing.assert_allclose(again.predict(X, verbose=0), before, atol=1e-5)


def test_a_large_output_of_a_clustered_kernel_leaves_the_others_their_digits():
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(1).normal(size=(64, 32)).astype("float32")
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(8)])
    kernel, bias = model.get_weights()
    bias[0] = 300.0  # one range for all outputs would have steps of more than 1
    model.set_weights([kernel, bias])
    kb.compress.cluster_weights(model, 16)
    plain = model.predict(x, verbose=0)
    kb.compress.quantize_model(model, calibration=[x])
    assert np.abs(model.predict(x, verbose=0) - plain)[:, 1:].max() < 0.03 * np.abs(plain[:, 1:]).max()


def channels_first_runs_here() -> bool:
    """Whether TensorFlow convolves (N, C, H, W) on this CPU: it does with oneDNN, which it takes on newer ones only."""
    try:
        tf.nn.conv2d(tf.zeros((1, 1, 2, 2)), tf.zeros((1, 1, 1, 1)), 1, "VALID", data_format="NCHW")
    except tf.errors.UnimplementedError:
        return False
    return True


def test_outputs_that_do_not_come_last_share_one_range():
    random = np.random.default_rng(5)
    layers = keras.layers
    cases = [
        (layers.EinsumDense("abc,cde->abed", output_shape=(5, 4, 3), bias_axes="ed"), (5, 8)),
        (layers.EinsumDense("abc,cd->adb", output_shape=(7, 5)), (5, 8)),
        (layers.Conv2D(3, 3, data_format="channels_first"), (2, 8, 8)),
        (layers.Conv2D(4, 3, groups=2, activation="relu"), (8, 8, 2)),
        (layers.Conv3D(4, 2), (4, 4, 4, 2)),
        (layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 2)),
    ]
    if not channels_first_runs_here():
        del cases[2]
    for layer, shape in cases:
        model = keras.Sequential([keras.Input(shape), layer])
        x = random.normal(size=(8, *shape)).astype("float32")
        plain = model.predict(x, verbose=0)
        kb.compress.quantize_model(model, calibration=[x])
        one_range = isinstance(layer, layers.EinsumDense) or layer.data_format == "channels_first"
        assert (kb.compress.ranges(model)[0]["output_sizes"] is None) == one_range
        assert 0 < np.abs(model.predict(x, verbose=0) - plain).max() < 0.03 * np.abs(plain).max()


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
    heads = model.get_layer("heads").get_weights()[0].reshape(16, 32)
    steps = heads / np.abs(heads).max(axis=0) * 127
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


@pytest.mark.parametrize("kept", ["zeros", "clusters"])
def test_zeros_alone_and_clusters_alone_are_kept(kept):
    model = net()
    layer = model.get_layer("heads")
    kernel, bias = layer.get_weights()
    mask = np.abs(kernel) < np.quantile(np.abs(kernel), 0.4 if kept == "zeros" else 0)
    values = np.array([-0.21, -0.1, 0.05, 0.3], "float32")
    layer.set_weights([np.where(mask, 0, kernel) if kept == "zeros" else values[np.abs(kernel[..., None] - values).argmin(-1)], bias])
    before = layer.get_weights()[0]
    kb.compress.strip(fitted(kb.compress.quantize_model(model, calibration=[X]), epochs=3, jit_compile=False))
    after = layer.get_weights()[0]
    if kept == "zeros":
        assert (after[mask] == 0).all()
        assert len(np.unique(after)) > 100
    else:
        assert len(np.unique(after)) == 4
        assert np.abs(np.unique(after) - values).max() < 0.05
    assert np.abs(after - before).max() > 1e-3


def test_clusters_are_quantized_without_a_strip_between():
    model = kb.compress.cluster_weights(net(), 8, layers=["*/heads", "*/out"])
    fitted(model, jit_compile=False)
    fitted(kb.compress.quantize_model(model, calibration=[X]), jit_compile=False)
    kb.compress.strip(model)
    for name in ("heads", "out"):
        kernel = model.get_layer(name).get_weights()[0]
        steps = np.unique(kernel) / np.abs(kernel).max() * 127
        assert len(steps) <= 8
        np.testing.assert_allclose(steps, np.round(steps), atol=0.5)  # the range is that of the step before


def test_a_range_begins_at_the_centroids_of_a_kernel_that_is_clustered():
    model = kb.compress.cluster_weights(net(), 4, layers="*/out")
    kb.compress.quantize_model(model)
    compression = model.get_layer("out").compression
    largest = np.abs(compression.clusters.centroids.numpy()).max()
    assert [float(weight.numpy()) for weight in compression.weight_quantizer.weights[:2]] == [-largest, largest]


def test_a_kernel_of_one_value_is_free_to_learn():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, kernel_initializer="ones"), keras.layers.Dense(8, kernel_initializer="zeros")]
    model = kb.compress.quantize_model(keras.Sequential([keras.Input((6,)), *layers]))
    assert [layer.compression.clusters for layer in layers] == [None, None]
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(X, np.tile(Y, 3)[:, :8], verbose=0)
    assert np.mean(kb.compress.strip(model).layers[1].get_weights()[0] != 0) > 0.5


def test_a_quantized_model_can_be_pruned_as_it_trains():
    model = kb.compress.quantize_model(net(), calibration=[X])
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[kb.compress.Pruning(sparsity=0.5)])
    kb.compress.strip(model)
    for name in ("heads", "out"):
        assert np.mean(model.get_layer(name).get_weights()[0] == 0) == pytest.approx(0.5, abs=0.02)


def test_nothing_is_kept_when_asked_not_to():
    model = net()
    layer = model.get_layer("out")
    layer.set_weights([np.where(np.abs(layer.get_weights()[0]) < 0.1, 0, layer.get_weights()[0]), *layer.get_weights()[1:]])
    zeros = np.mean(layer.get_weights()[0] == 0)
    kb.compress.strip(fitted(kb.compress.quantize_model(model, calibration=[X], preserve=False), epochs=3))
    assert np.mean(layer.get_weights()[0] == 0) < zeros / 2


@pytest.mark.slow
def test_xla_equals_plain():
    weights = [
        fitted(kb.compress.quantize_model(net(), calibration=[X]), jit_compile=jit).get_layer("out").get_weights()[0]
        for jit in (False, True)
    ]
    np.testing.assert_allclose(weights[1], weights[0], atol=2e-3)  # rounding to 8 bits turns a last bit into a whole step


def test_several_steps_an_execution_equal_one():
    weights = [
        fitted(kb.compress.quantize_model(net(), calibration=[X]), jit_compile=False, steps_per_execution=steps).get_weights()
        for steps in (1, 2)
    ]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_resume_goes_on_to_equal_weights(tmp_path):
    def train(*callbacks):
        model = kb.compress.quantize_model(net(), calibration=[X])
        model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    for one, other in zip(*whole_and_resumed(train, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns(policy):
    model = kb.compress.quantize_model(net(policy=policy), calibration=[X])
    optimizer = keras.optimizers.Adam(1e-2)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=False)
    losses = model.fit(X, Y, batch_size=4, epochs=60, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert np.isfinite(kb.compress.strip(model).get_layer("out").get_weights()[0]).all()


def test_weights_saved_in_the_middle_come_back(tmp_path):
    model = fitted(kb.compress.quantize_model(net(), calibration=[X]))
    model.save_weights(tmp_path / "middle.weights.h5")
    again = kb.compress.quantize_model(net(seed=9))
    again.load_weights(tmp_path / "middle.weights.h5")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.slow
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


def litert_interpreter(folder):
    """Returns the interpreter of a Bundle's LiteRT file, which keeps its operations as they were written."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(folder / "model.tflite"), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def litert_operations(folder) -> list[tuple[str, list[tuple[str, int]]]]:
    """Returns each operation of a file with the type and the number of scales of its inputs."""
    interpreter = litert_interpreter(folder)
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}

    def kind(index: int) -> tuple[str, int]:
        return tensors[index]["dtype"].__name__, len(tensors[index]["quantization_parameters"]["scales"])

    return [(op["op_name"], [kind(i) for i in op["inputs"] if i in tensors]) for op in interpreter._get_ops_details()]


@pytest.mark.slow
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
    # The parity check asks the form that was converted; that form answers as the model does.
    texts = review_examples.inputs[:16]
    exported = twin.reference_logits(twin.litert_twin(tiny_bert, int8=True), texts)
    np.testing.assert_allclose(exported, twin.reference_logits(tiny_bert, texts), atol=0.02)
    assert np.abs(exported - twin.reference_logits(kb.compress.strip(tiny_bert), texts)).max() > 1e-4


@pytest.mark.slow
def test_clustered_kernels_stay_few_codes_in_the_file(tiny_bert, review_examples, tmp_path):
    kb.compress.cluster_weights(tiny_bert, 16)
    batches = [inputs for inputs, *_ in kb.data.batches(review_examples, tiny_bert, batch_size=16)]
    kb.compress.quantize_model(tiny_bert, calibration=batches)
    folder = kb.export.litert(tiny_bert, tmp_path / "bundle", quantize="int8")
    interpreter = litert_interpreter(folder)
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    kernels = [op["inputs"][1] for op in interpreter._get_ops_details() if op["op_name"] == "CONV_2D"]
    assert len(kernels) == 2 * 6 + 2
    for index in kernels:
        assert details[index]["dtype"] == np.int8
        assert len(details[index]["quantization_parameters"]["scales"]) == details[index]["shape"][0]
        assert len(np.unique(interpreter.get_tensor(index))) <= 16
    texts = review_examples.inputs[:16]
    exported = kb.export.load(folder).logits(texts)
    np.testing.assert_allclose(exported, twin.reference_logits(tiny_bert, texts), atol=0.02)


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
        (lambda: quantize(net(), ranges=[]), "Received: those of none"),
        (lambda: quantize(net(), ranges=[{}] * 4), "Received: those of None, None"),
        (lambda: quantize(net(), ranges=[{"layer": row["layer"]} for row in ranges]), "for the 16 outputs of 'net/table'"),
        (lambda: quantize(net(), ranges=[*ranges[:3], {"layer": "out", "per_channel": True}]), "for the 3 outputs of 'net/out'"),
        (lambda: quantize(net(), ranges=[*ranges[:3], ranges[3] | {"output_sizes": [1.0]}]), "for the 3 outputs of 'net/out'"),
        (
            lambda: quantize(kb.compress.cluster_weights(net(), 4, layers="*/out"), ranges=ranges),
            "for the 3 outputs of 'net/out', one for all",
        ),
        (lambda: quantize(net(), layers=lambda layer: False), "Expected at least one kernel to take"),
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
