"""Clustering: equal to TF-MOT itself on a Keras 2 twin, keeps zeros, uses all clusters, and leaves a plain model."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from conftest import whole_and_resumed

import kerasbig as kb
from kerasbig.compress import _tfmot
from kerasbig.compress.clustering import initial_centroids

STEPS = 6
# Stock TF-MOT on Keras 2, in a process of its own: importing it changes the environment.
REFERENCE = """
    import sys
    import numpy as np
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    api, data, out = tfmot.clustering.keras, np.load(sys.argv[1]), {}
    for initialization in ("KMEANS_PLUS_PLUS", "LINEAR", "DENSITY_BASED"):
        for zeros in (False, True):
            layer = keras.layers.Dense(40, use_bias=False)
            model = keras.Sequential([keras.Input((50,)), layer])
            model.set_weights([data["pruned" if zeros else "large"]])
            kind = api.CentroidInitialization[initialization]
            clustered = api.cluster_weights(model, number_of_clusters=9, cluster_centroids_init=kind, preserve_sparsity=zeros)
            out[f"{initialization}/{int(zeros)}"] = clustered.layers[0].cluster_centroids["kernel"].numpy()
    for aggregation in ("SUM", "AVG"):
        for zeros in (False, True):
            model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(12, "tanh"), keras.layers.Dense(6)])
            weights = [data[f"weight{i}"] for i in range(4)]
            if zeros:
                weights = [np.where(np.abs(w) < 0.5, 0, w) if w.ndim == 2 else w for w in weights]
            model.set_weights(weights)
            model = api.cluster_weights(
                model,
                number_of_clusters=5,
                cluster_centroids_init=api.CentroidInitialization.LINEAR,
                cluster_gradient_aggregation=api.GradientAggregation[aggregation] if hasattr(api, "GradientAggregation")
                else __import__(
                    "tensorflow_model_optimization.python.core.clustering.keras.cluster_config", fromlist=["x"]
                ).GradientAggregation[aggregation],
                preserve_sparsity=zeros,
            )
            key = f"{aggregation}/{int(zeros)}"
            for i, layer in enumerate(model.layers):
                out[f"{key}/start{i}"] = layer.cluster_centroids["kernel"].numpy()
            model.compile(keras.optimizers.SGD(0.05), "mse")
            model.fit(data["x"], data["y"], batch_size=4, shuffle=False, verbose=0)
            for i, layer in enumerate(model.layers):
                out[f"{key}/centroids{i}"] = layer.cluster_centroids["kernel"].numpy()
                out[f"{key}/original{i}"] = layer.original_clusterable_weights["kernel"].numpy()
            for i, weight in enumerate(api.strip_clustering(model).get_weights()):
                out[f"{key}/stripped{i}"] = weight
    np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shapes = {"x": (STEPS * 4, 10), "y": (STEPS * 4, 6), "weight0": (10, 12), "weight1": (12,), "weight2": (12, 6), "weight3": (6,)}
    made = {name: random.normal(size=shape).astype("float32") for name, shape in (shapes | {"large": (50, 40)}).items()}
    return made | {"pruned": np.where(np.abs(made["large"]) < 0.5, 0, made["large"])}


