"""AdamW against the paper's algorithm in NumPy, on dense and on sliced gradients."""

from __future__ import annotations

import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasbig as kb

RATE, BETA_1, BETA_2, EPSILON = 0.05, 0.9, 0.999, 1e-7


def by_hand(weight, gradients):
    """Algorithm 1 of Kingma and Ba (2015), with the epsilon hat of its section 2."""
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        m = BETA_1 * m + (1 - BETA_1) * gradient
        v = BETA_2 * v + (1 - BETA_2) * gradient**2
        weight = weight - RATE * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step) * m / (np.sqrt(v) + EPSILON)
    return weight


def slices(rows, values, shape):
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), dense_shape=tf.constant(shape))


def apply(optimizer, variable, gradients, *, jit=False):
    optimizer.build([variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient]), jit_compile=jit)
    for gradient in gradients:
        step(gradient)
    return variable.numpy()


@pytest.mark.parametrize("jit", [False, True])
def test_dense_gradients(jit):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(4, 3)), random.normal(size=(5, 4, 3))
    got = apply(kb.distribute.AdamW(RATE, weight_decay=0.0), keras.Variable(start), [tf.constant(g, "float32") for g in gradients], jit=jit)
    np.testing.assert_allclose(got, by_hand(start, gradients), rtol=0, atol=1e-6)


def test_a_token_that_occurs_twice_counts_with_its_sum():
    start = np.ones((3, 2))
    pieces = [[[1.0, 2.0], [2.0, -2.0], [0.5, 0.5]], [[-2.5, 1.0], [1.0, 1.0], [0.0, 3.0]]]
    rows = [1, 1, 2]
    dense = []
    for piece in pieces:
        gradient = np.zeros((3, 2))
        np.add.at(gradient, rows, piece)
        dense.append(gradient)
    got = apply(kb.distribute.AdamW(RATE, weight_decay=0.0), keras.Variable(start), [slices(rows, piece, (3, 2)) for piece in pieces])
    np.testing.assert_allclose(got, by_hand(start, dense), rtol=0, atol=1e-6)


def test_keras_still_squares_each_slice():
    """When this fails, Keras was mended and our class may go."""
    got = apply(
        keras.optimizers.AdamW(RATE, weight_decay=0.0), keras.Variable(np.ones((3, 2))), [slices([1, 1], [[1.0, 2.0], [2.0, -1.0]], (3, 2))]
    )
    summed = np.zeros((3, 2))
    summed[1] = [3.0, 1.0]
    assert np.abs(got - by_hand(np.ones((3, 2)), [summed])).max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"gradient_accumulation_steps": 2}, {"use_ema": True}, {"clipnorm": 0.5}])
def test_equals_keras_where_nothing_repeats(options):
    random = np.random.default_rng(1)
    x, y = random.normal(size=(8, 5)).astype("float32"), random.normal(size=(8, 1)).astype("float32")
    weights = []
    for kind in (keras.optimizers.AdamW, kb.distribute.AdamW):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        model.compile(kind(0.01, weight_decay=0.1, **options), "mse")
        model.fit(x, y, batch_size=2, epochs=3, shuffle=False, verbose=0)
        weights.append(np.concatenate([w.numpy().ravel() for w in model.trainable_variables]))
    np.testing.assert_allclose(weights[1], weights[0], rtol=0, atol=1e-6)


def test_two_replicas_equal_one_device(run_python):
    # In a process of its own: the two devices have to be set up before TensorFlow makes any.
    code = """
        import keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import kerasbig as kb
        random = np.random.default_rng(2)
        tokens, y = random.integers(0, 6, size=(8, 4)), random.normal(size=(8, 1)).astype("float32")
        weights = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                layers = [keras.Input((4,), dtype="int32"), keras.layers.Embedding(6, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
                model = keras.Sequential(layers)
                model.compile(kb.distribute.AdamW(0.01, weight_decay=0.1), "mse", jit_compile=False)
            model.fit(tf.data.Dataset.from_tensor_slices((tokens, y)).batch(4), epochs=3, shuffle=False, verbose=0)
            weights.append(np.concatenate([np.asarray(w).ravel() for w in model.trainable_variables]))
        print(np.abs(weights[1] - weights[0]).max())
    """
    assert float(run_python(textwrap.dedent(code)).splitlines()[-1]) < 1e-6


def test_is_saved_and_loaded():
    config = keras.optimizers.serialize(kb.distribute.AdamW(0.5, beta_1=0.8))
    again = keras.optimizers.deserialize(config)
    assert isinstance(again, kb.distribute.AdamW)
    assert again.beta_1 == 0.8
