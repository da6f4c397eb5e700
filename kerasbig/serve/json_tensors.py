"""TF Serving's JSON, to arrays and back.

Source: TensorFlow Serving, "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import tensorflow as tf

from kerasbig.serve.servables import ServingError, Signature, TensorSpec, Version

# bool is left out of the numbers on purpose: Python counts it as an int, JSON does not.
_NUMBERS: dict[str, frozenset[type]] = {
    "bool": frozenset({bool}),
    "integer": frozenset({int}),
    "floating": frozenset({int, float}),
    "string": frozenset({str, dict}),
}
_JSON_NAMES = {str: "a string", int: "a whole number", float: "a decimal number", bool: "true or false", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class PredictRequest:
    """A predict request whose values are arrays; `row` tells which of the two forms the answer takes."""

    signature: Signature
    inputs: dict[str, np.ndarray]
    row: bool


def read_request(body: bytes, version: Version) -> PredictRequest:
    """Reads the body of `:predict` for one version of a model.

    Args:
        body: JSON with `instances` (row form) or `inputs` (column form), and optionally `signature_name`.
        version: The version asked for.

    Raises:
        ServingError: INVALID_ARGUMENT, saying which part of the body is wrong.
    """
    document = parse_object(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _invalid(f"Expected 'signature_name' to be a string. Received: {_show(name)}.")
    signature = version.signature(name)
    forms = [form for form in ("instances", "inputs") if form in document]
    if len(forms) != 1:
        received = "both" if forms else "neither"
        raise _invalid(f"Expected either 'instances' (a list of rows) or 'inputs' (whole tensors). Received: {received}.")
    row = forms[0] == "instances"
    inputs = _read_rows(document["instances"], signature) if row else _read_columns(document["inputs"], signature)
    return PredictRequest(signature, inputs, row)


def write_response(outputs: Mapping[str, np.ndarray], *, row: bool) -> bytes:
    """Writes the outputs as the body of the answer; a single output goes without its name.

    Args:
        outputs: Arrays by output name.
        row: True for `predictions` (one value or object a row), False for `outputs` (whole tensors).

    Raises:
        ServingError: INVALID_ARGUMENT, if the row form was asked for and the outputs do not share a first dimension.

    Example:
        >>> write_response({"value": np.float32([0.2, 3])}, row=True)
        b'{"predictions":[0.2,3.0]}'
    """
    values = {name: _to_json(name, array) for name, array in outputs.items()}
    if not row:
        return _dump({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) != 1 or () in sizes:
        shapes = {name: array.shape for name, array in outputs.items()}
        raise _invalid(
            f"Expected outputs with the same number of rows for 'instances', but they have the shapes {shapes}. Send 'inputs' instead."
        )
    if len(values) == 1:
        return _dump({"predictions": next(iter(values.values()))})
    return _dump({"predictions": [dict(zip(values, row_values, strict=True)) for row_values in zip(*values.values(), strict=True)]})


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a body that must be one JSON object.

    Raises:
        ServingError: INVALID_ARGUMENT, if it is not.

    Example:
        >>> parse_object(b'{"text": "a"}')
        {'text': 'a'}
    """
    try:
        document = json.loads(body)
    except RecursionError:
        raise _invalid("JSON Parse error: the lists are nested too deep.") from None
    except ValueError as error:
        # Covers bytes that are not UTF-8 and numbers with thousands of digits too.
        raise _invalid(f"JSON Parse error: {error if body else 'the body is empty'}.") from None
    if not isinstance(document, dict):
        raise _invalid(f"Expected the body to be a JSON object. Received: {_show(document)}.")
    return document


def _read_rows(rows: Any, signature: Signature) -> dict[str, np.ndarray]:
    """Reads the row form: a list of values, or of objects with one value for each input."""
    if type(rows) is not list or not rows:
        raise _invalid(f"Expected 'instances' to be a list with at least one row. Received: {_show(rows)}.")
    specs = signature.inputs
    if not _is_object(rows[0]):
        if len(specs) != 1:
            raise _invalid(f"Expected each row of 'instances' to be an object with the inputs {sorted(specs)}. Received: {_show(rows[0])}.")
        (spec,) = specs.values()
        return {spec.name: _to_array(rows, spec, lambda index: "instances" + index)}
    for number, row in enumerate(rows):
        if not _is_object(row) or row.keys() != specs.keys():
            raise _invalid(f"Expected instances[{number}] to be an object with the inputs {sorted(specs)}. Received: {_show(row)}.")
    return {name: _to_array([row[name] for row in rows], spec, _named_row(name)) for name, spec in specs.items()}


def _read_columns(columns: Any, signature: Signature) -> dict[str, np.ndarray]:
    """Reads the column form: one tensor, or an object with one tensor for each input."""
    specs = signature.inputs
    if not _is_object(columns):
        if len(specs) != 1:
            raise _invalid(f"Expected 'inputs' to be an object with the inputs {sorted(specs)}. Received: {_show(columns)}.")
        columns = {next(iter(specs)): columns}
    if columns.keys() != specs.keys():
        raise _invalid(f"Expected 'inputs' to have the inputs {sorted(specs)}. Received: {_show(sorted(columns))}.")
    for name, value in columns.items():
        if value == [] and (specs[name].shape or ())[:1] == (None,):
            raise _invalid(f"Expected at least one value for the input {name!r} in 'inputs'. Received: [].")
    return {name: _to_array(columns[name], spec, _named_column(name)) for name, spec in specs.items()}


def _named_row(name: str) -> Callable[[str], str]:
    """Returns how a place in the rows of a named input is written: instances[3].text[0]."""

    def write(index: str) -> str:
        row, _, rest = index.partition("]")
        return f"instances{row}].{name}{rest}" if row else f"instances[…].{name}"

    return write


