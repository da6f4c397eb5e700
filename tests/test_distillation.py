"""Distillation: the loss by hand, students cut from their teachers, and what else trains beside it."""

from __future__ import annotations

import re

import keras
import keras_hub
import numpy as np
import pytest
from conftest import whole_and_resumed

import kerasbig as kb
from kerasbig.text import bert_classifier, compile_classifier

CLASSES = ("negative", "positive")


def bert(vocabulary, *, size="mini", seed=0, classes=CLASSES, dtype="float32", sequence_length=16):
    keras.utils.set_random_seed(seed)
    return bert_classifier(classes, size=size, vocabulary=vocabulary, sequence_length=sequence_length, dtype=dtype)


def dense(units: int, outputs: int = 3, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "tanh", name="middle"), keras.layers.Dense(outputs)])


X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.5), (3.0, 0.2), (2.0, 0.0)])
def test_the_loss_by_hand(temperature, weight):
    teacher, student = dense(16), dense(8, seed=1)
    labels = np.arange(16) % 3
    distiller = kb.compress.distill(teacher, student, temperature=temperature, student_loss_weight=weight)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    measured = distiller.evaluate(X, labels, batch_size=16, verbose=0, return_dict=True)["total_loss"]
    wanted, answered = (softmax(np.asarray(model(X), "float64") / temperature) for model in (teacher, student))
    divergence = (wanted * np.log(wanted / answered)).sum(axis=1).mean() * temperature**2
    cross_entropy = -np.log(softmax(np.asarray(student(X), "float64"))[np.arange(16), labels]).mean()
    assert measured == pytest.approx(weight * cross_entropy + (1 - weight) * divergence, rel=1e-4)


def test_keras_still_misreads_the_name_of_the_divergence():
    """When this fails, Keras was mended, and the name alone may be used again."""
    logits = np.array([[2.0, -1.0]]), np.array([[0.5, 0.1]])
    by_name = keras.distillation.LogitsDistillation(2.0).compute_loss(*logits)
    as_loss = keras.distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence()).compute_loss(*logits)
    assert abs(float(by_name) - float(as_loss)) > 0.1


def test_values_are_compared_by_their_squares():
    teacher, student = dense(16, 1), dense(8, 1, seed=1)
    distiller = kb.compress.distill(teacher, student, student_loss_weight=0.0)
    distiller.compile("sgd", "mse")
    measured = distiller.evaluate(X, np.zeros((16, 1)), batch_size=16, verbose=0, return_dict=True)["total_loss"]
    assert measured == pytest.approx(float(np.mean((np.asarray(teacher(X)) - np.asarray(student(X))) ** 2)), rel=1e-5)


