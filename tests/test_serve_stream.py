"""A text generator, served: whole texts at the usual addresses, and piece by piece as server-sent events."""

from __future__ import annotations

import json
import threading
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
from test_generation import SENTENCE, scatter

import kerasbig as kb
from kerasbig.export import bundles
from kerasbig.serve import Server
from kerasbig.serve.servables import TensorSpec, _empty_value

pytestmark = pytest.mark.slow

SAMPLED = {"max_tokens": 14, "temperature": 0.8, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 3}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    pairs = kb.text.learn_bpe([SENTENCE, "a film, a film", "the quick brown fox"] * 2, 300)
    return scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=64))


@pytest.fixture(scope="module")
def server(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        # test_export_generator.py runs the fresh processes.
        patch.setattr(
            bundles, "run_checks", lambda folders, expected, quantize: {name: {"max_abs_nats_per_token": 0.0} for name in folders}
        )
        bundle = kb.export.saved_model(model, tmp_path_factory.mktemp("saved_models") / "tales")
    with kb.serve.start(bundle, rest_port=0, grpc_port=0) as running:
        yield running


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Reads the events as a browser does."""
    found = []
    for block in response.read().decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def stream(server: Server, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    with httpx.stream("POST", server.rest_url + ":stream", json=body, timeout=300) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)


@pytest.mark.parametrize("options", [{"max_tokens": 14}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("text", ["a film", "", "你好，世界 🎉"])
def test_the_streamed_text_is_the_local_one(server: Server, model: keras.Model, text: str, options: dict[str, Any]) -> None:
    *written, last = stream(server, text=text, **options)
    method = "sample" if "temperature" in options else "greedy"
    assert last == ("done", {})
    assert {name for name, _ in written} == {"message"}
    assert all(list(data) == ["text"] and data["text"] for _, data in written)
    assert "".join(data["text"] for _, data in written) == kb.text.generate(model, [text], method=method, compiled=False, **options)[0]
    assert len(written) > 2


def test_the_default_is_greedy(server: Server, model: keras.Model) -> None:
    *written, _ = stream(server, text="x")
    assert "".join(data["text"] for _, data in written) == kb.text.generate(model, ["x"], max_tokens=64, compiled=False)[0]


def test_a_version_has_its_own_address(server: Server) -> None:
    base = server.rest_url + "/versions/"
    assert httpx.post(base + "1:stream", json={"text": "x", "max_tokens": 4}, timeout=300).status_code == 200
    assert httpx.post(base + "7:stream", json={"text": "x"}, timeout=60).status_code == 404


def test_predict_and_score(server: Server, model: keras.Model) -> None:
    texts = ["a film", "x"]
    inputs = {"text": texts, **SAMPLED}
    expected = kb.text.generate(model, texts, method="sample", compiled=False, **SAMPLED)
    for signature in ("serving_default", "generate_xla"):
        body = {"signature_name": signature, "inputs": inputs}
        assert httpx.post(server.rest_url + ":predict", json=body, timeout=300).json() == {"outputs": expected}
    body = {"signature_name": "score", "instances": texts}
    rows = httpx.post(server.rest_url + ":predict", json=body, timeout=300).json()["predictions"]
    assert [row["tokens"] for row in rows] == [len(model.preprocessor.tokenizer.tokenize(text)) for text in texts]


def test_grpc_writes_the_same(server: Server, model: keras.Model) -> None:
    texts = ["a film", "你好"]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = server.name
    dtypes = {"text": tf.string, "max_tokens": tf.int32, "top_k": tf.int32, "seed": tf.int32}
    for name, value in {"text": texts, **SAMPLED}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtypes.get(name, tf.float32)))
    with grpc.insecure_channel(server.grpc_address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=300)
    expected = kb.text.generate(model, texts, method="sample", compiled=False, **SAMPLED)
    assert [text.decode() for text in response.outputs["text"].string_val] == expected


def test_two_streams_at_once(server: Server, model: keras.Model) -> None:
    texts = ["a film", "x", "the quick"]
    found: dict[str, str] = {}

    def run(text: str) -> None:
        found[text] = "".join(data.get("text", "") for _, data in stream(server, text=text, max_tokens=10))

    threads = [threading.Thread(target=run, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(zip(texts, kb.text.generate(model, texts, max_tokens=10, compiled=False), strict=True))


def test_a_client_that_goes_leaves_the_server_well(server: Server) -> None:
    with httpx.stream("POST", server.rest_url + ":stream", json={"text": "a film", "max_tokens": 40}, timeout=300) as response:
        next(response.iter_bytes())
    assert stream(server, text="x", max_tokens=4)[-1] == ("done", {})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Expected 'text' and, if you like, max_tokens, temperature, top_k, top_p, repetition_penalty, seed. Received no 'text'."),
        ({"text": "a", "top_n": 1}, "Received also: ['top_n']."),
        ({"text": 1}, "to be of type string"),
        ({"text": ["a", "b"]}, "'text': string (None,)"),
        ({"text": "a", "max_tokens": 1.5}, "to be of type int32"),
        ({"text": "a", "max_tokens": 0}, "Expected max_tokens to be at least 1"),
        ({"text": "a", "top_p": 1.5}, "Expected top_p above 0 and at most 1"),
        (["a"], "Expected the body to be a JSON object"),
    ],
)
def test_what_is_wrong_is_said_before_the_stream(server: Server, body: Any, words: str) -> None:
    response = httpx.post(server.rest_url + ":stream", json=body, timeout=300)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_the_warm_up_is_within_range(server: Server) -> None:
    defaults = {spec.name: _empty_value(spec) for spec in (TensorSpec(name, tf.float32, ()) for name in SAMPLED)}
    body = {"inputs": {"text": [""], **{name: int(value) for name, value in defaults.items()}}}
    assert httpx.post(server.rest_url + ":predict", json=body, timeout=300).status_code == 200


def test_a_model_that_writes_nothing(tmp_path: Path) -> None:
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path / "double" / "1"), signatures={"serving_default": module.double})
    with kb.serve.start(tmp_path / "double", rest_port=0, grpc_port=0) as server:
        response = httpx.post(server.rest_url + ":stream", json={"text": "a"}, timeout=60)
        assert response.status_code == 501
        assert "Expected a text generator for :stream. Version 1 of this model is none" in response.json()["error"]
        rows = httpx.post(server.rest_url + ":predict", json={"instances": [1.0]}, timeout=60).json()
        np.testing.assert_allclose(rows["predictions"], [2.0])
