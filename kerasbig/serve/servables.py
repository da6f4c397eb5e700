"""What REST and gRPC share: the loaded versions of one model, their signatures, and how one is run.

Shapes follow TensorFlow's convention: None is any size, and a shape of None is any rank.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

# Registers the tokenizer's operations: a SavedModel that takes raw text does not load without them.
import tensorflow_text  # noqa: F401
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2, saved_model_pb2

from kerasbig.export.manifests import MANIFEST_FILE, check_files, files_of, read_manifest

DEFAULT_SIGNATURE = "serving_default"

_log = logging.getLogger("kerasbig.serve")
_MESSAGE_LIMIT = 1000


class ServingError(Exception):
    """A request that cannot be answered, with the status both protocols give it.

    Args:
        code: The name of a gRPC status, such as "INVALID_ARGUMENT".
        message: One line for the client.

    Example:
        >>> ServingError("NOT_FOUND", "no such model").code
        'NOT_FOUND'
    """

    def __init__(self, code: str, message: str) -> None:
        message = " ".join(message.split())
        super().__init__(message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…")
        self.code = code


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of one input or output, as its SavedModel declares them.

    Example:
        >>> TensorSpec("text", tf.string, (None,)).describe()
        "'text': string (None,)"
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    def describe(self) -> str:
        """Returns the specification as one reads it in a message."""
        return f"{self.name!r}: {self.dtype.name} {'of any shape' if self.shape is None else self.shape}"

    def check(self, array: np.ndarray) -> None:
        """Raises a `ServingError` if `array` does not fit.

        TensorFlow itself accepts any size in a SavedModel's dimensions, and some models then answer nonsense.
        """
        received = tf.as_dtype(array.dtype)
        if received != self.dtype:
            raise ServingError("INVALID_ARGUMENT", f"Expected input {self.describe()}. Received: {received.name}.")
        fits = self.shape is None or (
            len(self.shape) == array.ndim and all(want in (None, have) for want, have in zip(self.shape, array.shape, strict=True))
        )
        if not fits:
            raise ServingError("INVALID_ARGUMENT", f"Expected input {self.describe()}. Received the shape {array.shape}.")


@dataclass(frozen=True)
class Signature:
    """One function of a SavedModel with named inputs and outputs."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    function: Any

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Checks the inputs, runs the function and returns its outputs by name.

        Args:
            inputs: One array for each input of the signature; strings as an object array of `bytes`.

        Raises:
            ServingError: If an input is missing, unknown, of another type or shape, or if the model itself refuses it.
        """
        if inputs.keys() != self.inputs.keys():
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Expected the inputs {sorted(self.inputs)} of signature {self.name!r}. Received: {sorted(inputs)}.",
            )
        for name, array in inputs.items():
            self.inputs[name].check(array)
        try:
            results = self.function(**{name: tf.constant(array, self.inputs[name].dtype) for name, array in inputs.items()})
        except tf.errors.OpError as error:
            raise model_error(error) from error
        return {name: results[name].numpy() for name in self.outputs}


@dataclass(frozen=True)
class Version:
    """One loaded SavedModel."""

    number: int
    path: Path
    signatures: Mapping[str, Signature]
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef]
    # Of a text generator: what begins a stream, and what writes on.
    stream: tuple[Any, Any] | None = None

    def signature(self, name: str | None) -> Signature:
        """Returns the signature called `name`, or the default one for an empty name."""
        wanted = name or DEFAULT_SIGNATURE
        if wanted not in self.signatures:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Expected signature_name to be one of {sorted(self.signatures)} in version {self.number}. Received: {wanted!r}.",
            )
        return self.signatures[wanted]


@dataclass(frozen=True)
class Servable:
    """One model by its name, with every version that is served."""

    name: str
    versions: Mapping[int, Version]

    def version(self, model: str, number: int | None = None) -> Version:
        """Returns a version, the latest if `number` is None.

        Raises:
            ServingError: NOT_FOUND, if this server has no such model or version.
        """
        if model != self.name:
            raise ServingError("NOT_FOUND", f"Servable not found for request: expected the model {self.name!r}. Received: {model!r}.")
        if number is None:
            return self.versions[max(self.versions)]
        if number not in self.versions:
            raise ServingError(
                "NOT_FOUND",
                f"Servable not found for request: expected a version of {model!r} in {sorted(self.versions)}. Received: {number}.",
            )
        return self.versions[number]

    def selected(self, model: str, number: int | None) -> list[Version]:
        """Returns the one version asked for, or all of them, newest first as TF Serving lists them."""
        if number is not None:
            return [self.version(model, number)]
        self.version(model)
        return [self.versions[key] for key in sorted(self.versions, reverse=True)]


def load(path: str | Path, *, name: str | None = None, versions: Sequence[int] | None = None) -> Servable:
    """Loads the numbered SavedModels of a folder.

    Args:
        path: A Bundle, or any folder with `1/saved_model.pb`, `2/saved_model.pb`, …
        name: The model's name in requests. The folder's name if None.
        versions: The versions to load. All if None.

    Returns:
        The loaded model. Every version answers, or nothing is returned.

    Raises:
        FileNotFoundError: If the folder, a SavedModel in it or a version asked for is missing.
        ValueError: If a file differs from the Bundle's manifest, a SavedModel is broken, or the name cannot stand in a URL.

    Example:
        >>> import tempfile
        >>> module = tf.Module()
        >>> module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], name="x")])
        >>> folder = Path(tempfile.mkdtemp()) / "double"
        >>> tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": module.double})
        >>> load(folder).version("double").signature(None).run({"x": np.float32([1, 2])})["y"].tolist()
        [2.0, 4.0]
    """
    folder = Path(path).resolve()
    name = folder.name if name is None else name
    if not re.fullmatch(r"[^/:\s]+", name):
        raise ValueError(f"Expected a model name without '/', ':' or spaces, since it stands in the URL. Received: name={name!r}.")
    found = _version_folders(folder)
    wanted = sorted(found) if versions is None else sorted(set(versions))
    if not wanted or not set(wanted) <= set(found):
        raise FileNotFoundError(f"Expected versions to be among {sorted(found)} of {str(folder)!r}. Received: versions={wanted}.")
    _check_hashes(folder, {number: found[number] for number in wanted})
    return Servable(name, {number: _load_version(number, found[number]) for number in wanted})


def warm_up(servable: Servable) -> None:
    """Runs each signature once on empty values, so that the first request does not pay for it.

    A model may refuse such values, which says nothing about it: the outcome is ignored.
    """
    for version in servable.versions.values():
        for signature in version.signatures.values():
            inputs = {name: _empty_value(spec) for name, spec in signature.inputs.items()}
            try:
                signature.run({name: array for name, array in inputs.items() if array is not None})
            except ServingError as error:
                _log.debug("The warm-up of %s/%d:%s was refused: %s", servable.name, version.number, signature.name, error)


def _version_folders(folder: Path) -> dict[int, Path]:
    """Finds the numbered SavedModels, or says what is there instead."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(f"Expected {str(folder)!r} to be a folder with SavedModels (1/saved_model.pb). Received: {what}.")
    if (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(f"Expected a folder with numbered SavedModels. {str(folder)!r} is itself one: pass {str(folder.parent)!r}.")
    found = {int(child.name): child for child in folder.iterdir() if child.is_dir() and re.fullmatch("[0-9]+", child.name)}
    if not found:
        names = sorted(child.name for child in folder.iterdir())
        has = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
        raise FileNotFoundError(
            f"Expected a SavedModel in a numbered folder of {str(folder)!r} (1/saved_model.pb). It has: {has}. "
            "Write one with kb.export.saved_model or: kerasbig export RUN --to FOLDER --format saved_model"
        )
    return found


def _check_hashes(folder: Path, versions: Mapping[int, Path]) -> None:
    """Compares the SavedModels with the Bundle's manifest, if it has one; a version it does not list is refused too."""
    if not (folder / MANIFEST_FILE).is_file():
        return
    manifest = read_manifest(folder)
    for number, version in versions.items():
        check_files(folder, files_of(manifest, "saved_model", number), version.name)


def _load_version(number: int, folder: Path) -> Version:
    """Loads one SavedModel with its declared signatures."""
    signature_defs = _read_signature_defs(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        # The loader raises nearly anything on a broken file.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Expected {str(folder)!r} to be a SavedModel that loads. Export it again. TensorFlow says: {reason}") from error
    signatures = {}
    for name, function in loaded.signatures.items():
        inputs, outputs = _specs(signature_defs[name].inputs), _specs(signature_defs[name].outputs)
        signatures[name] = Signature(name, inputs, outputs, _Owned(function, loaded))
    if not signatures:
        raise ValueError(f"Expected the SavedModel {str(folder)!r} to have a signature. It has none: export it with kb.export.saved_model.")
    begin, write = (getattr(loaded, name, None) for name in ("stream_begin", "stream_next"))
    stream = None if begin is None or write is None else (_Owned(begin, loaded), _Owned(write, loaded))
    return Version(number, folder, signatures, signature_defs, stream)


class _Owned:
    """Keeps the loaded object, and so its variables, alive as long as one of its functions is used."""

    def __init__(self, function: Any, owner: Any) -> None:
        self._function, self._owner = function, owner

    def __call__(self, *inputs: Any, **named: tf.Tensor) -> Any:
        return self._function(*inputs, **named)


def _read_signature_defs(folder: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Reads the declared signatures from `saved_model.pb`, the way TF Serving's metadata gives them."""
    file = folder / "saved_model.pb"
    if not file.is_file():
        names = ", ".join(sorted(child.name for child in folder.iterdir())) or "nothing"
        raise FileNotFoundError(f"Expected {str(file)!r}. The version folder has: {names}.")
    message = saved_model_pb2.SavedModel()
    try:
        message.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise ValueError(f"Expected {str(file)!r} to be a SavedModel. It is truncated or altered: export it again.") from error
    graphs = [graph for graph in message.meta_graphs if tf.saved_model.SERVING in graph.meta_info_def.tags]
    if not graphs:
        raise ValueError(f"Expected {str(file)!r} to have a graph tagged 'serve'. Export it with kb.export.saved_model.")
    return dict(graphs[0].signature_def)


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorSpec]:
    """Turns a SignatureDef's inputs or outputs into specifications, in the order of their names."""
    specs = {}
    for name in sorted(infos):
        shape = tf.TensorShape(infos[name].tensor_shape)
        specs[name] = TensorSpec(name, tf.as_dtype(infos[name].dtype), None if shape.rank is None else tuple(shape.as_list()))
    return specs


def _empty_value(spec: TensorSpec) -> np.ndarray | None:
    """Makes a smallest value of a specification; None where its type has no array."""
    if spec.dtype in (tf.resource, tf.variant):
        return None
    shape = [1 if size is None else size for size in spec.shape or ()]
    if spec.dtype == tf.string:
        # An image model looks no further at what is no image.
        return np.full(shape, tf.io.encode_png(np.zeros((1, 1, 3), "uint8")).numpy() if spec.name == "image" else b"", object)
    # A scalar is a setting: more of them are in range at 1 than at 0.
    return np.full(shape, 0 if shape else 1, spec.dtype.as_numpy_dtype)


def model_error(error: tf.errors.OpError) -> ServingError:
    """Turns TensorFlow's error into one line without graph nodes.

    Example:
        >>> model_error(tf.errors.InvalidArgumentError(None, None, "no such word")).code
        'INVALID_ARGUMENT'
    """
    code = error_codes_pb2.Code.Name(error.error_code) if error.error_code in error_codes_pb2.Code.values() else "INTERNAL"
    noise = ("Graph execution error", "Detected at node", "<stack traces", "[[{{")
    lines = [re.sub(r"\s*\[Op:[^\]]*\]|\{\{function_node [^}]*\}\}\s*", "", line).strip() for line in str(error.message).splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(noise))
    return ServingError(code, f"The model refused the input: {kept or 'TensorFlow gave no reason'}")