def test_features_are_compared_too():
    teacher, student = dense(8), dense(8, seed=1)
    distiller = kb.compress.distill(teacher, student, features={"middle": "middle"}, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # One epoch of 300 steps: each epoch costs more than its step.
    distiller.fit(np.tile(X, (300, 1)), np.zeros(300 * 16), batch_size=16, shuffle=False, verbose=0)
    middles = [keras.Model(model.inputs, model.get_layer("middle").output)(X) for model in (teacher, student)]
    assert float(np.mean((np.asarray(middles[0]) - np.asarray(middles[1])) ** 2)) < 0.1 * float(np.var(np.asarray(middles[0])))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_a_student_comes_near_its_teacher_which_stays_as_it_was(policy, review_vocabulary, review_examples):
    teacher = bert(review_vocabulary, size="tiny", dtype=policy)
    batches = kb.data.batches(review_examples, teacher, batch_size=16)
    compile_classifier(teacher, keras.optimizers.Adam(3e-3))
    teacher.fit(batches.repeat(10), shuffle=False, verbose=0)  # one epoch: each costs more than its steps
    before, wanted = teacher.get_weights(), kb.data.predict_logits(teacher, review_examples.inputs)
    # Narrower than its teacher, so it begins anew and knows nothing yet.
    student = kb.compress.smaller_student(teacher, num_layers=1, hidden_dim=64, intermediate_dim=128, num_heads=2)
    start = np.mean((kb.data.predict_logits(student, review_examples.inputs) - wanted) ** 2)
    distiller = kb.compress.distill(teacher, student, student_loss_weight=0.1)
    compile_classifier(distiller, keras.optimizers.Adam(3e-3))
    train = kb.data.batches(review_examples, student, batch_size=16)
    history = distiller.fit(train.repeat(10), validation_data=batches, shuffle=False, verbose=0).history
    end = np.mean((kb.data.predict_logits(student, review_examples.inputs) - wanted) ** 2)
    assert end < 0.1 * start
    assert {"val_accuracy", "val_loss"} <= set(history)
    assert all(np.array_equal(old, new) for old, new in zip(before, teacher.get_weights(), strict=True))
    assert student.class_names == CLASSES


@pytest.mark.parametrize(("layers", "kept"), [(3, [0, 2, 3]), (2, [0, 3]), (1, [0])])
def test_a_student_has_its_teachers_layers(layers, kept, review_vocabulary):
    teacher = bert(review_vocabulary)
    student = kb.compress.smaller_student(teacher, num_layers=layers)
    assert student.backbone.num_layers == layers
    for i, source in enumerate(kept):
        own = student.backbone.get_layer(f"transformer_layer_{i}").get_weights()
        for one, other in zip(own, teacher.backbone.get_layer(f"transformer_layer_{source}").get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    for name in ("token_embedding", "embeddings_layer_norm", "pooled_dense"):
        for one, other in zip(student.backbone.get_layer(name).get_weights(), teacher.backbone.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(student.get_layer("logits").get_weights()[0], teacher.get_layer("logits").get_weights()[0])
    assert student.preprocessor is teacher.preprocessor


def test_twelve_to_six_is_distilberts_choice():
    assert np.linspace(0, 11, 6).round().astype(int).tolist() == [0, 2, 4, 7, 9, 11]


def test_a_narrower_student_begins_anew(review_vocabulary):
    student = kb.compress.smaller_student(bert(review_vocabulary), **kb.text.SIZES["tiny"])
    assert student.backbone.hidden_dim == kb.text.SIZES["tiny"]["hidden_dim"]
    kb.data.predict_logits(student, ["a fine film"])


@pytest.mark.slow
def test_a_vision_student_has_its_teachers_layers():
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(image_shape=(16, 16, 3), patch_size=8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32)
    teacher = keras_hub.models.ViTImageClassifier(backbone, num_classes=3)
    student = kb.compress.smaller_student(teacher, num_layers=2)
    images = np.random.default_rng(0).random((8, 16, 16, 3)).astype("float32")
    distiller = kb.compress.distill(teacher, student, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for i, source in enumerate((0, 3)):
        blocks = [model.backbone.get_layer(name).encoder_layers[at] for model, name, at in _encoders(teacher, student, source, i)]
        for one, other in zip(blocks[0].get_weights(), blocks[1].get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    losses = distiller.fit(images, np.zeros(8), epochs=15, verbose=0).history["distillation_loss"]
    assert losses[-1] < losses[0]


def _encoders(teacher: keras.Model, student: keras.Model, source: int, own: int) -> list[tuple[keras.Model, str, int]]:
    """Returns where each model has its encoder, and which of its blocks to look at."""
    names = [next(layer.name for layer in model.backbone.layers if hasattr(layer, "encoder_layers")) for model in (teacher, student)]
    return [(teacher, names[0], source), (student, names[1], own)]


@pytest.mark.slow
def test_pruning_takes_the_student_alone(review_vocabulary, review_examples):
    teacher, student = bert(review_vocabulary, size="tiny"), bert(review_vocabulary, size="tiny", seed=1)
    before = teacher.get_weights()
    distiller = kb.compress.distill(teacher, student)
    compile_classifier(distiller, kb.distribute.AdamW(1e-3, weight_decay=0.01))
    pruning = kb.compress.Pruning(sparsity=0.5)
    distiller.fit(kb.data.batches(review_examples, student, batch_size=16), epochs=2, shuffle=False, verbose=0, callbacks=[pruning])
    done = [row for row in pruning.report.rows if row["done"]]
    assert done
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.01) for row in done)
    assert all(np.array_equal(old, new) for old, new in zip(before, teacher.get_weights(), strict=True))


@pytest.mark.slow
def test_resume_goes_on_to_equal_weights(review_vocabulary, review_examples, tmp_path):
    def train(*callbacks):
        teacher, student = bert(review_vocabulary, size="tiny"), bert(review_vocabulary, size="tiny", seed=1)
        distiller = kb.compress.distill(teacher, student)
        compile_classifier(distiller, kb.distribute.AdamW(1e-3, weight_decay=0.01))
        batches = kb.data.batches(review_examples, student, batch_size=16)
        distiller.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
        return student.get_weights()

    for one, other in zip(*whole_and_resumed(train, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_later_callbacks_see_the_sparsity_as_tensorboard_does():
    seen = []
    model = dense(8)
    model.compile("sgd", "mse")
    # TensorBoard draws what `on_epoch_end` is given; it is no dependency of ours.
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["sparsity"]))
    model.fit(X, np.zeros((16, 3)), batch_size=4, epochs=2, verbose=0, callbacks=[kb.compress.Pruning(sparsity=0.5), after])
    assert seen[-1] == pytest.approx(0.5, abs=0.02)


def test_bad_input(review_vocabulary):
    teacher = bert(review_vocabulary)
    other_classes = bert(review_vocabulary, classes=("positive", "negative"))
    shorter = bert(review_vocabulary, sequence_length=8)
    distill, smaller = kb.compress.distill, kb.compress.smaller_student
    cases = [
        (lambda: distill(teacher, other_classes), "Expected the student to have the teacher's classes, in the same order"),
        (lambda: distill(teacher, shorter), "Expected the student to tokenize as the teacher does"),
        (lambda: distill(dense(4), dense(4, 2)), "Expected the student to have the teacher's 3 outputs. Received: 2"),
        (lambda: distill(dense(4), dense(4), temperature=0), "Expected a temperature above 0. Received: temperature=0"),
        (lambda: distill(dense(4), dense(4), student_loss_weight=2), "Expected student_loss_weight from 0 to 1"),
        (lambda: smaller(teacher, num_layers=4), "Expected a student smaller than its teacher's num_layers=4. Received: num_layers=4"),
        (lambda: smaller(teacher, num_layers=0), "Received: num_layers=0"),
        (lambda: smaller(teacher, hidden_dims=8), "Received: hidden_dims"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match="Expected a KerasHub task whose backbone has num_layers"):
        smaller(dense(4))
