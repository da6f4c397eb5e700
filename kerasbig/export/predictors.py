"""Exported files as functions from raw texts to logits: one interface over all formats."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kerasbig.export.manifests import CLASSES_FILE, SINGLE_FILES, read_json, size_of
from kerasbig.export.text_encoder import TextEncoder

_BATCH = 32
# An interpreter holds its own packed copy of the weights (22 million of them: 20 MB in int8, 100 to 170 MB in float), so
# a larger file gets fewer lengths, and only so many are kept ready at once.
_SMALL_FILE = 40 * 10**6
_INTERPRETERS = 12


@runtime_checkable
class Predictor(Protocol):
    """An exported model, ready to answer.

    Attributes:
        path: The folder or file it was loaded from.
        format: "saved_model", "hdf5", "litert" or "onnx".
        class_names: Names in the order of the logits; None for regression.
    """

    path: Path
    format: str
    class_names: tuple[str, ...] | None

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) logits of N raw texts, in their order."""

    def bytes_on_disk(self) -> int:
        """Returns the size of all files that an answer needs."""


class SavedModelPredictor:
    """A SavedModel, run by TensorFlow."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401

        self.path = path
        self.class_names = class_names_in(path / "assets.extra" / CLASSES_FILE)
        # The loaded object owns the variables: without it the signature stops working.
        self._loaded = tf.saved_model.load(str(path))
        signature = self._loaded.signatures["logits"]
        self._function: Callable[[list[str]], np.ndarray] = lambda texts: signature(text=tf.constant(texts))["logits"].numpy()

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) logits of N raw texts, in their order."""
        return texts_in_batches(self._function, inputs, len(self.class_names or ("value",)))

    def bytes_on_disk(self) -> int:
        """Returns the size of the whole folder."""
        return size_of(self.path)


class HDF5Predictor:
    """A Keras model rebuilt from `model.json` and `model.weights.h5`."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        from kerasbig.export.signatures import text_to_logits
        from kerasbig.export.untrusted import read_model

        weights, config = (path / name for name in SINGLE_FILES["hdf5"])
        self.path = weights
        self.class_names = class_names_in(path / CLASSES_FILE)
        self.model = read_model(config, weights)
        self.model.class_names = self.class_names
        function = text_to_logits(self.model)
        self._function: Callable[[list[str]], np.ndarray] = lambda texts: function(tf.constant(texts)).numpy()

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) logits of N raw texts, in their order."""
        return texts_in_batches(self._function, inputs, len(self.class_names or ("value",)))

    def bytes_on_disk(self) -> int:
        """Returns the size of the weights and the configuration."""
        return sum(size_of(self.path.parent / name) for name in SINGLE_FILES["hdf5"])


