"""What is explained: any model as one function from raw inputs to scores, with the names of its classes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import keras_hub
import numpy as np

from kerasbig import data
from kerasbig.explain.reading import reader_of
from kerasbig.explain.regions import ImageCase, cut
from kerasbig.explain.words import TextCase, split

METHOD_NAMES = ("lime", "shap", "integrated_gradients", "attention")
# What a regression's one output is called.
VALUE = "value"
MOST_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, ready to be asked.

    Attributes:
        kind: "text" or "image"; None where only the example tells.
        class_names: Names of the classes; None for a regression, or where they are numbered.
        compute: From N texts, or float32 (N, H, W, C), to (N, C) probabilities, or (N, 1) values.
        model: The Keras model, where there is one to take gradients and attention from.
        differentiable: From a TensorFlow tensor (N, H, W, C) to one of (N, C) scores; None where there is none.
        logits: What an exported model answers before any activation; None for others. It cuts long texts without a word.
        reads: The Keras model at whose size image files are read; `model` where there is one.
    """

    kind: str | None
    class_names: tuple[str, ...] | None
    compute: Callable[[Any], np.ndarray]
    model: keras.Model | None = None
    differentiable: Callable[[Any], Any] | None = None
    logits: Callable[[Any], np.ndarray] | None = None
    reads: keras.Model | None = None

    def methods(self, kind: str) -> tuple[str, ...]:
        """Returns the methods that fit it, for "text" or "image"."""
        tensorflow = keras.backend.backend() == "tensorflow"
        bert = isinstance(self.model, keras_hub.models.BertTextClassifier)
        fit = {
            "lime": True,
            "shap": True,
            "integrated_gradients": tensorflow and (bert if kind == "text" else self.differentiable is not None),
            "attention": bert if kind == "text" else find_vit(self.model) is not None,
        }
        return tuple(name for name in METHOD_NAMES if fit[name])


def subject(
    model: Any, class_names: Sequence[str] | None = None, *, activation: str | None = None, differentiable: bool = False
) -> Subject:
    """Makes a model ready to be explained; every method does this by itself for models that need no options.

    Args:
        model: A KerasHub text classifier or regression; a Keras image classifier (B, H, W, C) -> (B, C); what
            `kb.export.load` returns; or a function from a list of texts, or float32 (B, H, W, C), to (B, C) probabilities or
            (B, 1) values.
        class_names: Names of the C classes, where the model does not know them. By default "0", "1", ...
        activation: What makes probabilities of the model's output: "softmax", "sigmoid" (for attributes that do not exclude
            each other) or "none". By default what the last layer lacks; "none" for a function.
        differentiable: For a function of images: whether it computes with TensorFlow throughout, from a tensor to a tensor, so
            that gradients can be taken. A detector's score of one box can be explained so.

    Returns:
        A `Subject`, which every method takes in place of the model.

    Raises:
        TypeError: If it is nothing that can be asked, or a text generator.
        ValueError: If `activation` is unknown or a class name is given twice.

    Example:
        >>> loud = subject(lambda texts: np.array([[1.0 - ("!" in text), "!" in text] for text in texts], float), ("calm", "loud"))
        >>> loud.compute(["what!"]).tolist()
        [[0.0, 1.0]]
    """
    if isinstance(model, Subject):
        return model
    if activation not in (None, "softmax", "sigmoid", "none"):
        raise ValueError(f"Expected activation to be softmax, sigmoid or none. Received: activation={activation!r}")
    names = None if class_names is None else tuple(class_names)
    if names is not None and (len(names) < 1 or len(set(names)) < len(names)):
        raise ValueError(f"Expected class_names to be different names. Received: {list(names)}")
    if callable(getattr(model, "logits", None)) and hasattr(model, "class_names"):
        return _of_bundle(model, names, activation)
    if isinstance(model, keras_hub.models.CausalLM):
        raise TypeError(
            f"Expected a classifier or a regression. Received: {type(model).__name__}, a text generator, which has no probabilities of "
            "classes. No method fits it."
        )
    if isinstance(model, keras.Model):
        return _of_keras(model, names, activation)
    if callable(model):
        return _of_function(model, names, activation or "none", differentiable)
    raise TypeError(
        f"Expected a Keras model, what kb.export.load returns, or a function. Received: {type(model).__name__} {str(model)[:60]!r}. "
        "Load a folder first: kb.export.load(...) for a Bundle."
    )


def find_vit(model: keras.Model | None) -> tuple[keras_hub.models.ViTBackbone, list[keras.layers.Layer]] | None:
    """Returns the ViT of a model and the layers between the images and it, such as a convolutional stem; None if there is none."""
    parts = [] if model is None else [model, getattr(model, "backbone", None), *model.layers]
    for part in parts:
        if isinstance(part, keras_hub.models.ViTBackbone):
            return part, []
        if isinstance(part, keras_hub.models.Backbone):
            layers = [layer for layer in part.layers if not isinstance(layer, keras.layers.InputLayer)]
            for place, layer in enumerate(layers):
                if isinstance(layer, keras_hub.models.ViTBackbone):
                    return layer, layers[:place]
    return None


