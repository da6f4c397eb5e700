"""What serving adds to the bare model call, at batch 1.

    python benchmarks/serving.py saved_models/sentiment
    python benchmarks/serving.py                          builds a small BERT with random weights and serves that

The server runs in a process of its own; the bare call runs here, on the same SavedModel. The three ways take turns, so
that whatever else the machine does meets all of them. REST keeps its connection open.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import kerasbig as kb
from kerasbig.serve.servables import Signature, load

TEXT = "A film of rare warmth, with a story that never hurries and two actors one would gladly follow for another hour."
PROGRAM = "import sys, kerasbig as kb; kb.serve.serve(sys.argv[1], 0, 0)"
PACKAGES = ("kerasbig", "tensorflow", "fastapi", "uvicorn", "grpcio", "tensorflow-serving-api")


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description="Measures what serving adds to the bare model call, at batch 1.")
    parser.add_argument("bundle", nargs="?", help="a folder with numbered SavedModels; by default a small BERT is built")
    parser.add_argument("--requests", type=int, default=400, help="measured calls of each kind")
    parser.add_argument("--text", default=TEXT, help="what is sent to a model of texts")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(arguments.bundle) if arguments.bundle else build(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        servable = load(folder)
        signature = servable.version(servable.name).signature(None)
        inputs = example(signature, arguments.text)
        rest, target = stack.enter_context(server(folder))
        calls = {
            "bare call": bare_call(signature, inputs),
            "REST": stack.enter_context(rest_call(rest, inputs)),
            "gRPC": stack.enter_context(grpc_call(target, servable.name, inputs)),
        }
        check_equal(calls)
        times = measure(calls, arguments.requests)
    figures = {name: {"median_ms": float(np.median(taken)), "p95_ms": float(np.percentile(taken, 95))} for name, taken in times.items()}
    for name in ("REST", "gRPC"):
        figures[name]["over_bare_ms"] = figures[name]["median_ms"] - figures["bare call"]["median_ms"]
    report(figures, str(arguments.bundle or "small BERT, random weights"), arguments.requests)


def build(folder: Path) -> Path:
    """Exports a small BERT with random weights."""
    vocabulary = kb.text.learn_wordpiece([TEXT] * 4, 200)
    model = kb.text.bert_classifier(("negative", "positive"), size="small", vocabulary=vocabulary)
    kb.export.saved_model(model, folder / "small", version=1)
    return folder / "small"


def example(signature: Signature, text: str) -> dict[str, np.ndarray]:
    """Makes inputs of batch 1: the text for strings, ones for numbers."""
    inputs = {}
    for name, spec in signature.inputs.items():
        shape = [1 if size is None else size for size in spec.shape or ()]
        inputs[name] = np.full(shape, text.encode(), object) if spec.dtype == tf.string else np.ones(shape, spec.dtype.as_numpy_dtype)
    return inputs


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs the server in its own process; yields the address of REST and the target of gRPC."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready = next((line for line in process.stderr if "ready:" in line), None)
        if ready is None:
            raise SystemExit("The server did not start.")
        words = ready.split()
        yield words[words.index("REST") + 1], words[words.index("gRPC") + 1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def bare_call(signature: Signature, inputs: dict[str, np.ndarray]) -> Callable[[], dict[str, list]]:
    """Returns the model call alone: tensors in, arrays out."""

    def call() -> dict[str, list]:
        results = signature.function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy().tolist() for name, tensor in results.items()}

    return call


@contextlib.contextmanager
def rest_call(url: str, inputs: dict[str, np.ndarray]) -> Iterator[Callable[[], dict[str, list]]]:
    """Yields a call over REST in column form, with its JSON written and read."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    columns = {
        name: np.char.decode(array.astype("S")).tolist() if array.dtype == object else array.tolist() for name, array in inputs.items()
    }

    def call() -> dict[str, list]:
        connection.request("POST", address.path, json.dumps({"inputs": columns}).encode())
        outputs = json.loads(connection.getresponse().read())["outputs"]
        return outputs if isinstance(outputs, dict) else {"": outputs}

    with contextlib.closing(connection):
        yield call


@contextlib.contextmanager
def grpc_call(target: str, name: str, inputs: dict[str, np.ndarray]) -> Iterator[Callable[[], dict[str, list]]]:
    """Yields a call over gRPC, with its message written and read."""
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def call() -> dict[str, list]:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            for key, array in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
            return {key: tf.make_ndarray(proto).tolist() for key, proto in stub.Predict(request).outputs.items()}

        yield call


def check_equal(calls: dict[str, Callable[[], dict[str, list]]]) -> None:
    """Stops if a way gives another answer: its time would mean nothing."""
    answers = {name: list(call().values()) for name, call in calls.items()}
    for name, answer in answers.items():
        flat, expected = (str(sorted(map(_rounded, values))) for values in (answer, answers["bare call"]))
        if flat != expected:
            raise SystemExit(f"{name} answers {flat}, the bare call {expected}.")


def _rounded(values: object) -> str:
    if isinstance(values, list):
        return "[" + ", ".join(map(_rounded, values)) + "]"
    return f"{values:.5f}" if isinstance(values, float) else values.decode() if isinstance(values, bytes) else str(values)


def measure(calls: dict[str, Callable[[], dict[str, list]]], requests: int) -> dict[str, list[float]]:
    """Times each call in turn, in milliseconds, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-20, requests):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= 0:
                times[name].append((time.perf_counter() - started) * 1000)
    return times


def report(figures: dict[str, dict[str, float]], bundle: str, requests: int) -> None:
    """Prints the table and the JSON."""
    machine = {"cpu": cpu(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
    versions = {"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES}
    print(f"{bundle}: batch 1, {requests} calls each\n\n{'':10}{'median ms':>12}{'p95 ms':>10}{'over bare':>12}")
    for name, row in figures.items():
        over = f"{row['over_bare_ms']:+12.2f}" if "over_bare_ms" in row else ""
        print(f"{name:10}{row['median_ms']:12.2f}{row['p95_ms']:10.2f}{over}")
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['system']}")
    print(" · ".join(f"{package} {version}" for package, version in versions.items()) + "\n")
    print(json.dumps({"benchmark": "serving", "bundle": bundle, "requests": requests, **figures, "machine": machine, "versions": versions}))


def cpu() -> str:
    """Returns the processor's name."""
    file = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("model name")]
        if file.is_file()
        else []
    )
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