@pytest.fixture(scope="module")
def reference(data: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("tfmot")
    np.savez(folder / "data.npz", **data)
    command = [sys.executable, "-c", textwrap.dedent(REFERENCE), str(folder / "data.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as out:
        return dict(out)


def dense_net(data: dict[str, np.ndarray], *, zeros: bool = False) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(12, "tanh", name="hidden"), keras.layers.Dense(6, name="out")], name="net"
    )
    weights = [data[f"weight{i}"] for i in range(4)]
    model.set_weights([np.where(np.abs(w) < 0.5, 0, w) if zeros and w.ndim == 2 else w for w in weights])
    return model


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("aggregation", ["sum", "average"])
def test_training_equals_tfmot(aggregation, zeros, jit, data, reference):
    key = f"{'SUM' if aggregation == 'sum' else 'AVG'}/{int(zeros)}"
    model = kb.compress.cluster_weights(
        dense_net(data, zeros=zeros), 5, initialization="linear", aggregation=aggregation, preserve_sparsity=zeros
    )
    for i, layer in enumerate(model.layers):
        # TF-MOT has no Lloyd's steps: both begin where it does. It sorts none; ours sorts all.
        layer.compression.clusters.centroids.assign(np.sort(reference[f"{key}/start{i}"]))
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=jit)
    model.fit(data["x"], data["y"], batch_size=4, shuffle=False, verbose=0)
    for i, layer in enumerate(model.layers):
        np.testing.assert_allclose(layer._kernel.numpy(), reference[f"{key}/original{i}"], rtol=1e-5, atol=2e-6)
        centroids = reference[f"{key}/centroids{i}"]
        own = layer.compression.clusters.centroids.numpy()
        if zeros:  # ours pins the zero when it is used, TF-MOT sets it in the variable one step later
            zero = np.argmin(np.abs(np.sort(reference[f"{key}/start{i}"])))
            own, centroids = np.delete(own, zero), np.delete(np.sort(centroids), zero)
        np.testing.assert_allclose(np.sort(own), np.sort(centroids), rtol=1e-5, atol=2e-6)
    for i, weight in enumerate(kb.compress.strip(model).get_weights()):
        np.testing.assert_allclose(weight, reference[f"{key}/stripped{i}"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("initialization", ["kmeans++", "linear", "density"])
def test_centroids_begin_where_tfmots_do(initialization, zeros, data, reference):
    name = {"kmeans++": "KMEANS_PLUS_PLUS", "linear": "LINEAR", "density": "DENSITY_BASED"}[initialization]
    own = initial_centroids(data["pruned" if zeros else "large"], 9, initialization, keep_zeros=zeros, steps=0)
    np.testing.assert_allclose(own, np.unique(reference[f"{name}/{int(zeros)}"]), rtol=1e-6, atol=1e-7)
    assert (0 in own) == zeros


def stock_clustering(centroids: tf.Variable, aggregation):
    return _tfmot._modules["clustering.keras.clustering_algorithm"].ClusteringAlgorithm(centroids, aggregation)


@pytest.mark.parametrize("aggregation", ["SUM", "AVG"])
def test_values_and_gradients_equal_tfmots(aggregation, data):
    kind, weights = _tfmot.GradientAggregation[aggregation], tf.constant(data["large"].ravel())
    # Not sorted, as training may leave them, and one that no weight is near to.
    centroids = tf.Variable([0.3, -1.2, 2.0, 0.0, -0.4, 1.1, 90.0])
    upstream = tf.constant(np.random.default_rng(9).normal(size=weights.shape).astype("float32"))
    results = []
    for algorithm in (_tfmot.Clustering(centroids, kind), stock_clustering(centroids, kind)):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            ours = isinstance(algorithm, _tfmot.Clustering)
            clustered = algorithm(weights) if ours else algorithm.get_clustered_weight(algorithm.get_pulling_indices(weights), weights)
            loss = tf.reduce_sum(clustered * upstream)
        results.append([clustered, *map(tf.convert_to_tensor, tape.gradient(loss, (weights, centroids)))])
    for own, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], upstream)


def test_an_embedding_has_tfmots_gradients_with_the_sum():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(20, 4)])
    kb.compress.cluster_weights(model, 4, layers="*", aggregation="sum")
    layer, ids = model.layers[0], np.array([[1, 2, 2, 3], [5, 1, 9, 0]], "int32")
    centroids, table = layer.compression.clusters.centroids._value, layer._embeddings._value
    stock = stock_clustering(centroids, _tfmot.GradientAggregation.SUM)
    gradients = []
    for ours in (True, False):
        with tf.GradientTape() as tape:
            flat = tf.reshape(tf.convert_to_tensor(table), [-1])
            whole = tf.reshape(stock.get_clustered_weight(stock.get_pulling_indices(flat), flat), table.shape)
            rows = model(ids) if ours else tf.gather(whole, ids)
            loss = tf.reduce_sum(rows**2)
        gradients.append([np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(loss, (centroids, table))])
    for own, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-5, atol=1e-7)


def test_assignments_equal_tfmots_distances():
    random = np.random.default_rng(0)
    for count in (2, 16, 64):
        centroids, weights = tf.Variable(random.normal(size=count).astype("float32")), random.normal(size=5000).astype("float32")
        ours = _tfmot.Clustering(centroids, _tfmot.GradientAggregation.AVG).get_pulling_indices(tf.constant(weights))
        theirs = stock_clustering(centroids, _tfmot.GradientAggregation.AVG).get_pulling_indices(tf.constant(weights))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("initialization", ["kmeans++", "linear", "density", "random"])