def image_converter(model: keras.Model) -> Any:
    """Returns the layer that a KerasHub task runs on its images before itself, or None."""
    return getattr(getattr(model, "preprocessor", None), "image_converter", None)


def with_activation(outputs: Any, activation: str) -> Any:
    """Makes probabilities of a tensor (B, C) of logits: "softmax", "sigmoid", or "none" for what is one already."""
    if activation == "none":
        return outputs
    return {"softmax": keras.ops.softmax, "sigmoid": keras.ops.sigmoid}[activation](keras.ops.cast(outputs, "float32"))


def activation_of(model: keras.Model, names: tuple[str, ...] | None) -> str:
    """Returns what a model's output lacks to be probabilities."""
    last: Any = model
    while isinstance(last, keras.Model) and getattr(last, "activation", None) is None and last.layers:
        last = last.layers[-1]
    named = getattr(getattr(last, "activation", None), "__name__", "linear")
    if named in ("softmax", "sigmoid") or isinstance(last, keras.layers.Softmax):
        return "none"
    width = model.output_shape[-1]
    return "none" if width == 1 and names is None else "softmax" if width > 1 else "sigmoid"


def prepare(
    of: Subject, example: Any, method: str, *, regions: int = 50, baseline: Any = None, truncate: bool = False
) -> TextCase | ImageCase:
    """Cuts an example into units, once it is sure that the model reads all of it and the method fits.

    Args:
        of: The model.
        example: A text; an image (H, W, C); or, for a model of images, the path of one, which is read at the model's size.
        method: The method that the example is prepared for.
        regions: About how many superpixels.
        baseline: What a covered region shows, see `kerasbig.explain.regions.cut`.
        truncate: Whether a text that is too long is cut.

    Raises:
        TypeError: If the example is not of the model's kind.
        ValueError: If it is empty, blank, of a wrong shape or longer than the model reads; or the method does not fit.
    """
    if of.kind == "image" and isinstance(example, str | os.PathLike):
        example = read_image(of, example)
    kind = "text" if isinstance(example, str) else "image"
    if of.kind is not None and kind != of.kind:
        what = f"the text {example[:40]!r}" if isinstance(example, str) else type(example).__name__
        wanted = "a text" if of.kind == "text" else "an image as an array (height, width, channels)"
        raise TypeError(f"Expected {wanted} for this model. Received: {what}.")
    require_method(of, kind, method)
    if isinstance(example, str):
        return _readable(of, split(example), truncate)
    case = cut(example, regions, baseline)
    wanted_shape = tuple(of.model.input_shape[1:]) if of.model is not None and image_converter(of.model) is None else case.image.shape
    if any(size not in (None, got) for size, got in zip(wanted_shape, case.image.shape, strict=False)):
        raise ValueError(f"Expected an image of shape {wanted_shape}. Received: {case.image.shape}. Resize it, or convert its colours.")
    return case


