"""Runs an image model's exported file the way a stranger would: a script for a fresh process, where `import kerasbig` fails.

    python -P fresh_check_images.py saved_model|hdf5|litert|onnx JOB.json RESULT.json

JOB: {"path": folder, "task": name, "images": [base64 of files], "pixels": base64 of uint8, "shape": (N, H, W, 3)}: the same images
twice, as they came and as the model sees them. RESULT: {"outputs": from the pixels, ...} and what else the format answers.
Kept free of KerasBig on purpose: it is also the shortest example of how each format is used.
"""

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

if __name__ == "__main__":
    # A check that could fall back on KerasBig would prove nothing.
    sys.modules["kerasbig"] = None  # type: ignore[assignment]
    # Keras and TensorFlow import these if they are there; no file needs them, and a quarter of the start goes into it.
    sys.modules["sklearn"] = sys.modules["jax"] = None  # type: ignore[assignment]


def check_saved_model(path: str, task: str, images: list[bytes], pixels: np.ndarray) -> dict:
    """Needs tensorflow."""
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures
    answer = {name: value.numpy() for name, value in signatures["serving_default"](image=tf.constant(images)).items()}
    raw = "logits" if "logits" in signatures else "outputs"
    of_images = {name: value.numpy() for name, value in signatures[raw](image=tf.constant(images)).items()}
    of_pixels = {name: value.numpy() for name, value in signatures["pixels"](pixels=tf.constant(pixels, tf.float32)).items()}
    for name in ("label", "labels"):
        if name in answer:
            answer[name] = np.vectorize(bytes.decode, otypes=[object])(answer[name])
    return {**answer, "outputs": _side_by_side(of_pixels), "image_outputs": _side_by_side(of_images)}


def check_hdf5(path: str, task: str, images: list[bytes], pixels: np.ndarray, scratch: str) -> dict:
    """Needs keras and keras_hub."""
    import keras
    import keras_hub  # noqa: F401

    with open(f"{path}/model.json", encoding="utf-8") as file:
        model = keras.models.model_from_json(file.read())
    _module("fresh_check").expand_weights(f"{path}/model.weights.h5", f"{scratch}.weights.h5")
    model.load_weights(f"{scratch}.weights.h5")
    return {"outputs": keras.ops.convert_to_numpy(model(pixels.astype("float32"), training=False))}


def check_litert(path: str, task: str, images: list[bytes], pixels: np.ndarray) -> dict:
    """Needs ai_edge_litert, pillow and numpy."""
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    runner = _module("image_runners").LiteRTImages(path, threads=1)
    return _asked(runner, images, pixels)


def check_onnx(path: str, task: str, images: list[bytes], pixels: np.ndarray) -> dict:
    """Needs onnx, onnxruntime, pillow and numpy."""
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    import onnx

    onnx.checker.check_model(onnx.load(f"{path}/model.onnx"), full_check=True)
    return _asked(_module("image_runners").OnnxImages(path, threads=1), images, pixels)


def _asked(runner: Any, images: list[bytes], pixels: np.ndarray) -> dict:
    """Asks a runner for what it makes of the pixels, which pixels it makes of the images, and what it answers to those."""
    rows = [runner.run(one) for one in pixels]
    answers = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    read = [_module("image_runners").read_image(image, runner.size, runner.resize)[0] for image in images]
    runner.predict(images)
    return {**answers, "outputs": _side_by_side(answers), "pixels": np.stack(read)}


def _side_by_side(found: dict) -> np.ndarray:
    """Returns what a model returns for each image as one array."""
    return np.concatenate([found[name] for name in ("logits", "embedding", "outputs") if name in found], axis=-1)


def _module(name: str) -> ModuleType:
    """Imports a file that lies beside this one and needs nothing of KerasBig."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _plain(value: Any) -> Any:
    """Returns arrays as JSON can hold them; pixels, of which there are many, as base64."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return base64.b64encode(value.tobytes()).decode() if value.dtype == np.uint8 else value.tolist()


if __name__ == "__main__":
    kind, job_file, result_file = sys.argv[1:]
    with open(job_file, encoding="utf-8") as stream:
        job = json.load(stream)
    asked = (
        job["path"],
        job["task"],
        [base64.b64decode(image) for image in job["images"]],
        np.frombuffer(base64.b64decode(job["pixels"]), np.uint8).reshape(job["shape"]),
    )
    if kind == "hdf5":
        result = check_hdf5(*asked, scratch=result_file)
    else:
        result = {"saved_model": check_saved_model, "litert": check_litert, "onnx": check_onnx}[kind](*asked)
    with open(result_file, "w", encoding="utf-8") as stream:
        json.dump(_plain(result), stream)
