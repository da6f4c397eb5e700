"""Weights cut over a mesh of devices: on Keras's JAX backend, in processes of their own with eight simulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from kerasbig.distribute import model_parallel
from kerasbig.distribute.model_parallel import _axis

HERE = Path(__file__).parent
EIGHT_DEVICES = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def on_jax(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], env=os.environ | EIGHT_DEVICES, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("jax") / "out.json"
    finished = on_jax(str(HERE / "train_on_jax.py"), str(out))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt", "vit"])
def test_equals_one_device_with_a_third_of_the_bytes(name: str, trained: dict[str, Any]) -> None:
    found = trained[name]
    assert found["cut"] == pytest.approx(found["one"], abs=1e-5)
    here, total = found["bytes"]
    assert here / total <= 0.35
    assert found["coverage"] >= 0.8


FAILURES = """
import keras
from kerasbig.distribute import model_parallel

def build():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(63), keras.layers.Dense(63)])

devices = keras.distribution.list_devices()
for mesh in ((2, 3), (8,), keras.distribution.DeviceMesh((2, 4), ("data", "model"), devices), (2, 4)):
    try:
        model_parallel(build, mesh)
    except ValueError as error:
        print(error)
keras.distribution.set_distribution(None)
model = model_parallel(build, (1, 8), least_coverage=0.4)
copy = model_parallel(model, (1, 8), least_coverage=0.4)
print(max(abs(a - b).max() for a, b in zip(model.get_weights(), copy.get_weights())), sorted(copy.placement.sharded.values()))
"""


@pytest.mark.slow
def test_what_cannot_be_cut_is_refused() -> None:
    finished = on_jax("-c", FAILURES)
    assert finished.returncode == 0, finished.stderr[-3000:]
    sizes, length, axes, coverage, placed, placed_copy, copied = finished.stdout.splitlines()
    assert sizes.startswith("Expected a mesh of (batch, model) sizes whose product is the 8 devices. Received: (2, 3).")
    assert "Received: (8,)" in length
    assert axes.startswith("Expected a mesh with the axes 'batch' and 'model'. Received: ('data', 'model')")
    assert coverage.startswith("Expected at least 80% of the bytes to be cut over {'batch': 2, 'model': 4}. Received: 1 variables cut")
    assert "The largest that no axis divides: " in coverage
    assert placed == placed_copy
    assert copied == "0.0 [0]"


def test_tensorflow_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"Expected Keras on JAX, .*Received: backend='tensorflow'.*Set KERAS_BACKEND=jax.*'mirrored'"):
        model_parallel(lambda: keras.Sequential(), (1, 1))


@pytest.mark.parametrize(
    ("path", "shape", "axis"),
    [
        ("bert/transformer_layer_0/self_attention/query/kernel", (64, 4, 16), 1),
        ("bert/transformer_layer_0/self_attention/attention_output/kernel", (4, 16, 64), 0),
        ("bert/transformer_layer_0/feedforward_intermediate_dense/kernel", (64, 256), 1),
        ("bert/transformer_layer_0/feedforward_output_dense/kernel", (256, 64), 0),
        ("bert/token_embedding/embeddings", (4096, 64), 0),
        ("bert/token_embedding/embeddings", (4099, 64), 1),  # the vocabulary does not divide: the width does
        ("bert/logits/kernel", (64, 2), None),  # too small
        ("some/kernel", (63, 63), None),
    ],
)
def test_the_axis_that_is_cut(path: str, shape: tuple[int, ...], axis: int | None) -> None:
    assert _axis(path, shape, 4) == axis