def _named_column(name: str) -> Callable[[str], str]:
    """Returns how a place in a column is written: inputs.text[3]."""
    return lambda index: f"inputs.{name}{index}"


def _to_array(value: Any, spec: TensorSpec, where: Callable[[str], str]) -> np.ndarray:
    """Turns nested lists into an array of the input's type, and refuses what JSON types do not fit it exactly."""
    kind = _kind(spec)
    shape, flat = _flatten(value, where)
    allowed = _NUMBERS[kind]
    if not allowed.issuperset(map(type, flat)):
        place, leaf = next((place, leaf) for place, leaf in enumerate(flat) if type(leaf) not in allowed)
        raise _invalid(
            f"Expected {where(_index(place, shape))} to be of type {spec.dtype.name} (input {spec.name!r}). Received: {_show(leaf)}."
        )
    if kind == "string":
        strings = np.empty(len(flat), object)
        strings[:] = [_to_bytes(leaf, lambda place=place: where(_index(place, shape))) for place, leaf in enumerate(flat)]  # type: ignore[misc]
        return strings.reshape(shape)
    return _to_numbers(flat, spec, where).reshape(shape)


def _to_numbers(flat: list[Any], spec: TensorSpec, where: Callable[[str], str]) -> np.ndarray:
    """Makes a flat array of numbers that all fit the type."""
    dtype = spec.dtype.as_numpy_dtype
    out_of_range = f"Expected numbers within the range of {spec.dtype.name} in {where('')} (input {spec.name!r})."
    try:
        if not spec.dtype.is_floating:
            return np.array(flat, dtype)
        exact = np.array(flat, np.float64)
    except OverflowError:
        raise _invalid(out_of_range) from None
    with np.errstate(over="ignore"):
        array = exact.astype(dtype)
    # NaN and Infinity may be sent as such; a finite number must not become one of them.
    if not np.array_equal(np.isfinite(array), np.isfinite(exact)):
        raise _invalid(out_of_range)
    return array


def _flatten(value: Any, where: Callable[[str], str]) -> tuple[tuple[int, ...], list[Any]]:
    """Returns the shape that the first elements announce and all leaves, or says where the lists are ragged."""
    shape: list[int] = []
    flat = [value]
    while flat and type(flat[0]) is list:
        size = len(flat[0])
        for place, item in enumerate(flat):
            if type(item) is not list or len(item) != size:
                received = f"{len(item)} values" if type(item) is list else _show(item)
                raise _invalid(f"Expected {where(_index(place, shape))} to be a list of {size} like the first. Received: {received}.")
        shape.append(size)
        flat = list(chain.from_iterable(flat))
    return tuple(shape), flat


def _to_bytes(leaf: Any, where: Callable[[], str]) -> bytes:
    """Returns a string's UTF-8 bytes, or those of a {"b64": …} object."""
    if type(leaf) is str:
        try:
            return leaf.encode()
        except UnicodeEncodeError:
            raise _invalid(f"Expected {where()} to be text. Received: half of a surrogate pair ({_show(leaf)}).") from None
    try:
        (key,) = leaf
        if key == "b64":
            return base64.b64decode(leaf["b64"], validate=True)
    except (ValueError, TypeError, binascii.Error):
        pass
    raise _invalid(f'Expected {where()} to be a string or {{"b64": base64 text}}. Received: {_show(leaf)}.')


def _to_json(name: str, array: np.ndarray) -> Any:
    """Returns an output as nested lists of JSON values."""
    if array.dtype == object:
        decode = _encode_b64 if name.endswith("_bytes") else _decode_text
        return np.frompyfunc(decode, 1, 1)(array).tolist() if array.ndim else decode(array.item())
    if array.dtype.kind in "biu" or array.dtype == np.float64:
        return array.tolist()
    if tf.as_dtype(array.dtype).is_floating:
        # The shortest decimals that give the same float32: 0.2, not 0.20000000298023224.
        return array.astype(np.float32).astype("U").astype(np.float64).tolist()
    raise ServingError("UNIMPLEMENTED", f"Expected outputs that JSON can hold. Output {name!r} is of type {array.dtype}: use gRPC.")


def _encode_b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _decode_text(value: bytes) -> str | dict[str, str]:
    """Decodes UTF-8; bytes that are not text come as base64, since JSON cannot hold them."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _encode_b64(value)


def _kind(spec: TensorSpec) -> str:
    """Returns which JSON types an input takes."""
    dtype = spec.dtype
    for kind, fits in (
        ("string", dtype == tf.string),
        ("bool", dtype == tf.bool),
        ("integer", dtype.is_integer),
        ("floating", dtype.is_floating),
    ):
        if fits:
            return kind
    raise ServingError("UNIMPLEMENTED", f"Expected inputs that JSON can hold. Input {spec.describe()} cannot be sent: use gRPC.")


def _is_object(value: Any) -> bool:
    """Tells an object with inputs from the {"b64": …} form of one value."""
    return type(value) is dict and not (value.keys() == {"b64"} and type(value["b64"]) is str)


def _index(place: int, shape: tuple[int, ...] | list[int]) -> str:
    """Writes the place of a leaf the way one finds it in the body: [3][0]."""
    return "".join(f"[{position}]" for position in np.unravel_index(place, tuple(shape))) if len(shape) else ""


def _show(value: Any) -> str:
    """Returns a received value, cut short, with its JSON type."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=True)
    return f"{_JSON_NAMES.get(type(value), type(value).__name__)}, {text if len(text) <= 80 else text[:79] + '…'}"


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _invalid(message: str) -> ServingError:
    return ServingError("INVALID_ARGUMENT", message)