def test_lloyds_steps_bring_centroids_nearer(initialization):
    weights = np.random.default_rng(1).normal(size=4000).astype("float32")

    def error(steps: int) -> float:
        centroids = initial_centroids(weights, 16, initialization, steps=steps)
        return float(np.abs(weights[:, None] - centroids).min(axis=1).__pow__(2).mean())

    assert error(10) < error(0)


def test_one_of_lloyds_steps_by_hand():
    weights = np.where(np.random.default_rng(1).random(400) < 0.4, 0, np.random.default_rng(2).normal(size=400)).astype("float32")
    first = initial_centroids(weights, 7, "linear", keep_zeros=True, steps=0)
    kept = weights[weights != 0]
    nearest = np.abs(kept[:, None] - first).argmin(axis=1)
    means = [kept[nearest == i].mean() if value != 0 and (nearest == i).any() else value for i, value in enumerate(first)]
    np.testing.assert_allclose(initial_centroids(weights, 7, "linear", keep_zeros=True, steps=1), np.sort(means), rtol=1e-6)
    assert 0 in means


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [layer._kernel.numpy() for layer in model._flatten_layers() if hasattr(layer, "_kernel")]


def net(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((6, 6, 2)),
        keras.layers.Conv2D(16, 3, activation="relu", name="conv"),
        keras.layers.Reshape((16, 16)),
        keras.layers.EinsumDense("abc,cde->abde", output_shape=(16, 4, 8), bias_axes="de", name="heads"),
        keras.layers.Flatten(),
        keras.layers.Dense(32, "relu", name="hidden"),
        keras.layers.Dense(3, name="out"),
    ]
    return keras.Sequential(layers, name="net")


X = np.random.default_rng(2).normal(size=(16, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(3).normal(size=(16, 3)).astype("float32")


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_all_clusters_stay_used_and_strip_changes_no_output(optimizer):
    model = kb.compress.cluster_weights(net(), {"*/out": 4, "*": 8}, layers=lambda layer: True)
    model.compile(keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 1e-3}}), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0)
    trainable, before = len(model.trainable_variables), model.predict(X, verbose=0)
    assert kb.compress.strip(model) is model
    np.testing.assert_allclose(model.predict(X, verbose=0), before, atol=1e-5)
    assert [len(np.unique(kernel)) for kernel in kernels(model)] == [8, 8, 8, 4]
    assert {type(layer).__name__ for layer in model.layers} <= {"Conv2D", "Reshape", "EinsumDense", "Flatten", "Dense"}
    assert len(model.trainable_variables) == trainable - 4 == len(net().trainable_variables)


def pruned(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if hasattr(layer, "_kernel"):
            size = np.abs(layer._kernel.numpy())
            layer._kernel.assign(np.where(size < np.quantile(size, 0.6), 0, layer._kernel.numpy()))
    return model


OPTIMIZERS = {
    "AdamW": lambda: keras.optimizers.AdamW(3e-3, weight_decay=0.1),
    "momentum and weight decay": lambda: keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_stay_zero_even_with_momentum_and_decay(optimizer):
    model = pruned(net())
    zeros = [kernel == 0 for kernel in kernels(model)]
    kb.compress.cluster_weights(model, 8)
    model.compile(OPTIMIZERS[optimizer](), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=4, epochs=4, verbose=0)
    kb.compress.strip(model)
    for kernel, mask in zip(kernels(model)[1:], zeros[1:], strict=True):  # the convolution was not named
        assert (kernel[mask] == 0).all()
        assert len(np.unique(kernel)) <= 8


def test_zeros_are_not_kept_when_asked_not_to():
    model = pruned(net())
    kb.compress.cluster_weights(model, 8, preserve_sparsity=False)
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=4, verbose=0)
    kb.compress.strip(model)
    assert all((kernel != 0).all() for kernel in kernels(model)[1:])


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 2}])
def test_ways_to_run_are_equal(options):
    weights = []
    for chosen in ({"jit_compile": False}, options):
        model = kb.compress.cluster_weights(net(), 8)
        model.compile(keras.optimizers.SGD(0.01), "mse", **chosen)
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_centroids_in_float32(policy):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu", dtype=policy), keras.layers.Dense(1, dtype="float32")])
    kb.compress.cluster_weights(model, 4)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(np.ones((16, 8)), np.ones((16, 1)), epochs=2, verbose=0)
    assert model.layers[0].compression.clusters.centroids.dtype == "float32"
    assert len(np.unique(kb.compress.strip(model).layers[0].get_weights()[0])) <= 4


