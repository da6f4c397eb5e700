"""Runs an exported image model with LiteRT or ONNX Runtime, Pillow and NumPy alone.

Copy this file beside `model.onnx`, or `model.tflite` and `images.json`:

    python image_runners.py FOLDER photo.jpg another.png

It imports nothing of KerasBig and no TensorFlow. Shapes: H and W as the model sees an image, h and w as it came.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

LITERT_FILE, ONNX_FILE = "model.tflite", "model.onnx"
IMAGES_FILE = "images.json"
# Pillow decodes a JPEG to a half, a quarter or an eighth of the size for less work.
JPEG_RATIOS = (2, 4, 8)
Picture = str | os.PathLike[str] | bytes | np.ndarray


class Runner:
    """An image classifier or an object detector in a file.

    Args:
        facts: What the file, or `images.json` beside it, says of the images.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.classes = [str(name) for name in facts["classes"]]
        height, width, _ = facts["image_shape"]
        self.size, self.resize = (int(height), int(width)), str(facts["resize"])

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each output of the file, by its name in the facts, for uint8 (H, W, 3) pixels."""
        raise NotImplementedError

    def predict(self, images: Sequence[Picture], *, score_threshold: float = 0.3) -> list[dict[str, Any]]:
        """Returns the answer to each image, as `kerasbig predict --json` gives it."""
        answers = []
        for image in images:
            pixels, shape, plan = read_image(image, self.size, self.resize)
            outputs = self.run(pixels)
            if "logits" in outputs:
                embedding = {"embedding": outputs["embedding"].tolist()} if "embedding" in outputs else {}
                answers.append({**classified(outputs["logits"], self.classes), **embedding})
            else:
                answers.append(detected(outputs, self.classes, shape, plan, score_threshold))
        return answers


class LiteRTImages(Runner):
    """A LiteRT file.

    Args:
        folder: The folder of `model.tflite` and `images.json`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(json.loads((Path(folder) / IMAGES_FILE).read_text(encoding="utf-8")))
        self._interpreter = Interpreter(str(Path(folder) / LITERT_FILE), num_threads=threads or min(2, os.cpu_count() or 1))
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = dict(zip(self.facts["outputs"], (each["index"] for each in self._interpreter.get_output_details()), strict=True))
        # One interpreter runs one image at a time.
        self._lock = threading.Lock()

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each output of the file, by its name in the facts, for uint8 (H, W, 3) pixels."""
        with self._lock:
            self._interpreter.set_tensor(self._input, pixels[None])
            self._interpreter.invoke()
            return {name: self._interpreter.get_tensor(index)[0] for name, index in self._outputs.items()}


class OnnxImages(Runner):
    """An ONNX file, run by ONNX Runtime on the CPU.

    Args:
        folder: The folder of `model.onnx`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(2, os.cpu_count() or 1)
        file = str(Path(folder) / ONNX_FILE)
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        super().__init__(json.loads(self._session.get_modelmeta().custom_metadata_map["images"]))

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each output of the file, by its name in the facts, for uint8 (H, W, 3) pixels."""
        answers = self._session.run(self.facts["outputs"], {"pixels": pixels[None]})
        return {name: value[0] for name, value in zip(self.facts["outputs"], answers, strict=True)}


def classified(logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the label and the probabilities of logits (C,).

    Example:
        >>> classified(np.float32([0, 0]), ["cat", "dog"])
        {'label': 'cat', 'probabilities': {'cat': 0.5, 'dog': 0.5}}
    """
    powers = np.exp(logits.astype("float64") - logits.max())
    return {
        "label": classes[int(logits.argmax())],
        "probabilities": dict(zip(classes, (powers / powers.sum()).tolist(), strict=True)),
    }


def detected(
    outputs: dict[str, np.ndarray], classes: Sequence[str], shape: tuple[int, int], plan: np.ndarray, score_threshold: float
) -> dict[str, Any]:
    """Returns what was found, in pixels of the image as it came.

    Args:
        outputs: float32 (K, 4) `boxes` "xyxy" in pixels of the model's image, `label_ids` (K,) and `scores` (K,), the best first.
        classes: Names of the classes.
        shape: h and w.
        plan: Where the image went, from `read_image`.
        score_threshold: The lowest score to report.

    Example:
        >>> found = {"boxes": np.float32([[0, 1, 2, 3]]), "label_ids": np.array([0]), "scores": np.float32([0.5])}
        >>> detected(found, ["cat"], (8, 8), np.float32([0.5, 0.5, 0, 0]), 0.3)
        {'boxes': [[0.0, 2.0, 4.0, 6.0]], 'labels': ['cat'], 'scores': [0.5]}
    """
    scale_y, scale_x, shift_y, shift_x = plan
    boxes = (outputs["boxes"] - [shift_x, shift_y, shift_x, shift_y]) / [scale_x, scale_y, scale_x, scale_y]
    boxes = np.clip(boxes, 0, [shape[1], shape[0], shape[1], shape[0]])
    # What lies wholly in the black sides of a padded image is nothing of the image.
    kept = (outputs["label_ids"] >= 0) & (outputs["scores"] >= score_threshold)
    kept &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return {
        "boxes": [[round(float(side), 2) for side in box] for box in boxes[kept]],
        "labels": [classes[int(number)] for number in outputs["label_ids"][kept]],
        "scores": [round(float(score), 4) for score in outputs["scores"][kept]],
    }


