"""A text classifier, served: raw strings in, labels out, equal to the Keras model that it came from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import kerasbig as kb
from kerasbig.serve import Server

TEXTS = ["a fine film", "awful and dull", "the story is weak and boring and the film was awful", "电影很好", ""]
CLASSES = ("negative", "positive")


@pytest.fixture(scope="module")
def model(review_vocabulary: list[str]) -> keras.Model:
    keras.utils.set_random_seed(3)
    return kb.text.bert_classifier(CLASSES, size="tiny", vocabulary=review_vocabulary, sequence_length=32)


@pytest.fixture(scope="module")
def bundle(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kb.export.saved_model(model, tmp_path_factory.mktemp("saved_models") / "sentiment", version=1)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with kb.serve.start(bundle, rest_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def expected(model: keras.Model) -> np.ndarray:
    """The Keras model's own probabilities."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(TEXTS, verbose=0)))


def check(labels: list[str], label_ids: list[int], probabilities: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert label_ids == expected.argmax(-1).tolist()
    assert labels == [CLASSES[number] for number in label_ids]


@pytest.mark.parametrize("rows", [TEXTS, [{"text": text} for text in TEXTS]])
def test_rows_equal_the_keras_model(server: Server, expected: np.ndarray, rows: list) -> None:
    predictions = httpx.post(server.rest_url + ":predict", json={"instances": rows}, timeout=60).json()["predictions"]
    columns = {name: [row[name] for row in predictions] for name in ("label", "label_id", "probabilities")}
    check(columns["label"], columns["label_id"], np.float32(columns["probabilities"]), expected)


@pytest.mark.parametrize("columns", [TEXTS, {"text": TEXTS}])
def test_columns_equal_the_keras_model(server: Server, expected: np.ndarray, columns: list | dict) -> None:
    outputs = httpx.post(server.rest_url + ":predict", json={"inputs": columns}, timeout=60).json()["outputs"]
    check(outputs["label"], outputs["label_id"], np.float32(outputs["probabilities"]), expected)


def test_grpc_equals_the_keras_model(server: Server, expected: np.ndarray) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "sentiment"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(TEXTS))
    with grpc.insecure_channel(server.grpc_address) as channel:
        outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60).outputs
    labels = [label.decode() for label in outputs["label"].string_val]
    check(labels, list(outputs["label_id"].int_val), tf.make_ndarray(outputs["probabilities"]), expected)


def test_the_served_answer_equals_the_loaded_file_exactly(server: Server, bundle: Path) -> None:
    loaded = tf.saved_model.load(str(bundle / "1"))
    direct = loaded.signatures["logits"](text=tf.constant(TEXTS))["logits"].numpy()
    body = {"signature_name": "logits", "instances": TEXTS}
    served = httpx.post(server.rest_url + ":predict", json=body, timeout=60).json()["predictions"]
    np.testing.assert_array_equal(np.float32(served), direct)


def test_numbers_where_text_should_be_are_refused(server: Server) -> None:
    response = httpx.post(server.rest_url + ":predict", json={"instances": ["a fine film", 3]}, timeout=60)
    assert response.status_code == 400
    message = "Expected instances[1] to be of type string (input 'text'). Received: a whole number, 3."
    assert response.json() == {"error": message}


def test_an_altered_bundle_does_not_start(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "sentiment"
    shutil.copytree(bundle, copy)
    (copy / "1" / "assets.extra" / "classes.json").write_text('["positive", "negative"]')
    with pytest.raises(ValueError, match="classes"):
        kb.serve.start(copy, rest_port=0, grpc_port=0)
