"""The server's answers, over both protocols, against the same functions called without a server."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import kerasbig as kb
from kerasbig.files import sha256
from kerasbig.serve import Server
from kerasbig.serve.json_tensors import write_response
from kerasbig.serve.servables import Servable, load

LIMIT = 200_000


class Numbers(tf.Module):
    """Two inputs, several outputs of different types, a slow signature and one with a single output."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = tf.Variable(scale)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, "matrix"), tf.TensorSpec((None,), tf.int32, "count")])
    def default(self, matrix: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_non_negative(count, message="count must not be negative")
        total = tf.reduce_sum(matrix, -1) * self.scale + tf.cast(count, tf.float32)
        return {"scaled": matrix * self.scale, "total": total, "positive": total > 0, "half": tf.cast(total, tf.bfloat16)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def third(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x / 3.0}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "raw")])
    def echo(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": raw, "raw_bytes": raw, "length": tf.strings.length(raw)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64, "steps")])
    def slow(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """Multiplies a matrix with itself: about a millisecond a step, and the value stays 1."""
        loop = (tf.constant(0, tf.int64), tf.ones((512, 512)))
        end = tf.while_loop(lambda i, m: i < tf.reduce_max(steps), lambda i, m: (i + 1, tf.matmul(m, m) / 512.0), loop)
        return {"value": tf.fill(tf.shape(steps), end[1][0, 0])}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "numbers"
    for version, scale in ((1, 2.0), (3, 10.0)):
        module = Numbers(scale)
        signatures = {"serving_default": module.default, "third": module.third, "echo": module.echo, "slow": module.slow}
        tf.saved_model.save(module, str(folder / str(version)), signatures=signatures)
    return folder


@pytest.fixture(scope="module")
def server(numbers: Path) -> Iterator[Server]:
    with kb.serve.start(numbers, rest_port=0, grpc_port=0, max_request_bytes=LIMIT, threads=4) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=60) as session:
        yield session


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as opened:
        yield opened


def error_of(response: httpx.Response, code: int) -> str:
    """Returns the message of an error answer that has TF Serving's form and no traceback."""
    assert response.status_code == code, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert "Traceback" not in body["error"]
    assert "\n" not in body["error"]
    assert "[[{{" not in body["error"]
    return body["error"]


def predict_request(name: str = "numbers", **inputs: np.ndarray) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


MATRIX, COUNT = np.float32([[0.1, 0.2], [3.5, -4.0], [1e-8, 7]]), np.int32([1, 0, 7])


# --- answers ---------------------------------------------------------------------------------------------------------


def test_rest_rows_equal_the_function(client: httpx.Client, numbers: Path) -> None:
    rows = [{"matrix": m, "count": c} for m, c in zip(MATRIX.tolist(), COUNT.tolist(), strict=True)]
    predictions = client.post("/v1/models/numbers:predict", json={"instances": rows}).json()["predictions"]
    expected = tf.saved_model.load(str(numbers / "3")).signatures["serving_default"](matrix=tf.constant(MATRIX), count=tf.constant(COUNT))
    assert [row.keys() for row in predictions] == [{"scaled", "total", "positive", "half"}] * 3
    np.testing.assert_array_equal(np.float32([row["scaled"] for row in predictions]), expected["scaled"].numpy())
    np.testing.assert_array_equal(np.float32([row["total"] for row in predictions]), expected["total"].numpy())
    np.testing.assert_array_equal(np.float32([row["half"] for row in predictions]), tf.cast(expected["half"], tf.float32).numpy())
    assert [row["positive"] for row in predictions] == expected["positive"].numpy().tolist()


def test_rest_columns_equal_the_rows(client: httpx.Client) -> None:
    body = {"inputs": {"matrix": MATRIX.tolist(), "count": COUNT.tolist()}, "signature_name": "serving_default"}
    outputs = client.post("/v1/models/numbers:predict", json=body).json()["outputs"]
    rows = [{"matrix": m, "count": c} for m, c in zip(MATRIX.tolist(), COUNT.tolist(), strict=True)]
    predictions = client.post("/v1/models/numbers:predict", json={"instances": rows}).json()["predictions"]
    assert {name: [row[name] for row in predictions] for name in outputs} == outputs


def test_single_input_and_output_go_without_names(client: httpx.Client) -> None:
    url = "/v1/models/numbers:predict"
    third = [float(str(value)) for value in np.float32([1, 2, -3]) / np.float32(3)]
    for body, key in (
        ({"instances": [1.0, 2, -3]}, "predictions"),
        ({"instances": [{"x": 1.0}, {"x": 2}, {"x": -3}]}, "predictions"),
        ({"inputs": [1.0, 2, -3]}, "outputs"),
        ({"inputs": {"x": [1.0, 2, -3]}}, "outputs"),
    ):
        assert client.post(url, json={"signature_name": "third", **body}).json() == {key: third}


def test_versions_are_chosen_and_the_latest_is_the_default(client: httpx.Client, server: Server) -> None:
    assert (server.name, server.versions) == ("numbers", (1, 3))
    body = {"instances": [{"matrix": [1, 1], "count": 0}]}
    totals = [
        client.post(f"/v1/models/numbers{v}:predict", json=body).json()["predictions"][0]["total"]
        for v in ("", "/versions/1", "/versions/3")
    ]
    assert totals == [20.0, 4.0, 20.0]


def test_floats_that_are_not_finite_pass_both_ways(client: httpx.Client) -> None:
    body = '{"signature_name": "third", "instances": [3, NaN, Infinity, -Infinity]}'
    response = client.post("/v1/models/numbers:predict", content=body)
    assert response.text == '{"predictions":[1.0,NaN,Infinity,-Infinity]}'


def test_floats_are_written_short_and_lose_nothing() -> None:
    assert write_response({"y": np.float32([0.2, 1e-8, 2.4, 3])}, row=True) == b'{"predictions":[0.2,1e-08,2.4,3.0]}'
    values = np.random.default_rng(0).integers(0, 2**32, 5000, "uint32").view("float32")
    values = values[np.isfinite(values)].reshape(-1, 1)
    np.testing.assert_array_equal(np.float32(json.loads(write_response({"y": values}, row=False))["outputs"]), values)


def test_strings_are_utf8_and_bytes_go_as_base64(client: httpx.Client) -> None:
    raw = b"\xff\x00\x01"
    rows = ["电影很好 é", {"b64": base64.b64encode(raw).decode()}, ""]
    response = client.post("/v1/models/numbers:predict", json={"signature_name": "echo", "instances": rows}).json()["predictions"]
    assert [row["text"] for row in response] == ["电影很好 é", {"b64": base64.b64encode(raw).decode()}, ""]
    assert [base64.b64decode(row["raw_bytes"]["b64"]) for row in response] == ["电影很好 é".encode(), raw, b""]
    assert [row["length"] for row in response] == [15, 3, 0]


def test_status_and_metadata_are_tf_servings_json(client: httpx.Client, numbers: Path) -> None:
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert client.get("/v1/models/numbers").json() == {
        "model_version_status": [{"version": "3", **available}, {"version": "1", **available}]
    }
    assert client.get("/v1/models/numbers/versions/1").json() == {"model_version_status": [{"version": "1", **available}]}
    metadata = client.get("/v1/models/numbers/versions/1/metadata").json()
    assert metadata["model_spec"] == {"name": "numbers", "version": "1", "signature_name": ""}
    definition = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]["matrix"] == {
        "name": "serving_default_matrix:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
    }
    # The JSON reads back into the messages that it was made of.
    signatures = json_format.ParseDict(metadata["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()).signature_def
    assert signatures["third"].outputs["y"].dtype == tf.float32.as_datatype_enum
    assert client.get("/healthz").json() == {"status": "ok"}


# --- gRPC ------------------------------------------------------------------------------------------------------------


def test_grpc_predict_equals_the_function(channel: grpc.Channel, numbers: Path) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(predict_request(matrix=MATRIX, count=COUNT), timeout=30)
    expected = tf.saved_model.load(str(numbers / "3")).signatures["serving_default"](matrix=tf.constant(MATRIX), count=tf.constant(COUNT))
    assert (response.model_spec.name, response.model_spec.version.value) == ("numbers", 3)
    assert response.model_spec.signature_name == "serving_default"
    assert response.outputs.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs[name]), tensor.numpy())
    # Clients written for TF Serving read the typed fields.
    assert list(response.outputs["total"].float_val) == expected["total"].numpy().tolist()
    assert list(response.outputs["positive"].bool_val) == expected["positive"].numpy().tolist()