def read_image(of: Subject, path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file as uint8 (H, W, 3): at the size of the model, where that is known, upright and in colour.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected an image for this model, as an array (height, width, channels) or a file. Received: {path!r}.")
    model = of.reads or of.model
    if model is None or image_converter(model) is None:
        return data.decode(path)
    return data.fitted_pixels(model, [os.fspath(path)])[0]


def require_method(of: Subject, kind: str, method: str) -> None:
    """Raises a ValueError that names the methods that fit, if this one does not."""
    fit = of.methods(kind)
    if method not in fit:
        needs = {
            "integrated_gradients": "a Keras model on TensorFlow (a BERT classifier or an image model), or a differentiable function",
            "attention": "a BERT classifier, or a Keras model with a ViTBackbone",
        }
        raise ValueError(
            f"Expected a method that fits this model. Received: {method}, which needs {needs[method]}. These fit: {', '.join(fit)}."
        )


def require_several(case: TextCase | ImageCase, method: str, of: Subject) -> None:
    """Raises a ValueError if a text has one unit alone, which leaves nothing to compare."""
    if isinstance(case, TextCase) and case.count < 2:
        others = [name for name in of.methods("text") if name not in ("lime", "shap")]
        hint = f"These fit one word: {', '.join(others)}." if others else "Give a longer text."
        raise ValueError(f"Expected at least two words for {method}. Received one: {case.tokens[0]!r}. {hint}")


def names_of(of: Subject, width: int) -> tuple[str, ...]:
    """Returns a name for each of the model's outputs.

    Raises:
        ValueError: If the number of names is not that of the outputs.
    """
    if of.class_names is None:
        return (VALUE,) if width == 1 else tuple(map(str, range(width)))
    if len(of.class_names) != width:
        raise ValueError(f"Expected one class name for each of {width} outputs. Received: {list(of.class_names)}. Give class_names.")
    return of.class_names


def chosen(names: tuple[str, ...], scores: np.ndarray, target: str | Sequence[str] | None) -> list[int]:
    """Returns the outputs to explain: those that are named, or the up to three likeliest, the likeliest first.

    Raises:
        ValueError: If there is no such class.
    """
    if target is None:
        return [int(index) for index in np.argsort(-scores, kind="stable")[:MOST_CLASSES]]
    wanted = [target] if isinstance(target, str) else list(target)
    for name in wanted:
        if name not in names:
            if names == (VALUE,):
                raise ValueError(f"Expected no class: the model predicts one number. Received: {name!r}. Leave it out.")
            close = difflib.get_close_matches(str(name), names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"Expected a class out of {', '.join(names[:20])}. Received: {name!r}. {hint}".rstrip())
    if not wanted:
        raise ValueError("Expected at least one class. Received: an empty list. Leave it out for the likeliest.")
    return [names.index(name) for name in dict.fromkeys(wanted)]


def _of_keras(model: keras.Model, names: tuple[str, ...] | None, activation: str | None) -> Subject:
    names = names or getattr(model, "class_names", None)
    if getattr(getattr(model, "preprocessor", None), "tokenizer", None) is not None:
        made = activation or activation_of(model, names)
        return Subject("text", names, lambda texts: _numpy(with_activation(reader_of(model).logits(texts), made)), model)
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.inputs[0].shape) != 4 or len(model.output_shape) != 2:
        raise TypeError(
            f"Expected a KerasHub text classifier, or a model from images (B, H, W, C) to (B, C). Received: {type(model).__name__} with "
            f"inputs {getattr(model, 'inputs', None)}. Give a function from inputs to (B, C) probabilities instead."
        )
    made = activation or activation_of(model, names)
    converter, dtype = image_converter(model), keras.backend.standardize_dtype(model.inputs[0].dtype)
    whole = not dtype.startswith(("float", "bfloat"))

    def scores(images: Any) -> Any:
        return _two_sides(with_activation(model(images if converter is None else converter(images), training=False), made), names)

    def compute(images: np.ndarray) -> np.ndarray:
        return _numpy(scores(keras.ops.convert_to_tensor(np.rint(images).astype(dtype) if whole else images)))

    return Subject("image", names, compute, model, None if whole else scores)


def _two_sides(outputs: Any, names: tuple[str, ...] | None) -> Any:
    """Makes two columns of a single probability, where two classes are named."""
    if names is None or len(names) != 2 or outputs.shape[-1] != 1:
        return outputs
    return keras.ops.concatenate([1 - outputs, outputs], axis=-1)


def _of_bundle(predictor: Any, names: tuple[str, ...] | None, activation: str | None) -> Subject:
    names = names or predictor.class_names
    inner = getattr(predictor, "model", None)
    if isinstance(inner, keras.Model) and getattr(inner, "preprocessor", None) is not None:
        return _of_keras(inner, names, activation)
    made = activation or ("none" if names is None else "softmax")

    def compute(inputs: Any) -> np.ndarray:
        return _numpy(with_activation(np.asarray(predictor.logits(inputs), "float32"), made))

    return Subject(None, names, compute, logits=predictor.logits)


def _of_function(function: Callable[[Any], Any], names: tuple[str, ...] | None, activation: str, differentiable: bool) -> Subject:
    def scores(images: Any) -> Any:
        return _two_sides(with_activation(function(images), activation), names)

    def compute(inputs: Any) -> np.ndarray:
        given = keras.ops.convert_to_tensor(inputs) if differentiable else inputs
        outputs = function(given)
        return _numpy(_two_sides(with_activation(outputs if hasattr(outputs, "shape") else np.asarray(outputs), activation), names))

    return Subject("image" if differentiable else None, names, compute, None, scores if differentiable else None)


def _numpy(outputs: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(outputs), "float64")


def _readable(of: Subject, case: TextCase, truncate: bool) -> TextCase:
    """Returns the units that the model reads, which must be all unless the text may be cut."""
    if of.model is not None:
        model = of.model
        fits: Callable[[str], bool] = lambda text: not reader_of(model).tokens([text]).truncated  # noqa: E731
    elif of.logits is not None:
        fits = _is_read_by_bundle(of.logits, case.text)
    else:
        return case
    if fits(case.text):
        return case
    low, high = 0, case.count  # the first `low` units fit, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(case.text[: case.spans[middle - 1, 1]]) else (low, middle)
    if not truncate or low == 0:
        raise ValueError(
            f"Expected a text that the model reads to its end. Received {case.count} words, of which it reads the first {low}, to "
            f"{case.tokens[max(low - 1, 0)]!r}. Shorten the text, or pass truncate=True (--truncate) to explain the part that it reads."
        )
    return split(case.text[: case.spans[low - 1, 1]])


def _is_read_by_bundle(logits: Callable[[list[str]], np.ndarray], whole: str) -> Callable[[str], bool]:
    """Returns whether a beginning of a text stays within what an exported model reads, judged by its answers.

    A model that has reached its length answers the same, to the last bit, whatever follows.
    """
    longer = logits([f"{whole} {whole}"])

    def fits(text: str) -> bool:
        return not np.array_equal(logits([text]), longer)

    return fits