def test_weights_saved_in_the_middle_come_back(tmp_path):
    model = kb.compress.cluster_weights(net(), 8)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(X, Y, epochs=1, verbose=0)
    model.save_weights(tmp_path / "middle.weights.h5")
    again = kb.compress.cluster_weights(net(seed=9), 8)
    again.load_weights(tmp_path / "middle.weights.h5")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_loaded_zero_is_kept_where_it_stands(tmp_path):
    x = np.random.default_rng(4).normal(size=(16, 8)).astype("float32")

    def half(sign: int) -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32)])
        kernel = model.layers[0]._kernel
        kernel.assign(np.maximum(sign * kernel.numpy(), 0) * sign)
        return kb.compress.cluster_weights(model, 6)

    negative, positive = half(-1), half(1)
    places = [int(np.flatnonzero(model.layers[0].compression.clusters.centroids.numpy() == 0)[0]) for model in (negative, positive)]
    assert places == [5, 0]
    negative.save_weights(tmp_path / "middle.weights.h5")
    positive.load_weights(tmp_path / "middle.weights.h5")
    np.testing.assert_array_equal(positive.predict(x, verbose=0), negative.predict(x, verbose=0))
    for model in (negative, positive):
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        model.fit(x, np.tile(x, 4), shuffle=False, verbose=0)
    np.testing.assert_array_equal(positive.get_weights()[-1], negative.get_weights()[-1])


