"""A training that is cut off goes on as if it had not been."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import vit_classifier
from conftest import whole_and_resumed

from kerasbig.data import batches
from kerasbig.distribute import AdamW, Resume
from kerasbig.text import bert_classifier


class PowerCut(Exception):
    pass


class CutAt(keras.callbacks.Callback):
    """Raises after a number of steps, like a kill."""

    def __init__(self, step: int):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise PowerCut


def build(vocabulary):
    keras.utils.set_random_seed(11)
    model = bert_classifier(("negative", "positive"), size="tiny", vocabulary=vocabulary, sequence_length=32)
    model.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    return model


def build_small():
    """A model that is quickly compiled, for what does not depend on the model."""
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.1), keras.layers.Dense(2)])
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit_small(model, folder, *extra, epochs=3):
    resume = Resume(folder, every_seconds=0.0)
    random = np.random.default_rng(0)
    train = tf.data.Dataset.from_tensor_slices((random.normal(size=(64, 4)).astype("float32"), random.integers(2, size=64))).batch(8)
    history = model.fit(train, epochs=epochs, verbose=0, callbacks=[resume, *extra])
    return history, resume


def fit(model, examples, folder, *extra, epochs=3, every_seconds=0.0):
    stop = keras.callbacks.EarlyStopping("loss", patience=9)
    resume = Resume(folder, every_seconds=every_seconds, callbacks=[stop])
    train = batches(examples, model, batch_size=8, seed=5)
    history = model.fit(train, epochs=epochs, verbose=0, shuffle=False, callbacks=[stop, resume, *extra])
    return history, resume, stop


def largest_difference(one, two):
    return max(float(np.abs(a - b).max()) for a, b in zip(one.get_weights(), two.get_weights(), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(review_vocabulary, review_examples, tmp_path_factory):
    model = build(review_vocabulary)
    _, resume, stop = fit(model, review_examples, tmp_path_factory.mktemp("whole"))
    return model, resume.history, stop


@pytest.mark.parametrize(  # in the first epoch; at the end of it; in the second
    "cut_at", [pytest.param(3, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow), 13]
)
def test_resumed_equals_uninterrupted(cut_at, uninterrupted, review_vocabulary, review_examples, tmp_path):
    whole, history, stop = uninterrupted
    with pytest.raises(PowerCut):
        fit(build(review_vocabulary), review_examples, tmp_path, CutAt(cut_at))
    again = build(review_vocabulary)
    _, resume, restored_stop = fit(again, review_examples, tmp_path)
    assert resume.resumed_from == divmod(cut_at if cut_at % 8 else cut_at - 1, 8)
    assert largest_difference(whole, again) == 0.0
    assert [row["epoch"] for row in resume.history] == [1, 2, 3]
    for ours, theirs in zip(resume.history, history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], rel=1e-6)
    assert (restored_stop.best_epoch, restored_stop.wait) == (stop.best_epoch, stop.wait)
    assert restored_stop.best == pytest.approx(stop.best, rel=1e-6)
    assert not resume.path.exists()


@pytest.mark.slow
def test_random_state_of_dropout_is_kept(uninterrupted, review_vocabulary, review_examples, tmp_path):
    """Without the state of the dropout layers the weights would differ: shown by resetting them."""
    whole, _, _ = uninterrupted
    with pytest.raises(PowerCut):
        fit(build(review_vocabulary), review_examples, tmp_path, CutAt(5))

    class OtherDropout(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for variable in self.model.variables:
                if "seed_generator_state" in variable.path:
                    variable.assign([1, 1])

    again = build(review_vocabulary)
    fit(again, review_examples, tmp_path, OtherDropout())
    assert largest_difference(whole, again) > 1e-6


@pytest.mark.parametrize("with_resume", [False, True])
def test_the_first_step_is_traced_once(with_resume, tmp_path, monkeypatch):
    # As it is outside of these tests: see `traced_once` in conftest.py.
    monkeypatch.setattr(keras.Model, "make_train_function", super(keras.Model, keras.Model).make_train_function)
    model, traced = build_small(), []
    monkeypatch.setattr(model, "train_step", lambda data: traced.append(data) or type(model).train_step(model, data))
    x, y = np.zeros((8, 4), "float32"), np.zeros(8, "int32")
    model.fit(x, y, verbose=0, callbacks=[Resume(tmp_path)] if with_resume else [])
    # Without it, once more as soon as the optimizer's variables are there.
    assert len(traced) == (1 if with_resume else 2)


def test_a_later_fit_starts_at_its_own_first_epoch(tmp_path):
    model = build_small()
    with pytest.raises(PowerCut):
        fit_small(model, tmp_path, CutAt(9))
    again = build_small()
    fit_small(again, tmp_path, epochs=2)
    history, resume = fit_small(again, tmp_path, epochs=1)
    assert history.epoch == [0]
    assert resume.resumed_from is None


def test_state_of_another_model_is_refused(tmp_path):
    with pytest.raises(PowerCut):
        fit_small(build_small(), tmp_path, CutAt(3))
    keras.utils.set_random_seed(11)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"to hold the state of this model and optimizer\. Received the state of another one"):
        fit_small(other, tmp_path)


def test_a_cut_while_saving_leaves_the_older_state(tmp_path, monkeypatch):
    with pytest.raises(PowerCut):
        fit_small(build_small(), tmp_path, CutAt(3))
    before = (tmp_path / "resume.npz").read_bytes()

    def cut(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", cut)
    with pytest.raises(OSError, match="No space left"):
        fit_small(build_small(), tmp_path)
    assert (tmp_path / "resume.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["resume.npz"]


def test_keras_still_has_what_resume_sets():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert model._initial_epoch is None


def test_resumed_equals_uninterrupted_under_xla(tmp_path):
    def train(*callbacks):
        built = vit_classifier()
        built.model.compile(AdamW(1e-3), built.loss, jit_compile=True)
        built.model.fit(built.batches, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
        return built.model.get_weights()

    for whole, resumed in zip(*whole_and_resumed(train, tmp_path), strict=True):
        np.testing.assert_array_equal(resumed, whole)