def test_grpc_chooses_version_signature_and_outputs(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_request(matrix=np.float32([[1, 1]]), count=np.int32([0]))
    request.model_spec.version.value = 1
    request.output_filter.append("total")
    response = stub.Predict(request, timeout=30)
    assert {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()} == {"total": [4.0]}
    request = predict_request(raw=np.array([b"a\xff", b""], object))
    request.model_spec.signature_name = "echo"
    assert list(stub.Predict(request, timeout=30).outputs["text"].string_val) == [b"a\xff", b""]


def test_grpc_metadata_status_and_health(channel: grpc.Channel) -> None:
    metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata_request.model_spec.name = "numbers"
    metadata = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(metadata_request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert metadata.metadata["signature_def"].Unpack(signatures)
    assert metadata.model_spec.version.value == 3
    assert {"serving_default", "third", "echo", "slow"} <= signatures.signature_def.keys()
    status_request = get_model_status_pb2.GetModelStatusRequest()
    status_request.model_spec.name = "numbers"
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status_request, timeout=30)
    assert [(s.version, s.state) for s in status.model_version_status] == [(3, 30), (1, 30)]
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status == health_pb2.HealthCheckResponse.SERVING


def bomb() -> predict_pb2.PredictRequest:
    """A message of a few bytes that announces a tensor of terabytes."""
    request = predict_request()
    request.inputs["x"].dtype = tf.float32.as_datatype_enum
    request.inputs["x"].float_val.append(1.0)
    request.inputs["x"].tensor_shape.dim.add(size=10**12)
    request.model_spec.signature_name = "third"
    return request


def changed(request: predict_pb2.PredictRequest, **fields: object) -> predict_pb2.PredictRequest:
    if "version" in fields:
        request.model_spec.version.value = fields.pop("version")
    for name, value in fields.items():
        if name == "output_filter":
            request.output_filter.extend(value)
        else:
            setattr(request.model_spec, name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (predict_request("other", x=np.float32([1])), "NOT_FOUND", "'numbers'"),
        (changed(predict_request(x=np.float32([1])), version=2), "NOT_FOUND", "[1, 3]"),
        (predict_request("", x=np.float32([1])), "INVALID_ARGUMENT", "model_spec.name"),
        (changed(predict_request(), version_label="stable"), "INVALID_ARGUMENT", "labels"),
        (changed(predict_request(), signature_name="nope"), "INVALID_ARGUMENT", "'third'"),
        (predict_request(matrix=MATRIX), "INVALID_ARGUMENT", "['count', 'matrix']"),
        (predict_request(matrix=MATRIX, count=COUNT, extra=COUNT), "INVALID_ARGUMENT", "'extra'"),
        (predict_request(matrix=MATRIX.astype("float64"), count=COUNT), "INVALID_ARGUMENT", "float64"),
        (predict_request(matrix=MATRIX[:, :1], count=COUNT), "INVALID_ARGUMENT", "(3, 1)"),
        (predict_request(matrix=MATRIX[0], count=COUNT), "INVALID_ARGUMENT", "(2,)"),
        (predict_request(matrix=MATRIX, count=-COUNT), "INVALID_ARGUMENT", "count must not be negative"),
        (predict_request(matrix=MATRIX[:2], count=COUNT), "INVALID_ARGUMENT", "ncompatible shapes"),
        (changed(predict_request(matrix=MATRIX, count=COUNT), output_filter=["sum"]), "INVALID_ARGUMENT", "output_filter"),
        (changed(predict_request(matrix=MATRIX, count=COUNT), output_filter=["total"] * 2), "INVALID_ARGUMENT", "at most once"),
        (bomb(), "INVALID_ARGUMENT", "1000000000000"),
        (changed(predict_request(x=np.zeros(LIMIT, "float32")), signature_name="third"), "RESOURCE_EXHAUSTED", str(LIMIT)),
    ],
)
def test_grpc_refuses_with_the_right_status(channel: grpc.Channel, request_: predict_pb2.PredictRequest, code: str, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_, timeout=30)
    assert caught.value.code() == grpc.StatusCode[code]
    assert words in caught.value.details()
    assert "Traceback" not in caught.value.details()


