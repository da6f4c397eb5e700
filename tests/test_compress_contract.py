"""Every builder can be pruned, clustered, trained for int8, stripped and exported."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from builders import BUILDERS, ONE_OF_EACH, Built, logits, public_builders

import kerasbig as kb
from kerasbig.compress.kernels import select_kernels

pytestmark = pytest.mark.slow
EIGHT_CODES = 8 / 255


@pytest.fixture(params=ONE_OF_EACH)
def built(request: pytest.FixtureRequest) -> Built:
    return ONE_OF_EACH[request.param]()


def fit(built: Built, epochs: int = 1, callbacks: list | None = None) -> None:
    built.model.compile(kb.distribute.AdamW(1e-3, weight_decay=0.01), built.loss)
    if callbacks is None:
        built.model.fit(built.batches.repeat(epochs), shuffle=False, verbose=0)  # one epoch: each costs more than its steps
    else:
        built.model.fit(built.batches, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [kernel.variable.numpy() for kernel in select_kernels(model)[0]]


def matrices(model: keras.Model) -> list[np.ndarray]:
    return [kernel.variable.numpy().reshape(kernel.matrix_shape) for kernel in select_kernels(model)[0]]


def centred(outputs: np.ndarray) -> np.ndarray:
    """Takes off what a softmax does not see: a number added to all logits."""
    return outputs if outputs.shape[-1] == 1 else outputs - outputs.mean(axis=-1, keepdims=True)


def apart(taught: np.ndarray, learnt: np.ndarray, loss: keras.losses.Loss) -> float:
    """Returns how far a student's outputs are from its teacher's; of a detector where the teacher sees objects."""
    if not isinstance(loss, kb.vision.FcosLoss):
        return float(np.abs(centred(learnt) - centred(taught)).mean())
    belief = 1 / (1 + np.exp(-taught[..., :-4].max(axis=-1)))
    return float((belief * np.abs(taught - learnt)[..., -4:].mean(axis=-1)).sum() / belief.sum())


def litert_difference(built: Built, folder: Path, quantize: str | None) -> float:
    """Exports a LiteRT file and returns how far it is from the model."""
    parity = kb.export.read_manifest(kb.export.litert(built.model, folder, quantize=quantize))["formats"]["litert"]["parity"]
    return next(value for name, value in parity.items() if name.startswith("max_abs_"))


def test_every_builder_is_listed():
    assert {name.split(" ")[0] for name in BUILDERS} == public_builders()


def test_pruned_two_of_four(built):
    fit(built, callbacks=[kb.compress.Pruning(m_by_n=(2, 4))])
    for matrix in matrices(built.model):
        groups = matrix.T.reshape(matrix.shape[1], -1, 4)
        assert ((groups == 0).sum(axis=-1) >= 2).all()


def test_zeros_are_reported_lost_after_a_fit_without_pruning():
    built = BUILDERS["bert_classifier"]()
    fit(built, 2, [kb.compress.Pruning(sparsity=0.75)])
    fit(built)
    rows = kb.compress.inspect(built.model).rows
    assert all(row["sparsity"] < 0.5 for row in rows if row["kind"] in ("Dense", "EinsumDense"))


def test_pruned_clustered_trained_for_int8_and_exported(built, tmp_path):
    fit(built, 2, [kb.compress.Pruning(sparsity=0.75)])
    zeros = [kernel == 0 for kernel in kernels(built.model)]
    assert np.allclose([mask.mean() for mask in zeros], 0.75, atol=0.01)

    kb.compress.cluster_weights(built.model, 16)
    fit(built)
    before = logits(built)
    kb.compress.strip(built.model)
    np.testing.assert_allclose(logits(built), before, atol=1e-5)
    assert_kept(built.model, zeros)
    assert litert_difference(built, tmp_path / "clustered", None) < 1e-3

    kb.compress.quantize_model(built.model, calibration=[built.inputs])
    fit(built)
    before = logits(built)
    quantize = "int8" if built.computes_in_int8 else "dynamic"
    # Values on the border between two codes fall either way, by the processor: noise of 1e-6 moves the model's own answers by 0.04.
    assert litert_difference(built, tmp_path / "int8", quantize) <= max(0.05, EIGHT_CODES * np.ptp(before))
    ranges = kb.compress.ranges(built.model)
    kb.compress.strip(built.model)
    assert_kept(built.model, zeros)
    kb.compress.quantize_model(built.model, ranges=ranges, preserve=False)
    np.testing.assert_allclose(logits(built), before, atol=1e-4)


def assert_kept(model: keras.Model, zeros: list[np.ndarray]) -> None:
    """Zeros are where they were, and each kernel has its 16 values at most."""
    for kernel, mask in zip(kernels(model), zeros, strict=True):
        assert (kernel[mask] == 0).all()
        assert len(np.unique(kernel)) <= 16


def test_distilled_into_a_smaller_student(built):
    fit(built, 30)  # a teacher that has learnt something to teach
    student = kb.compress.smaller_student(built.model, num_layers=1)
    distiller = kb.compress.distill(built.model, student, student_loss_weight=0.0)
    distiller.compile(kb.distribute.AdamW(1e-3, weight_decay=0.0), built.loss)
    teacher = [weight.numpy() for weight in built.model.weights]
    first = apart(logits(built), np.asarray(student(built.inputs)), built.loss)
    distiller.fit(built.batches.repeat(30), shuffle=False, verbose=0)
    last = apart(logits(built), np.asarray(student(built.inputs)), built.loss)
    assert student.count_params() < built.model.count_params()
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(teacher, built.model.weights, strict=True))
    assert last < 0.6 * first
