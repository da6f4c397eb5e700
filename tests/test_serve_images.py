"""Image models, served: the bytes of files in, answers out, equal to `kerasbig predict`; bad bytes are refused and the server lives."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from test_export_detectors import make_detector
from test_export_images import NAMES, encoded, make_classifier, picture

import kerasbig as kb
from kerasbig.export import pictures
from kerasbig.serve import Server

pytestmark = pytest.mark.slow

FILES = list(pictures.default_pictures())


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def ask(server: Server, **body: Any) -> httpx.Response:
    return httpx.post(server.rest_url + ":predict", json=body, timeout=60)


def ask_grpc(server: Server, name: str, files: list[bytes]) -> dict[str, np.ndarray]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(files))
    with grpc.insecure_channel(server.grpc_address) as channel:
        outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60).outputs
    return {key: tf.make_ndarray(value) for key, value in outputs.items()}


def write(folder: Path) -> list[str]:
    folder.mkdir()
    for place, content in enumerate(FILES):
        (folder / f"{place}").write_bytes(content)
    return [str(folder / f"{place}") for place in range(len(FILES))]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_classifier()


@pytest.fixture(scope="module")
def server(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = kb.export.saved_model(model, tmp_path_factory.mktemp("saved_models") / "pets")
    with kb.serve.start(folder, rest_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def detector() -> keras.Model:
    return make_detector()


@pytest.fixture(scope="module")
def detector_server(detector: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = kb.export.saved_model(detector, tmp_path_factory.mktemp("saved_models") / "found")
    with kb.serve.start(folder, rest_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def expected(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `kerasbig predict` answers."""
    return kb.export.predictions(kb.data.predict_logits(model, write(tmp_path_factory.mktemp("photos") / "all")), NAMES)


@pytest.mark.parametrize("rows", [[b64(content) for content in FILES], [{"image": b64(content)} for content in FILES]])
def test_rest_answers_as_predict_does(server: Server, expected: list[dict[str, Any]], rows: list) -> None:
    answers = ask(server, instances=rows).json()["predictions"]
    assert [answer["label"] for answer in answers] == [right["label"] for right in expected]
    for answer, right in zip(answers, expected, strict=True):
        assert answer["label_id"] == NAMES.index(right["label"])
        assert answer["probabilities"] == pytest.approx(list(right["probabilities"].values()), abs=1e-5)


def test_grpc_answers_as_predict_does(server: Server, expected: list[dict[str, Any]]) -> None:
    answer = ask_grpc(server, "pets", FILES)
    assert [label.decode() for label in answer["label"]] == [right["label"] for right in expected]
    np.testing.assert_allclose(answer["probabilities"], [list(right["probabilities"].values()) for right in expected], atol=1e-5)


def test_pixels_and_logits(server: Server, model: keras.Model) -> None:
    images = np.stack([np.asarray(picture(20, 30, seed)) for seed in range(2)])
    logits = kb.data.predict_logits(model, images)
    answers = ask(server, signature_name="pixels", instances=images.tolist()).json()["predictions"]
    np.testing.assert_allclose([answer["logits"] for answer in answers], logits, atol=1e-4)
    files = [b64(encoded(picture(20, 30, seed), "PNG")) for seed in range(2)]
    np.testing.assert_allclose(ask(server, signature_name="logits", instances=files).json()["predictions"], logits, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([b64(FILES[0]), b64(b"no image")], "Expected the bytes of a JPEG, PNG, GIF or BMP image. Received other bytes."),
        ([b64(b"")], "Expected the bytes of a JPEG, PNG, GIF or BMP image."),
        ([b64(encoded(picture(), "JPEG")[:500])], "The model refused the input: Invalid JPEG data, size 500"),
        ([b64(FILES[0][:16] + b"\0\1\0\0\0\1\0\0" + bytes(40))], "Expected an image of 1 to 67108864 pixels."),
        (["photo.jpg"], "Expected the bytes of a JPEG, PNG, GIF or BMP image."),
        ([3], "Expected instances[0] to be of type string (input 'image'). Received: a whole number, 3."),
    ],
)
def test_bad_bytes_are_refused_and_the_server_lives(server: Server, rows: list, words: str) -> None:
    response = ask(server, instances=rows)
    assert response.status_code == 400
    message = response.json()["error"]
    assert words in message
    assert "{{" not in message
    assert ask(server, instances=[b64(FILES[0])]).status_code == 200


def test_bad_bytes_over_grpc(server: Server) -> None:
    with pytest.raises(grpc.RpcError, match=r"Number of the image in the request, from 0:\] \[1\]") as caught:
        ask_grpc(server, "pets", [FILES[0], b"no image"])
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_boxes_over_both_protocols(detector_server: Server, detector: keras.Model, tmp_path: Path) -> None:
    found = kb.vision.detect(detector, write(tmp_path / "photos"))
    assert min(len(one) for one in found) > 5
    rows = ask(detector_server, instances=[b64(content) for content in FILES]).json()["predictions"]
    columns = ask_grpc(detector_server, "found", FILES)
    for place, (one, row) in enumerate(zip(found, rows, strict=True)):
        count = len(one)
        assert (row["count"], columns["count"][place]) == (count, count)
        assert row["labels"][:count] == [detector.class_names[number] for number in one.classes]
        assert [label.decode() for label in columns["labels"][place, :count]] == row["labels"][:count]
        for boxes, scores in ((row["boxes"], row["scores"]), (columns["boxes"][place], columns["scores"][place])):
            np.testing.assert_allclose(boxes[:count], one.boxes, atol=1e-2)
            np.testing.assert_allclose(scores[:count], one.scores, atol=1e-4)


def test_thresholds_and_bad_bytes(detector_server: Server, detector: keras.Model, tmp_path: Path) -> None:
    inputs = {"image": [b64(FILES[0])], "score_threshold": 0.4, "iou_threshold": 0.3}
    outputs = ask(detector_server, signature_name="detect", inputs=inputs).json()["outputs"]
    right = kb.vision.detect(detector, write(tmp_path / "photos")[:1], score_threshold=0.4, iou_threshold=0.3)[0]
    assert outputs["count"] == [len(right)]
    np.testing.assert_allclose(outputs["boxes"][0], right.boxes, atol=1e-2)
    response = ask(detector_server, instances=[b64(b"no image")])
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert ask(detector_server, instances=[b64(FILES[0])]).status_code == 200
