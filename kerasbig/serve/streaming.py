"""Text as it is written: server-sent events from the two functions that a generator's SavedModel has for it.

Source: WHATWG, "Server-sent events", https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerasbig.serve.json_tensors import parse_object, read_request
from kerasbig.serve.servables import ServingError, Version, model_error

# What a request may leave out.
DEFAULTS: dict[str, Any] = {
    "max_tokens": 64,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "seed": 0,
}
# Tokens in a piece after the first: each call takes the keys and values in and gives them back.
_PIECE = 4


def read_stream_request(body: bytes, version: Version) -> dict[str, np.ndarray]:
    """Reads the body of `:stream`: an object with `text` and whichever of `DEFAULTS` are to be others.

    Args:
        body: JSON.
        version: The version asked for.

    Returns:
        The inputs of the version's `stream_begin`.

    Raises:
        ServingError: UNIMPLEMENTED, if the version is no text generator; INVALID_ARGUMENT, saying what is wrong.
    """
    if version.stream is None:
        message = f"Expected a text generator for :stream. Version {version.number} of this model is none; send the same data to :predict."
        raise ServingError("UNIMPLEMENTED", message)
    given = parse_object(body)
    unknown = sorted(given.keys() - {"text", *DEFAULTS})
    if unknown or "text" not in given:
        wrong = f"Received also: {unknown}." if unknown else "Received no 'text'."
        raise ServingError("INVALID_ARGUMENT", f"Expected 'text' and, if you like, {', '.join(DEFAULTS)}. {wrong}")
    columns = {**DEFAULTS, **given, "text": [given["text"]]}
    request = read_request(json.dumps({"inputs": columns}).encode(), version)
    # A loaded function that is called with another shape raises with its lock held (TensorFlow 2.21): all calls after it wait.
    for name, array in request.inputs.items():
        request.signature.inputs[name].check(array)
    return request.inputs


def pieces(version: Version, inputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yields what comes after a text piece by piece, in whole characters; the first one may be empty.

    Raises:
        ServingError: If the model refuses the input, before the first piece.
    """
    assert version.stream is not None
    begin, write = version.stream
    shown, finished, count = "", False, 1
    try:
        state = begin(**{name: tf.constant(array) for name, array in inputs.items()})
        while not finished:
            state, text, ended = write(state, tf.constant(count))
            whole, finished, count = text.numpy().decode(), bool(ended), _PIECE
            if len(whole) > len(shown) or not shown:
                yield whole[len(shown) :]
                shown = whole
    except tf.errors.OpError as error:
        raise model_error(error) from error


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    r"""Returns one event: a JSON object after `data:`, with a name unless it is a piece of text.

    Example:
        >>> event({"text": "a\n"}), event({}, "done")
        (b'data: {"text":"a\\n"}\n\n', b'event: done\ndata: {}\n\n')
    """
    line = b"" if name is None else f"event: {name}\n".encode()
    return line + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