def read_image(source: Picture, size: tuple[int, int], resize: str) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Decodes an image, turns it upright and fits it to a size.

    Args:
        source: A path, the bytes of a file, or uint8 (h, w, 3).
        size: H and W.
        resize: "stretch" changes the aspect; "crop" keeps it and cuts off what is too much on both sides; "pad" keeps it
            and leaves both sides black.

    Returns:
        uint8 (H, W, 3); h and w of the upright image; float32 (4,) scale of y, scale of x, shift of y, shift of x.

    Example:
        >>> pixels, shape, plan = read_image(np.zeros((2, 4, 3), "uint8"), (4, 4), "pad")
        >>> pixels.shape, shape, plan.tolist()
        ((4, 4, 3), (2, 4), [1.0, 1.0, 1.0, 0.0])
    """
    if isinstance(source, np.ndarray):
        pixels, shape = source, source.shape[:2]
        plan = plan_of(shape, size, resize)
    else:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            turned = int(image.getexif().get(0x0112, 1)) >= 5 and image.format != "TIFF"
            shape = image.size if turned else image.size[::-1]
            plan = plan_of(shape, size, resize)
            ratio = max((ratio for ratio in JPEG_RATIOS if float(max(plan[:2])) * ratio <= 1), default=1)
            if ratio > 1:
                image.draft(None, (image.size[0] // ratio, image.size[1] // ratio))  # of a JPEG alone
            pixels = _rgb(ImageOps.exif_transpose(image))
    height, width = shape
    # What was decoded smaller needs to be scaled less.
    return (
        resized(pixels, plan / np.array([pixels.shape[0] / height, pixels.shape[1] / width, 1, 1], "float32"), size),
        (height, width),
        plan,
    )


def plan_of(shape: tuple[int, int], size: tuple[int, int], resize: str) -> np.ndarray:
    """Returns where an image of a shape goes when it is resized, float32 (4,): scale of y and x, shift of y and x.

    Example:
        >>> plan_of((10, 20), (10, 10), "crop").tolist()
        [1.0, 1.0, 0.0, -5.0]
    """
    scales = np.array(size, "float64") / shape
    if resize != "stretch":
        scales[:] = scales.max() if resize == "crop" else scales.min()
    return np.concatenate([scales, (np.array(size) - np.array(shape) * scales) / 2]).astype("float32")


def resized(pixels: np.ndarray, plan: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales and moves (h, w, 3) to uint8 (H, W, 3), with a triangle as wide as the image gets smaller, as TensorFlow does.

    Example:
        >>> resized(np.uint8([[[0, 0, 0], [90, 90, 90]]]), np.float32([1, 1.5, 0, 0]), (1, 3))[0, :, 0].tolist()
        [0, 45, 90]
    """
    height, width, channels = pixels.shape
    rows, columns = (_weights(*each) for each in ((size[0], height, plan[0], plan[2]), (size[1], width, plan[1], plan[3])))
    across = rows @ pixels.reshape(height, width * channels).astype("float32")  # (H, w * 3)
    both = np.einsum("xw,hwc->hxc", columns, across.reshape(size[0], width, channels), optimize=True)
    return np.round(both).astype("uint8")


def _weights(outputs: int, inputs: int, scale: float, shift: float) -> np.ndarray:
    """Returns float32 (outputs, inputs): how much of each input is in each output."""
    inverse = np.float32(1) / np.float32(scale)
    centres = (np.arange(outputs, dtype="float32") + np.float32(0.5)) * inverse - inverse * np.float32(shift)
    reach = max(inverse, np.float32(1))
    weights = np.maximum(1 - np.abs(np.arange(inputs, dtype="float32") + np.float32(0.5) - centres[:, None]) / reach, 0)
    # Beyond the image it stays black.
    weights[(centres < 0) | (centres > inputs)] = 0
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)).astype("float32")


def _rgb(image: Image.Image) -> np.ndarray:
    """Returns uint8 (h, w, 3): 16 bits of grey become 8, and what is transparent lies on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.clip(np.asarray(image).astype("float64"), 0, 65535) / 257).astype("uint8"))
    if image.mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    runner = OnnxImages if (Path(sys.argv[1]) / ONNX_FILE).is_file() else LiteRTImages
    for answer in runner(sys.argv[1]).predict(sys.argv[2:]):
        print(json.dumps(answer, ensure_ascii=False))