def test_grpc_says_which_methods_it_does_not_answer(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(classification_pb2.ClassificationRequest(), timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Predict" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(get_model_metadata_pb2.GetModelMetadataRequest(), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# --- bad requests over REST ------------------------------------------------------------------------------------------

ROW = {"matrix": [1, 2], "count": 3}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff\xfe\xfa", "JSON Parse error"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"instances": ' + b"9" * 5000 + b"}", "JSON Parse error"),
        (b"[1, 2]", "to be a JSON object"),
        ({}, "neither"),
        ({"instances": [ROW], "inputs": {}}, "both"),
        ({"instances": [], "signature_name": "third"}, "at least one row"),
        ({"instances": {}}, "at least one row"),
        ({"instances": "text"}, "at least one row"),
        ({"inputs": [], "signature_name": "third"}, "at least one value"),
        ({"inputs": {"matrix": [], "count": []}}, "at least one value"),
        ({"instances": [ROW], "signature_name": 3}, "'signature_name' to be a string"),
        ({"instances": [ROW], "signature_name": "nope"}, "['echo', 'serving_default', 'slow', 'third']"),
        ({"instances": [1]}, "an object with the inputs ['count', 'matrix']"),
        ({"instances": [ROW, 1]}, "instances[1]"),
        ({"instances": [ROW, {"matrix": [1, 2]}]}, "instances[1]"),
        ({"instances": [{**ROW, "extra": 1}]}, "extra"),
        ({"inputs": 3}, "an object with the inputs"),
        ({"inputs": {"matrix": [[1, 2]]}}, "['count', 'matrix']"),
        (
            {"instances": [ROW, {"matrix": [1, "x"], "count": 3}]},
            "instances[1].matrix[1] to be of type float32 (input 'matrix'). Received: a string, \"x\"",
        ),
        ({"instances": [{"matrix": [1, True], "count": 3}]}, "instances[0].matrix[1]"),
        ({"instances": [{"matrix": [1, None], "count": 3}]}, "Received: null"),
        ({"instances": [{"matrix": [1, 2], "count": 3.5}]}, "Received: a decimal number, 3.5"),
        ({"instances": [{"matrix": [1, 2], "count": 2**40}]}, "range of int32"),
        ({"instances": [{"matrix": [1, 1e39], "count": 3}]}, "range of float32"),
        ({"instances": [{"matrix": [1, 10**400], "count": 3}]}, "range of float32"),
        ({"instances": [ROW, {"matrix": [1], "count": 3}]}, "instances[1].matrix to be a list of 2"),
        ({"instances": [ROW, {"matrix": [1, [2]], "count": 3}]}, "Received: a list"),
        ({"instances": [{"matrix": [1, 2, 3], "count": 3}]}, "Received the shape (1, 3)"),
        ({"inputs": {"matrix": [[1, 2]], "count": 3}}, "Received the shape ()"),
        ({"instances": [{"matrix": [1, 2], "count": -3}]}, "count must not be negative"),
        ({"instances": ["a", 3], "signature_name": "echo"}, "instances[1]"),
        ({"instances": ["a", {"b64": "%%"}], "signature_name": "echo"}, "instances[1] to be a string or"),
        ({"instances": ["a", {"b64": 3}], "signature_name": "echo"}, "instances[1] to be a string or"),
        (b'{"instances": ["\\ud800"], "signature_name": "echo"}', "surrogate"),
        ({"inputs": {"raw": ["a", None]}, "signature_name": "echo"}, "inputs.raw[1]"),
    ],
)
def test_rest_refuses_with_400_and_says_where(client: httpx.Client, body: bytes | dict, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert words in error_of(client.post("/v1/models/numbers:predict", content=content), 400)


@pytest.mark.parametrize(
    ("method", "path", "code", "words"),
    [
        ("POST", "/v1/models/other:predict", 404, "'numbers'"),
        ("POST", "/v1/models/numbers/versions/2:predict", 404, "[1, 3]"),
        ("POST", "/v1/models/numbers/versions/two:predict", 400, "'two'"),
        ("POST", "/v1/models/numbers:classify", 501, ":predict"),
        ("POST", "/v1/models/numbers", 400, "Malformed request: POST /v1/models/numbers"),
        ("GET", "/v1/models/numbers:predict", 404, "'numbers:predict'"),
        ("GET", "/v1/models/numbers/labels/stable", 400, "Malformed request"),
        ("GET", "/v1/models/other", 404, "'other'"),
        ("GET", "/v1/models/numbers/versions/2", 404, "Received: 2"),
        ("GET", "/v1/models/other/metadata", 404, "'other'"),
        ("GET", "/v1/models/numbers/versions/9/metadata", 404, "Received: 9"),
        ("GET", "/v1/models/numbers/versions/" + "9" * 30, 400, "whole number"),
        ("GET", "/nowhere", 404, "Not Found"),
    ],
)
def test_rest_addresses_that_are_not_there(client: httpx.Client, method: str, path: str, code: int, words: str) -> None:
    assert words in error_of(client.request(method, path, content=b'{"instances": [1]}' if method == "POST" else None), code)


def test_bodies_above_the_limit_are_refused(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * (LIMIT // 2)

    for content in (b" " * (LIMIT + 1), chunks()):
        assert str(LIMIT) in error_of(client.post("/v1/models/numbers:predict", content=content), 413)
    assert client.get("/healthz").status_code == 200


def test_a_bug_stays_in_the_log(numbers: Path) -> None:
    """What no check foresees answers 500 without its text, over REST, and the server goes on."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace

    from fastapi.testclient import TestClient

    from kerasbig.serve.rest import rest_app

    servable = load(numbers, versions=[1])
    version = servable.version("numbers")

    def broken(**_: tf.Tensor) -> None:
        raise KeyError("secret")

    signature = replace(version.signatures["third"], function=broken)
    broken_servable = Servable("numbers", {1: replace(version, signatures={**version.signatures, "third": signature})})
    with ThreadPoolExecutor(1) as pool:
        session = TestClient(rest_app(broken_servable, pool, max_request_bytes=1000), raise_server_exceptions=False)
        message = error_of(session.post("/v1/models/numbers:predict", json={"signature_name": "third", "instances": [1]}), 500)
        assert "secret" not in message
        assert session.post("/v1/models/numbers:predict", json={"signature_name": "echo", "instances": ["a"]}).status_code == 200


def test_row_form_needs_outputs_with_the_same_rows() -> None:
    from kerasbig.serve.servables import ServingError

    for outputs in ({"a": np.float32([1, 2]), "b": np.float32([1])}, {"a": np.float32(1)}):
        with pytest.raises(ServingError, match="Send 'inputs' instead") as caught:
            write_response(outputs, row=True)
        assert caught.value.code == "INVALID_ARGUMENT"
    assert write_response({"a": np.float32(1)}, row=False) == b'{"outputs":1.0}'
    assert write_response({"a": np.array([[b"x"], [b"y"]], object)}, row=True) == b'{"predictions":[["x"],["y"]]}'


# --- at the same time ------------------------------------------------------------------------------------------------


def test_concurrent_requests_get_their_own_answers(client: httpx.Client, channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(number: int) -> tuple[float, float]:
        rest = client.post("/v1/models/numbers:predict", json={"signature_name": "third", "instances": [number * 3.0]}).json()[
            "predictions"
        ][0]
        request = predict_request(x=np.float32([number * 3.0]))
        request.model_spec.signature_name = "third"
        return rest, stub.Predict(request, timeout=60).outputs["y"].float_val[0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(300))) == [(float(number), float(number)) for number in range(300)]


def test_slow_requests_do_not_hold_up_status(client: httpx.Client, channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    steps = 150
    slow = predict_request(steps=np.int64([steps]))
    slow.model_spec.signature_name = "slow"
    # Twice as many as the server has threads, over each protocol.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [stub.Predict.future(slow, timeout=120) for _ in range(8)]
        body = {"signature_name": "slow", "instances": [steps]}
        posts = [pool.submit(client.post, "/v1/models/numbers:predict", json=body) for _ in range(8)]
        time.sleep(0.2)
        started = time.perf_counter()
        assert client.get("/v1/models/numbers").status_code == 200
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "numbers"
        assert model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30).model_version_status
        took = time.perf_counter() - started
        assert not any(post.done() for post in posts), "the slow requests must still run for this test to mean anything"
        assert took < 0.5
        assert [post.result().json() for post in posts] == [{"predictions": [1.0]}] * 8
        assert [future.result().outputs["value"].float_val[0] for future in waiting] == [1.0] * 8


# --- starting and stopping -------------------------------------------------------------------------------------------


def test_stop_finishes_what_is_under_way_and_frees_the_ports(numbers: Path) -> None:
    server = kb.serve.start(numbers, rest_port=0, grpc_port=0, versions=[1])
    ports = (server.rest_port, server.grpc_port)
    assert server.running
    with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(timeout=60) as session:
        body = {"signature_name": "slow", "instances": [500]}
        under_way = pool.submit(session.post, server.rest_url + ":predict", json=body)
        time.sleep(0.15)
        assert not under_way.done()
        server.stop()
        assert under_way.result().json() == {"predictions": [1.0]}
    assert not server.running
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{ports[0]}/healthz")
    with kb.serve.start(numbers, rest_port=ports[0], grpc_port=ports[1], versions=[1]) as again:
        assert (again.rest_port, again.grpc_port) == ports
    assert threading.current_thread() is threading.main_thread()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("option", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_named_before_anything_loads(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"rest_port": 0, "grpc_port": 0, option: port}
        # The folder does not exist: the port is looked at first.
        with pytest.raises(OSError, match=f"^Expected port {port} of 127.0.0.1 to be free for {option}") as caught:
            kb.serve.start("nowhere", **ports)
        assert not isinstance(caught.value, FileNotFoundError)


def test_two_servers_do_not_share_a_port(server: Server, numbers: Path) -> None:
    with pytest.raises(OSError, match=f"port {server.grpc_port} "):
        kb.serve.start(numbers, rest_port=0, grpc_port=server.grpc_port)
    with pytest.raises(OSError, match=f"port {server.rest_port} "):
        kb.serve.start(numbers, rest_port=server.rest_port, grpc_port=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rest_port": 70000}, "rest_port to be between 0"),
        ({"grpc_port": -1}, "grpc_port to be between 0"),
        ({"rest_port": 8500, "grpc_port": 8500}, "different ports"),
        ({"threads": 0}, "threads to be at least 1"),
        ({"max_request_bytes": 0}, "max_request_bytes to be at least 1"),
        ({"rest_port": 0, "grpc_port": 0, "name": "a/b"}, "name='a/b'"),
    ],
)
def test_arguments_out_of_range(numbers: Path, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kb.serve.start(numbers, **arguments)


def test_an_address_of_another_machine(numbers: Path) -> None:
    with pytest.raises(OSError, match=r"host to be an address of this machine. Received: '192\.0\.2\.1'"):
        kb.serve.start(numbers, rest_port=0, grpc_port=0, host="192.0.2.1")
    with pytest.raises(OSError, match=r"host to be an address of this machine. Received: 'no such host'"):
        kb.serve.start(numbers, rest_port=0, grpc_port=0, host="no such host")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_served_say_what_they_have(tmp_path: Path, numbers: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "config").mkdir(parents=True)
    (tmp_path / "run" / "model.tflite").touch()
    (tmp_path / "half" / "2" / "variables").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "missing", "Received: nothing"),
        (tmp_path / "file", "Received: a file"),
        (tmp_path / "empty", "It has: nothing"),
        (tmp_path / "run", "It has: config, model.tflite"),
        (tmp_path / "half", "The version folder has: variables"),
        (numbers / "1", f"pass '{numbers}'"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            load(path)
        assert words in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"among \[1, 3\]"):
        load(numbers, versions=[2])


def test_broken_saved_models_are_one_line(tmp_path: Path, numbers: Path) -> None:
    for name in ("saved_model.pb", "variables/variables.index"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(numbers / "1", folder / "1")
        file = folder / "1" / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"[Ee]xport it again") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    bare = tmp_path / "bare"
    tf.saved_model.save(tf.Module(), str(bare / "1"))
    with pytest.raises(ValueError, match="to have a signature"):
        load(bare)


def test_files_that_differ_from_the_manifest_are_not_served(tmp_path: Path, numbers: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(numbers / "1", bundle / "1")
    files = {path.relative_to(bundle).as_posix(): sha256(path) for path in bundle.rglob("*") if path.is_file()}
    (bundle / "manifest.json").write_text(json.dumps({"format_version": 1, "formats": {}, "files": files}))
    assert load(bundle).versions.keys() == {1}
    variables = bundle / "1" / "variables" / "variables.data-00000-of-00001"
    original = variables.read_bytes()
    variables.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"variables\.data"):
        load(bundle)
    variables.unlink()
    with pytest.raises(FileNotFoundError, match=r"variables\.data"):
        load(bundle)
    variables.write_bytes(original)
    (bundle / "1" / "extra").touch()
    with pytest.raises(ValueError, match="extra"):
        load(bundle)
    (bundle / "1" / "extra").unlink()
    # A version that was put beside the others, and would be the one that answers.
    shutil.copytree(numbers / "3", bundle / "3")
    with pytest.raises(ValueError, match="lists none"):
        load(bundle)
    assert load(bundle, versions=[1]).versions.keys() == {1}
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest"):
        load(bundle)
