"""Export of face classifiers: people and embeddings from each format, in a process without KerasBig."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_export_images import loosened

import kerasbig as kb
from kerasbig.export import face_classifier, image_runners, pictures
from kerasbig.export.parity import ExportError

pytestmark = pytest.mark.slow

NAMES = ("Ada", "Зоя", "Sofia")
# Unit vectors: the measured differences are a third of these or less. Runners resize with NumPy, within 1 of 255.
CLOSE = {"saved_model": 1e-5, "hdf5": 1e-5, "litert": 0.02, "onnx": 1e-3}


def make_face_classifier(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    shared: dict[str, Any] = {"size": "lite-2", "image_shape": (16, 24, 3), "patch_size": 4, "stem": True, "embedding_dim": 16}
    model = loosened(kb.vision.face_classifier(NAMES, **shared | options))
    model.threshold = 0.4
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_face_classifier()


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, checked with the built-in pictures."""
    return kb.export.bundle(model, tmp_path_factory.mktemp("export") / "people", formats=list(CLOSE))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{place}" for place in range(len(pictures.default_pictures()))]
    for path, content in zip(paths, pictures.default_pictures(), strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def test_the_manifest_says_what_it_is(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["task"], manifest["threshold"], manifest["embedding_dim"]) == ("face-classifier", 0.4, 16)
    assert manifest["classes"] == list(NAMES)
    for format in CLOSE:
        assert manifest["formats"][format]["parity"]["max_abs_embedding_difference"] < CLOSE[format]


@pytest.mark.parametrize("format", CLOSE)
def test_embeddings_are_those_of_the_model(exported: Path, model: keras.Model, photos: list[str], format: str) -> None:
    predictor = kb.export.load(exported, format=format)
    wanted, answers = kb.vision.embed(model, photos), predictor.predict(photos)
    embeddings = predictor.embed(photos)
    np.testing.assert_allclose(embeddings, wanted, rtol=0, atol=CLOSE[format])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    for answer, embedding, logits in zip(answers, embeddings, predictor.logits(photos), strict=True):
        assert answer["label"] == NAMES[int(logits.argmax())]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["embedding"] == embedding.tolist()
    assert predictor.predict([]) == []


def test_signatures(exported: Path, photos: list[str]) -> None:
    signatures = tf.saved_model.load(str(exported / "1")).signatures
    files = tf.constant([Path(photo).read_bytes() for photo in photos])
    answer, raw, alone = (signatures[name](image=files) for name in ("serving_default", "logits", "embedding"))
    assert set(answer) == {"label", "label_id", "probabilities", "embedding"}
    assert set(raw) == {"logits", "embedding"}
    assert set(alone) == {"embedding"}
    for each in (answer, raw):
        np.testing.assert_array_equal(each["embedding"], alone["embedding"])
    pixels = signatures["pixels"](pixels=tf.zeros((2, 16, 24, 3)))
    assert pixels["embedding"].shape == (2, 16)


def test_the_runner_alone_answers(exported: Path, photos: list[str]) -> None:
    command = [sys.executable, "-P", image_runners.__file__, str(exported), *photos[:2]]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [len(json.loads(line)["embedding"]) for line in lines] == [16, 16]


def test_logits_of_plain_keras_are_the_cosines(model: keras.Model) -> None:
    cosines, plain = model.get_layer("predictions"), model.get_layer("predictions").plain_layer()
    vectors = np.random.default_rng(0).normal(size=(5, 16)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.asarray(cosines.kernel) / np.linalg.norm(cosines.kernel, axis=0)
    np.testing.assert_allclose(np.asarray(plain(vectors)), model.scale * vectors @ directions, rtol=0, atol=1e-5)


def test_other_embeddings_are_an_error() -> None:
    logits, embeddings = np.float32([[9, 1, 1], [1, 9, 1]]), np.float32([[1, 0], [0, 1]])
    expected = face_classifier.ExpectedFaces(
        "face-classifier", [b""] * 2, np.zeros((2, 1, 1, 3), "uint8"), np.hstack([logits, embeddings]), NAMES
    )
    same = {"outputs": np.hstack([logits, embeddings]).tolist()}
    assert expected.measured("litert", same, "dynamic")["max_abs_embedding_difference"] == 0
    # Within what logits of this size may differ by, but not within what unit vectors may.
    turned = {"outputs": np.hstack([logits, embeddings + np.float32([[0, 0.3], [0, 0]])]).tolist()}
    with pytest.raises(ExportError, match=r"give the model's embeddings, within 0.2. Received: embeddings that differ by 0.3"):
        expected.measured("litert", turned, "dynamic")
    with pytest.raises(ExportError, match="outputs"):
        replace(expected, outputs=expected.outputs + 9).measured("litert", same, "dynamic")


def test_a_plain_vit_in_bfloat16(tmp_path: Path) -> None:
    model = make_face_classifier(stem=False, pooling="token", dtype="mixed_bfloat16")
    for format in ("saved_model", "hdf5", "litert", "onnx"):
        kb.export.bundle(model, tmp_path / format, formats=[format])
