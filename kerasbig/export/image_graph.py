"""Image bytes or pixels to answers inside the graph: the signatures of an exported image model.

Shapes: B images, H and W as the model sees them, h and w as they came, C classes, N places of a detector, K boxes found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kerasbig.data.image_batches import converted, input_size, resize_of
from kerasbig.data.image_graph import plan_of, read_image, resized

IMAGE = tf.TensorSpec((None,), tf.string, name="image")
PIXELS = tf.TensorSpec((None, None, None, 3), tf.float32, name="pixels")
Function = Callable[..., dict[str, tf.Tensor]]


class ImageGraph:
    """What a model makes of files, of pixels of any size, and of pixels as it sees them.

    Args:
        model: A float32 image task with its preprocessor.

    Attributes:
        size: H and W.
        resize: How images are fitted, one of `kerasbig.data.image_batches.RESIZES`.
        outputs: The function from float32 (B, H, W, 3), 0 to 255, to what the model returns, float32.
    """

    def __init__(self, model: keras.Model) -> None:
        converter = model.preprocessor.image_converter
        self.size, self.resize = input_size(model), resize_of(converter)

        def outputs(pixels: tf.Tensor) -> tf.Tensor:
            return tf.cast(model(converted(pixels, converter), training=False), tf.float32)

        self._set(outputs)

    @classmethod
    def of_pixels(cls, model: keras.Model, resize: str) -> ImageGraph:
        """Makes it of a plain Keras model that takes float32 (B, H, W, 3), 0 to 255."""
        graph = cls.__new__(cls)
        graph.size, graph.resize = input_size(model), resize
        graph._set(lambda pixels: tf.cast(model(pixels, training=False), tf.float32))
        return graph

    def _set(self, outputs: Callable[[tf.Tensor], tf.Tensor]) -> None:
        # One function of the graph, which all signatures share.
        self.outputs = tf.function(outputs, input_signature=[tf.TensorSpec((None, *self.size, 3), tf.float32)], autograph=False)

    def read(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decodes string (B,) files of any sizes.

        Returns:
            float32 (B, H, W, 3) pixels, int32 (B, 2) heights and widths, float32 (B, 4) where each image went.
        """

        def one(numbered: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return read_image(*numbered, self.size, self.resize)

        kinds = (tf.TensorSpec((*self.size, 3), tf.uint8), tf.TensorSpec((2,), tf.int32), tf.TensorSpec((4,), tf.float32))
        numbered = (image, tf.range(tf.shape(image)[0]))
        pixels, sizes, plans = tf.map_fn(one, numbered, fn_output_signature=kinds, parallel_iterations=8)
        return tf.cast(pixels, tf.float32), sizes, plans

    def fit(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Fits float32 (B, h, w, 3) to the model's size; what has it already stays as it is. Returns the same as `read`."""
        shape = tf.shape(pixels)[1:3]
        plan = plan_of(shape, self.size, self.resize)

        def scaled() -> tf.Tensor:
            one = partial(resized, plan=plan, size=self.size)
            return tf.cast(tf.map_fn(one, pixels, fn_output_signature=tf.TensorSpec((*self.size, 3), tf.uint8)), tf.float32)

        count = tf.shape(pixels)[0]
        fitted = tf.ensure_shape(tf.cond(tf.reduce_all(shape == self.size), lambda: pixels, scaled), (None, *self.size, 3))
        return fitted, tf.tile(shape[None], (count, 1)), tf.tile(plan[None], (count, 1))


def signature(function: Callable[..., dict[str, tf.Tensor]], *specs: tf.TensorSpec) -> Function:
    """Returns a function as a graph of fixed inputs."""
    return tf.function(function, input_signature=list(specs), autograph=False)


def classifier_signatures(graph: ImageGraph, class_names: tuple[str, ...]) -> dict[str, Function]:
    """Returns the exported functions of a classifier by the names of their signatures.

    Args:
        graph: The model's.
        class_names: Names in the order of the logits.

    Returns:
        `serving_default`: string `image` (B,) to `label` (B,), `label_id` int32 (B,) and `probabilities` float32 (B, C).
        `logits`: `image` to `logits` float32 (B, C). `pixels`: float32 `pixels` (B, h, w, 3), 0 to 255, to all four.
    """

    def of_image(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return _answer(graph.outputs(graph.read(image)[0]), class_names)

    def raw(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": graph.outputs(graph.read(image)[0])}

    def of_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = graph.outputs(graph.fit(pixels)[0])
        return {**_answer(logits, class_names), "logits": logits}

    return {"serving_default": signature(of_image, IMAGE), "logits": signature(raw, IMAGE), "pixels": signature(of_pixels, PIXELS)}


def face_signatures(graph: ImageGraph, class_names: tuple[str, ...]) -> dict[str, Function]:
    """Returns the exported functions of a face classifier by the names of their signatures.

    Args:
        graph: Of a model that returns logits and embedding side by side, (B, C + D).
        class_names: C names of people in the order of the logits.

    Returns:
        Those of `classifier_signatures`, each with `embedding` float32 (B, D), unit vectors, too; and `embedding`: string
        `image` (B,) to `embedding` alone.
    """
    people = len(class_names)

    def parts(outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": outputs[:, :people], "embedding": outputs[:, people:]}

    def raw(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return parts(graph.outputs(graph.read(image)[0]))

    def embedding(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": raw(image)["embedding"]}

    def of_image(image: tf.Tensor) -> dict[str, tf.Tensor]:
        found = raw(image)
        return {**_answer(found["logits"], class_names), "embedding": found["embedding"]}

    def of_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        found = parts(graph.outputs(graph.fit(pixels)[0]))
        return {**_answer(found["logits"], class_names), **found}

    of_images = {"serving_default": of_image, "logits": raw, "embedding": embedding}
    return {**{name: signature(function, IMAGE) for name, function in of_images.items()}, "pixels": signature(of_pixels, PIXELS)}


def _answer(logits: tf.Tensor, class_names: tuple[str, ...]) -> dict[str, tf.Tensor]:
    label_id = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return {"label": tf.gather(tf.constant(class_names), label_id), "label_id": label_id, "probabilities": tf.nn.softmax(logits)}


def function_of_pixels(model: keras.Model, finish: Callable[[tf.Tensor], list[tf.Tensor]], *, batch: int | None = 1) -> Any:
    """Returns the function from uint8 (B, H, W, 3) to a list of outputs that a LiteRT or ONNX file is made of.

    Args:
        model: A float32 image task with its preprocessor.
        finish: From what the model returns, (B, ...), to the file's outputs.
        batch: B; None leaves it open.
    """
    converter = model.preprocessor.image_converter

    @tf.function(input_signature=[tf.TensorSpec((batch, *input_size(model), 3), tf.uint8, name="pixels")], autograph=False)
    def run(pixels: tf.Tensor) -> list[tf.Tensor]:
        return finish(tf.cast(model(converted(tf.cast(pixels, tf.float32), converter), training=False), tf.float32))

    return run