class LiteRTPredictor:
    """A LiteRT file with its tokenizer, without TensorFlow.

    Args:
        path: The folder of `model.tflite`, `tokenizer.json` and `classes.json`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    format = "litert"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        model, tokenizer = (path / name for name in SINGLE_FILES["litert"][:2])
        for file in (model, tokenizer):
            if not file.is_file():
                raise FileNotFoundError(f"Expected {file.name} in {str(path)!r}. Export the Bundle again.")
        self.path = model
        self.class_names = class_names_in(path / CLASSES_FILE)
        self.threads = threads or min(2, os.cpu_count() or 1)
        self._encode = TextEncoder(tokenizer.read_text(encoding="utf-8"))
        if self._encode.longest is None:
            raise ValueError(f"Expected {str(tokenizer)!r} to cut long texts. It is altered: export the Bundle again.")
        self._fine = size_of(model) <= _SMALL_FILE
        self._longest = self._encode.longest
        self._interpreters: OrderedDict[int, Any] = OrderedDict()
        # One interpreter runs one text at a time.
        self._lock = threading.Lock()

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) logits of N raw texts, in their order."""
        texts = checked_texts(inputs)
        rows = self._encode(texts)
        result = np.empty((len(texts), len(self.class_names or ("value",))), "float32")
        with self._lock:
            for i, token_ids in enumerate(rows):
                result[i] = self._run(token_ids)
        return result

    def bytes_on_disk(self) -> int:
        """Returns the size of the model and the tokenizer."""
        return sum(size_of(self.path.parent / name) for name in SINGLE_FILES["litert"][:2])

    def _run(self, token_ids: list[int]) -> np.ndarray:
        width = min(padded_length(len(token_ids), fine=self._fine), self._longest)
        interpreter, inputs, output = self._interpreter(width)
        row = np.zeros((1, width), "int32")
        mask = np.zeros((1, width), "int32")
        row[0, : len(token_ids)] = token_ids
        mask[0, : len(token_ids)] = 1
        interpreter.set_tensor(inputs["token_ids"], row)
        interpreter.set_tensor(inputs["padding_mask"], mask)
        interpreter.set_tensor(inputs["segment_ids"], np.zeros((1, width), "int32"))
        interpreter.invoke()
        return interpreter.get_tensor(output)[0]

    def _interpreter(self, width: int) -> tuple[Any, dict[str, int], int]:
        """Returns the interpreter of one length; making one costs as much as ten texts."""
        if width in self._interpreters:
            self._interpreters.move_to_end(width)
            return self._interpreters[width]
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(self.path), num_threads=self.threads)
        inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
        for index in inputs.values():
            interpreter.resize_tensor_input(index, (1, width))
        interpreter.allocate_tensors()
        self._interpreters[width] = (interpreter, inputs, interpreter.get_output_details()[0]["index"])
        if len(self._interpreters) > (_INTERPRETERS if self._fine else _INTERPRETERS // 2):
            self._interpreters.popitem(last=False)
        return self._interpreters[width]


class OnnxPredictor:
    """An ONNX file with its tokenizer in its metadata, run by ONNX Runtime on the CPU, without TensorFlow.

    Args:
        path: The folder of `model.onnx` and `classes.json`.
        threads: Threads of one run; by default 2, or 1 where there is one core.
    """

    format = "onnx"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.path = require_onnx_file(path)
        import onnxruntime

        self.class_names = class_names_in(path / CLASSES_FILE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(2, os.cpu_count() or 1)
        self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self._encode = TextEncoder(self._session.get_modelmeta().custom_metadata_map["tokenizer"])

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns float32 (N, C) logits of N raw texts, in their order."""
        return texts_in_batches(self._run, inputs, len(self.class_names or ("value",)))

    def bytes_on_disk(self) -> int:
        """Returns the size of the file."""
        return size_of(self.path)

    def _run(self, texts: list[str]) -> np.ndarray:
        rows = self._encode(texts)
        shape = (len(rows), max(map(len, rows)))
        token_ids, mask = np.zeros(shape, "int32"), np.zeros(shape, "int32")
        for place, row in enumerate(rows):
            token_ids[place, : len(row)], mask[place, : len(row)] = row, 1
        answer: np.ndarray = self._session.run(
            ["logits"], {"token_ids": token_ids, "padding_mask": mask, "segment_ids": np.zeros(shape, "int32")}
        )[0]
        return answer


def require_onnx_file(folder: Path) -> Path:
    """Returns the ONNX file of a folder, if ONNX Runtime is there to run it.

    Raises:
        FileNotFoundError: If the file is missing.
        ImportError: If the package is.
    """
    file = folder / SINGLE_FILES["onnx"][0]
    if not file.is_file():
        raise FileNotFoundError(f"Expected {file.name} in {str(folder)!r}. Export the Bundle again.")
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        message = "Expected the package 'onnxruntime' to load ONNX, which is not installed. Run: pip install 'kerasbig[onnx]'"
        raise ImportError(message, name="onnxruntime") from error
    return file


def predictions(logits: np.ndarray, class_names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Turns logits into answers.

    Args:
        logits: (N, C) logits, or (N, 1) values for regression.
        class_names: C names, or None for regression.

    Returns:
        For each text `{"label": name, "probabilities": {name: probability}}`, or `{"value": number}`.

    Raises:
        ValueError: If the logits do not fit the names.

    Example:
        >>> predictions(np.float32([[0, 0], [1, -1]]), ("bad", "good"))[0]
        {'label': 'bad', 'probabilities': {'bad': 0.5, 'good': 0.5}}
        >>> predictions(np.float32([[1.5]]), None)
        [{'value': 1.5}]
    """
    values = np.asarray(logits, "float64")
    width = 1 if class_names is None else len(class_names)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"Expected logits of the shape (texts, {width}) for class_names={class_names}. Received the shape {values.shape}.")
    if class_names is None:
        return [{"value": float(value)} for value in values[:, 0]]
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    return [
        {"label": class_names[int(best)], "probabilities": dict(zip(class_names, map(float, row), strict=True))}
        for best, row in zip(values.argmax(axis=1), shares, strict=True)
    ]


def padded_length(tokens: int, *, fine: bool = True) -> int:
    """Returns the length a text is padded to: an eighth more at most for long texts, or the next power of two.

    Example:
        >>> [padded_length(tokens) for tokens in (2, 27, 64, 65, 128, 300)]
        [8, 32, 64, 80, 128, 320]
        >>> [padded_length(tokens, fine=False) for tokens in (2, 27, 65)]
        [16, 32, 128]
    """
    if not fine:
        return 1 << max(4, (tokens - 1).bit_length())
    step = max(8, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


def texts_in_batches(function: Callable[[list[str]], np.ndarray], inputs: Sequence[str], width: int) -> np.ndarray:
    """Runs a function from texts to float32 (n, width) over those of like length together: a batch is as long as its longest text."""
    texts = checked_texts(inputs)
    result = np.empty((len(texts), width), "float32")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        result[rows] = function([texts[i] for i in rows])
    return result


def checked_texts(inputs: Sequence[str], name: str = "inputs") -> list[str]:
    """Returns the texts as a list.

    Raises:
        ValueError: If they are one text, no texts, or not valid Unicode.
    """
    if isinstance(inputs, str):
        raise ValueError(f"Expected {name} to be a list of texts. Received one text: put it in a list, [{inputs[:20]!r}].")
    for i, text in enumerate(inputs):
        if not isinstance(text, str):
            raise ValueError(f"Expected {name} to be texts. Received: {name}[{i}] is {type(text).__name__}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Expected {name} to be valid Unicode. Received: a lone surrogate in {name}[{i}] at character {error.start}."
            ) from error
    return list(inputs)


def class_names_in(file: Path) -> tuple[str, ...] | None:
    """Reads a file of class names; None for regression.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it holds no names.
    """
    names = read_json(file)
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"Expected {str(file)!r} to be a list of class names, or null. It is altered: export the Bundle again.")
    return None if names is None else tuple(names)
