"""`serve` as a program of its own, and what importing the server costs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tensorflow as tf

import kerasbig as kb

PROGRAM = "import sys, kerasbig as kb; kb.serve.serve(sys.argv[1], 0, 0); print('returned')"


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64, "steps")])
    def multiply(steps: tf.Tensor) -> dict[str, tf.Tensor]:
        loop = (tf.constant(0, tf.int64), tf.ones((512, 512)))
        end = tf.while_loop(lambda i, m: i < tf.reduce_max(steps), lambda i, m: (i + 1, tf.matmul(m, m) / 512.0), loop)
        return {"value": tf.fill(tf.shape(steps), end[1][0, 0])}

    module.multiply = multiply
    folder = tmp_path_factory.mktemp("models") / "slow"
    tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": multiply})
    return folder


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `serve` in its own process; yields it and the address of predict."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ready = next(line for line in iter(process.stderr.readline, "") if line.startswith("kerasbig serve: ready"))
        assert "slow, versions [1]" in ready
        assert "gRPC 127.0.0.1:" in ready
        yield process, next(word for word in ready.split() if word.startswith("http://127.0.0.1:"))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(slow_model: Path, number: signal.Signals) -> None:
    with serving(slow_model) as (process, url), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, url, json={"instances": [700]}, timeout=60)
        time.sleep(0.2)
        assert not answer.done()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert answer.result().json() == {"predictions": [1.0]}
    assert process.returncode == 0
    assert out == "returned\n"
    assert "Traceback" not in err


def test_a_second_signal_ends_it_at_once(slow_model: Path) -> None:
    with serving(slow_model) as (process, url), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, url, json={"instances": [100_000]}, timeout=60)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert next(line for line in iter(process.stderr.readline, "") if "stopping" in line)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT
        assert isinstance(answer.exception(), httpx.TransportError)


def test_serve_needs_the_main_thread(slow_model: Path) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            kb.serve.serve(slow_model, 0, 0)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert "kb.serve.start" in str(caught[0])


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_importing_the_package_loads_nothing() -> None:
    heavy = "('tensorflow', 'fastapi', 'uvicorn', 'grpc')"
    assert run_python(f"import sys, kerasbig.serve; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "grpc", "grpc_health", "tensorflow_serving"])
def test_without_the_extra_one_line_says_what_to_install(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
import kerasbig as kb
try:
    kb.serve.start("x")
except ImportError as error:
    print(error)
"""
    message = run_python(code)
    assert message == f"Serving needs the package '{package}', which is not installed. Run: pip install 'kerasbig[serve]'"