def test_a_frozen_layer_stays_and_the_others_learn_with_their_biases():
    model = net()
    model.get_layer("hidden").trainable = False
    kb.compress.cluster_weights(model, 8)
    before = {layer.name: [weight.copy() for weight in layer.get_weights()] for layer in model.layers}
    assert len(model.trainable_variables) == 2 + 3 + 3  # the convolution, the heads, the logits: kernel, bias, centroids
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    model.fit(X, Y, verbose=0)
    for old, new in zip(before["hidden"], model.get_layer("hidden").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for name in ("heads", "out"):
        for old, new in zip(before[name], model.get_layer(name).get_weights(), strict=True):
            assert np.abs(new - old).max() > 1e-5
    model.get_layer("hidden").trainable = True
    assert len(model.trainable_variables) == 2 + 3 + 3 + 3


def test_no_trace_from_before_is_run_again():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    model, x = keras.Sequential([keras.Input((8,)), inner, keras.layers.Dense(2)]), np.arange(32.0).reshape(4, 8)
    plain = inner.predict(x, verbose=0), model.predict(x, verbose=0)
    kb.compress.cluster_weights(model, 2)
    clustered = inner.predict(x, verbose=0), model.predict(x, verbose=0)
    kb.compress.strip(model)
    for before, now, after in zip(plain, clustered, (inner.predict(x, verbose=0), model.predict(x, verbose=0)), strict=True):
        assert np.abs(now - before).max() > 1e-2
        np.testing.assert_allclose(after, now, rtol=1e-6, atol=1e-5)
    model.generate_function = lambda inputs: inputs  # a KerasHub language model keeps such a trace
    kb.compress.cluster_weights(model, 2)
    assert model.generate_function is None


def test_a_tied_table_keeps_the_dtype_of_the_computation():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    table = keras_hub.layers.ReversibleEmbedding(30, 8, dtype="mixed_bfloat16", name="table")
    model, ids = keras.Model(inputs, table(table(inputs), reverse=True)), np.array([[1, 5, 5, 29]])
    kb.compress.cluster_weights(model, 4, layers="table")
    logits = model(ids)
    rows = np.asarray(table.compression(tf.convert_to_tensor(table._embeddings._value)))
    assert logits.dtype == "bfloat16"
    assert len(np.unique(rows)) == 4
    np.testing.assert_allclose(tf.cast(logits, "float32"), rows[ids] @ rows.T, rtol=0.02, atol=1e-4)


def test_summary_and_parameters_count_what_was_added():
    model, lines = net(), []
    plain = model.count_params()
    kb.compress.cluster_weights(model, {"*/out": 4, "*": 8}, layers=lambda layer: True)
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert model.count_params() == plain + 8 + 8 + 8 + 4
    assert f"{plain + 28:,}" in "".join(lines)
    assert kb.compress.strip(model).count_params() == plain


def test_the_second_time_takes_other_layers_or_a_stripped_model():
    model = kb.compress.cluster_weights(net(), 4, layers="*/out")
    kb.compress.cluster_weights(model, 8, layers="*/hidden")
    kb.compress.strip(model)
    assert [len(np.unique(model.get_layer(name).get_weights()[0])) for name in ("out", "hidden")] == [4, 8]
    kb.compress.strip(kb.compress.cluster_weights(model, 3, layers=["*/out", "*/hidden"]))
    assert [len(np.unique(model.get_layer(name).get_weights()[0])) for name in ("out", "hidden")] == [3, 3]


@pytest.mark.slow
def test_bert_is_clustered_through_fit(tiny_bert, review_examples):
    batches = kb.data.batches(review_examples, tiny_bert, batch_size=16, seed=1)
    plain = [weight.shape for weight in tiny_bert.weights]
    kb.compress.cluster_weights(tiny_bert, 16, layers=["*transformer_layer_1*", "*logits"])
    tiny_bert.compile(kb.distribute.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    tiny_bert.fit(batches, epochs=1, verbose=0)
    inputs = next(iter(batches))[0]
    before = np.asarray(tiny_bert(inputs))
    kb.compress.strip(tiny_bert)
    np.testing.assert_allclose(tiny_bert(inputs), before, atol=1e-5)
    assert [weight.shape for weight in tiny_bert.weights] == plain
    counts = [row["clusters"] for row in kb.compress.inspect(tiny_bert).rows if row["kind"] in ("Dense", "EinsumDense")]
    assert counts.count(16) == 6 + 1


@pytest.mark.slow
def test_resume_goes_on_to_equal_weights(tmp_path):
    def train(*callbacks):
        model = kb.compress.cluster_weights(net(), 8)
        model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
        model.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    for one, other in zip(*whole_and_resumed(train, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_two_replicas_equal_one(run_python):
    code = """
        import numpy as np, tensorflow as tf, keras
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import kerasbig as kb
        x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
        weights = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)])
                kb.compress.cluster_weights(model, 4)
                model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
            model.fit(x, x[:, :4], batch_size=8, epochs=3, shuffle=False, verbose=0)
            weights.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
        print(np.abs(weights[1] - weights[0]).max())
    """
    assert float(run_python(textwrap.dedent(code)).splitlines()[-1]) < 1e-5


def test_a_stripped_model_loads_without_kerasbig(tmp_path: Path, run_python):
    model = kb.compress.strip(kb.compress.cluster_weights(net(), 8))
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", x=X, y=model.predict(X, verbose=0))
    code = f"""
import sys; sys.modules["kerasbig"] = None
import keras, numpy as np
data = np.load({str(tmp_path / "x.npz")!r})
print(np.abs(keras.saving.load_model({str(tmp_path / "model.keras")!r}).predict(data["x"], verbose=0) - data["y"]).max())
"""
    assert float(run_python(code).splitlines()[-1]) < 1e-6


def test_bad_input(monkeypatch):
    cluster = kb.compress.cluster_weights
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    cases = [
        (lambda: cluster(net(), 1), "Expected number_of_clusters as whole numbers of at least 2. Received: 1"),
        (lambda: cluster(net(), True), "whole numbers of at least 2. Received: True"),
        (lambda: cluster(net(), {"*": 8, "*/out": 1}), "whole numbers of at least 2. Received: {"),
        (lambda: cluster(net(), 8, layers="!*"), "Expected at least one kernel to take"),
        (lambda: cluster(kb.compress.quantize_model(net()), 8), "Expected kernels that are not being compressed"),
        (lambda: cluster(net(), {}), "Expected number_of_clusters as whole numbers"),
        (lambda: cluster(net(), 8, initialization="kmean"), "Expected initialization out of kmeans"),
        (lambda: cluster(net(), 8, aggregation="mean"), "Expected aggregation out of average, sum"),
        (lambda: cluster(net(), {"*/hidden": 8}), "none of which fits 'net/heads'"),
        (lambda: cluster(net(), 200, layers="*/out"), "200 clusters for the 96 weights of 'net/out'"),
        (lambda: cluster(net(), 8, layers="*/nothing"), "which names none"),
        (lambda: cluster(unbuilt, 8), "Expected a built model"),
        (lambda: cluster(cluster(net(), 8), 8), "Expected kernels that are not being compressed"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match=r"Expected a Keras model\. Received: list"):
        kb.compress.strip([])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Expected Keras on TensorFlow"):
        cluster(net(), 8)
