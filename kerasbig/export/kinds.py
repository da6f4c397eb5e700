"""The one table of what can be exported and loaded, by kind of model.

Nothing heavy is imported here: a LiteRT file is loaded without Keras. A new kind is one row in `KINDS`, a module with the
functions of `Exporter`, and a class for each format that is made of the folder where its files lie.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    from kerasbig.export.parity import Check


class Exporter(Protocol):
    """What the module of a kind has: how its models are checked, written and compared."""

    def require(self, model: Any, quantize: str | None) -> None:
        """Raises for a model, or a LiteRT quantization, that cannot be exported."""

    def facts(self, model: Any) -> dict[str, Any]:
        """Returns what an answer depends on beside the weights, as JSON."""

    def checked_examples(self, examples: Sequence[Any] | None) -> Sequence[Any]:
        """Returns what each file must answer as the model does; the built-in ones for None."""

    def expect(self, model: Any, twin: Any, examples: Any, formats: Sequence[str], quantize: str | None) -> Mapping[str, Check]:
        """Returns what each format must answer, from a model and its float32 twin."""

    def write(self, format: str, model: Any, twin: Any, folder: Path, quantize: str | None) -> None:
        """Writes one format: a SavedModel as a new folder, others into a folder that is there."""

    def about(self, model: Any) -> dict[str, Any]:
        """Returns what the manifest says of the model."""


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        task: As the manifest and `kerasbig train` name it.
        model: The name of the class that its models are of, or come from.
        module: The module of this folder that is its `Exporter`.
        predictors: Format to `module.Class` of what loads it.
        parts: The KerasHub classes that its `model.json` is made of.
        tokenizer: The type of model in its `tokenizer.json`, if there is one.
        int8_activations: Whether its LiteRT file can have them.
    """

    task: str
    model: str
    module: str
    predictors: Mapping[str, str]
    parts: tuple[str, ...] = ()
    tokenizer: str | None = None
    int8_activations: bool = False

    @property
    def exporter(self) -> Exporter:
        """The functions that export it."""
        return cast(Exporter, importlib.import_module(f"{__package__}.{self.module}"))

    def predictor(self, format: str) -> Callable[[Path], Any]:
        """Returns the class that loads a format."""
        module, name = self.predictors[format].split(".")
        return cast("Callable[[Path], Any]", getattr(importlib.import_module(f"{__package__}.{module}"), name))


KINDS = (
    Kind(
        task="text-classifier",
        model="BertTextClassifier",
        module="classifier",
        predictors={
            "saved_model": "predictors.SavedModelPredictor",
            "hdf5": "predictors.HDF5Predictor",
            "litert": "predictors.LiteRTPredictor",
            "onnx": "predictors.OnnxPredictor",
        },
        parts=("BertTextClassifier", "BertBackbone", "BertTextClassifierPreprocessor", "BertTokenizer"),
        tokenizer="WordPiece",
        int8_activations=True,
    ),
    Kind(
        task="text-generator",
        model="CausalLM",
        module="generator",
        predictors={
            "saved_model": "generator_predictors.SavedModelGenerator",
            "hdf5": "generator_predictors.HDF5Generator",
            "litert": "litert_generator.LiteRTGenerator",
        },
        parts=("GPT2CausalLM", "GPT2Backbone", "GPT2CausalLMPreprocessor", "GPT2Tokenizer"),
        tokenizer="BPE",
    ),
    # A class before those that it is made from: the first that fits is the kind of a model.
    Kind(
        task="face-classifier",
        model="FaceModel",
        module="face_classifier",
        predictors={
            "saved_model": "face_predictors.SavedModelFaceClassifier",
            "hdf5": "face_predictors.HDF5FaceClassifier",
            "litert": "face_predictors.LiteRTFaceClassifier",
            "onnx": "face_predictors.OnnxFaceClassifier",
        },
        int8_activations=True,
    ),
    Kind(
        task="image-classifier",
        model="ImageClassifier",
        module="image_classifier",
        predictors={
            "saved_model": "image_predictors.SavedModelImageClassifier",
            "hdf5": "image_predictors.HDF5ImageClassifier",
            "litert": "image_predictors.LiteRTImageClassifier",
            "onnx": "image_predictors.OnnxImageClassifier",
        },
        int8_activations=True,
    ),
    Kind(
        task="object-detector",
        model="ObjectDetector",
        module="object_detector",
        predictors={
            "saved_model": "image_predictors.SavedModelObjectDetector",
            "hdf5": "image_predictors.HDF5ObjectDetector",
            "litert": "image_predictors.LiteRTObjectDetector",
            "onnx": "image_predictors.OnnxObjectDetector",
        },
        int8_activations=True,
    ),
)


def kind_of(model: object) -> Kind:
    """Returns the kind of a model.

    Raises:
        TypeError: If it is of none.

    Example:
        >>> import kerasbig as kb
        >>> kind_of(kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))).task
        'text-generator'
    """
    names = {each.__name__ for each in type(model).__mro__}
    for kind in KINDS:
        if kind.model in names:
            return kind
    raise TypeError(
        f"Expected model to be a {' or a '.join(kind.model for kind in KINDS)}. Received: {type(model).__name__}. "
        "Build it with KerasBig, such as with kerasbig.text.bert_classifier."
    )


def kind_called(task: str) -> Kind:
    """Returns the kind of a task.

    Raises:
        ValueError: If there is none.

    Example:
        >>> kind_called("text-generator").model
        'CausalLM'
    """
    for kind in KINDS:
        if kind.task == task:
            return kind
    raise ValueError(f"Expected a Bundle of {' or '.join(kind.task for kind in KINDS)}. Received: the task {task!r}. Update kerasbig.")


def fingerprint(model: Any) -> str:
    """Returns the SHA-256 over all that an answer of a Keras model depends on: weights, tokenizer, lengths, names."""
    digest = hashlib.sha256(json.dumps(kind_of(model).exporter.facts(model)).encode())
    for value in model.get_weights():
        array = np.ascontiguousarray(value, dtype="float32")
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
