"""Every builder fits on each backend of Keras with the same losses, and its weights come back to TensorFlow for export."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import ONE_OF_EACH, logits
from fit_on_backend import in_one_order, optimizer, without_dropout

HERE = Path(__file__).parent
NO_TORCH = "PyTorch is no dependency, not even of the tests: pip install torch to run this too"


TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason=NO_TORCH)


@pytest.fixture(scope="module", params=["jax", pytest.param("torch", marks=TORCH)])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    for number, build in enumerate(ONE_OF_EACH.values()):
        np.savez(folder / f"{number}.start.npz", **{f"{i:03d}": weight for i, weight in enumerate(build().model.get_weights())})
    command = [sys.executable, str(HERE / "fit_on_backend.py"), str(folder)]
    finished = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": request.param}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_same_losses_and_the_weights_come_back(name: str, fitted: Path) -> None:
    number = list(ONE_OF_EACH).index(name)
    with np.load(fitted / f"{number}.npz") as file:
        losses, expected = file["losses"], file["logits"]
    here = ONE_OF_EACH[name]()
    without_dropout(here.model)
    here.model.compile(optimizer(), here.loss)
    history = here.model.fit(in_one_order(here), epochs=3, shuffle=False, verbose=0).history
    assert history["loss"] == pytest.approx(losses, abs=1e-5)
    back = ONE_OF_EACH[name]()
    back.model.load_weights(fitted / f"{number}.weights.h5")
    np.testing.assert_allclose(logits(back), expected, atol=1e-5)
