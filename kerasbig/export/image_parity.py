"""What an exported image model is asked, and how its answers are judged."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasbig.data.image_batches import ImageSource, converted
from kerasbig.export.image_graph import ImageGraph
from kerasbig.export.parity import ExportError, tolerance_of
from kerasbig.export.twin import is_quantized

SCRIPT = Path(__file__).with_name("fresh_check_images.py")
# Between the model and its float32 copy: rounding and no more, even where an accelerator multiplies in TensorFloat-32.
_TWIN_TOLERANCE = 0.02
# Pillow and NumPy against TensorFlow, of 255: rounding of the last digit falls to the other side here and there.
PIXEL_TOLERANCE = 1


@dataclass(frozen=True)
class ExpectedImages:
    """What an image model answers in this process.

    Attributes:
        task: As in the manifest.
        images: N files.
        pixels: uint8 (N, H, W, 3), as the model sees them.
        outputs: float32 (N, ...), what it returns for them.
        class_names: Names of the classes.
    """

    task: str
    images: Sequence[bytes]
    pixels: np.ndarray
    outputs: np.ndarray
    class_names: tuple[str, ...]
    script: Path = SCRIPT

    def job(self) -> dict[str, Any]:
        """Returns the images as they came and as the model sees them."""
        images = [base64.b64encode(image).decode() for image in self.images]
        pixels = base64.b64encode(self.pixels.tobytes()).decode()
        return {"task": self.task, "images": images, "pixels": pixels, "shape": list(self.pixels.shape)}

    def measured(self, kind: str, answer: Mapping[str, Any], quantize: str | None) -> dict[str, Any]:
        """Compares the answers of a file with the model's.

        Raises:
            ExportError: If pixels or outputs differ, or the answers do not follow from them.
        """
        tolerance = tolerance_of(kind, quantize, self.outputs)
        figures: dict[str, Any] = {"max_abs_logit_difference": self._difference(kind, answer["outputs"], tolerance)}
        if "image_outputs" in answer:
            difference = self._difference(kind, answer["image_outputs"], tolerance)
            figures["max_abs_logit_difference"] = max(figures["max_abs_logit_difference"], difference)
        if "pixels" in answer:
            figures["max_abs_pixel_difference"] = self._pixel_difference(kind, answer["pixels"])
        self.compare_answers(kind, answer)
        return {**figures, "tolerance": tolerance, "examples": len(self.images)}

    def compare_answers(self, kind: str, answer: Mapping[str, Any]) -> None:
        """Checks what `serving_default` says against the file's own logits.

        Raises:
            ExportError: If it does not follow from them.
        """
        if kind != "saved_model":
            return
        logits = np.asarray(answer["image_outputs"], "float64")[:, : len(self.class_names)]
        best = logits.argmax(axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        good = (
            list(answer["label_id"]) == best.tolist()
            and list(answer["label"]) == [self.class_names[i] for i in best]
            and np.allclose(answer["probabilities"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
        )
        if not good:
            raise ExportError(
                "Expected the SavedModel's serving_default to follow from its logits. Received: other answers. Nothing was written."
            )

    def _difference(self, kind: str, received: Any, tolerance: float) -> float:
        outputs = np.asarray(received, "float32")
        if outputs.shape != self.outputs.shape:
            raise ExportError(
                f"Expected the exported {kind} to return outputs {self.outputs.shape}. Received: {outputs.shape}. Nothing was written."
            )
        difference = np.abs(outputs - self.outputs)
        largest = float(difference.max())
        # NaN is in no order: written as "not within".
        if not largest <= tolerance:
            worst = int(np.argmax(np.nan_to_num(difference.reshape(len(difference), -1).max(axis=1), nan=np.inf)))
            raise ExportError(
                f"Expected the exported {kind} to answer as the model does, within {tolerance:.3g}. "
                f"Received: outputs that differ by {largest:.3g} for image {worst} of the examples. Nothing was written."
            )
        return largest

    def _pixel_difference(self, kind: str, received: str) -> int:
        pixels = np.frombuffer(base64.b64decode(received), np.uint8)
        if pixels.size != self.pixels.size:
            raise ExportError(
                f"Expected {self.pixels.size} pixels beside the exported {kind}. Received: {pixels.size}. Nothing was written."
            )
        difference = np.abs(pixels.reshape(self.pixels.shape).astype(int) - self.pixels)
        if difference.max() > PIXEL_TOLERANCE:
            worst = int(difference.reshape(len(difference), -1).max(axis=1).argmax())
            raise ExportError(
                f"Expected the pixels that the exported {kind} is given to be the model's, within {PIXEL_TOLERANCE} of 255. "
                f"Received: pixels that differ by {difference.max()} for image {worst} of the examples. Nothing was written."
            )
        return int(difference.max())


def seen_pixels(images: Sequence[bytes], size: tuple[int, int], resize: str) -> np.ndarray:
    """Returns the uint8 (N, H, W, 3) pixels that `kerasbig predict` makes of files.

    Example:
        >>> seen_pixels([tf.io.encode_png(tf.ones((2, 4, 3), tf.uint8)).numpy()], (1, 2), "stretch").tolist()
        [[[[1, 1, 1], [1, 1, 1]]]]
    """
    with tempfile.TemporaryDirectory(prefix="kerasbig-images-") as folder:
        paths = [Path(folder) / str(place) for place in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(image)
        return ImageSource.of([str(path) for path in paths], size, resize).cached().pixels.numpy()  # type: ignore[union-attr]


def outputs_of(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Computes what an image task returns for uint8 (N, H, W, 3), float32 (N, ...), on the CPU as the fresh processes do."""
    with tf.device("/CPU:0"):
        inputs = converted(tf.cast(pixels, tf.float32), model.preprocessor.image_converter)
        return np.asarray(tf.cast(model(inputs, training=False), tf.float32))


def expected_outputs(model: keras.Model, twin: keras.Model, images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels and the twin's outputs for images.

    Raises:
        ExportError: If the outputs are not finite, or the model's are others.
    """
    graph = ImageGraph(twin)
    pixels = seen_pixels(images, graph.size, graph.resize)
    outputs = outputs_of(twin, pixels)
    if not np.isfinite(outputs).all():
        raise ExportError(
            "Expected the model to return finite numbers. Received: NaN or infinity; its training has diverged. Nothing was written."
        )
    if not is_quantized(model) and all(layer.dtype_policy.name == "float32" for layer in (model, *model.layers)):
        difference = float(np.abs(outputs_of(model, pixels) - outputs).max())
        if not difference <= _TWIN_TOLERANCE * max(1.0, float(np.abs(outputs).max())):
            raise ExportError(
                "Expected the model to be what its configuration says. "
                f"Received: outputs that differ by {difference:.2g} from a model rebuilt from it. "
                "Remove what training added, with kerasbig.compress.strip. Nothing was written."
            )
    return pixels, outputs
