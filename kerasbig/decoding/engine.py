"""The compiled functions of a model, kept with it, and how the host drives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.decoding import loops
from kerasbig.decoding.forward import Forward, forward_of, kind_of_forward, prepare, require_generator
from kerasbig.decoding.settings import Settings, uniform_draws

_SMALLEST = 16
_NAME = "_kerasbig_decoders"


def decoder_of(model: keras_hub.models.CausalLM, *, xla: bool = True) -> Decoder:
    """Returns the compiled functions of a model: made when first asked for, and anew when the model's layers have changed.

    Args:
        model: Any KerasHub CausalLM of text with its preprocessor.
        xla: Whether XLA compiles them; each size of batch, prompt and answer takes seconds once.

    Raises:
        TypeError: If `model` is no KerasHub CausalLM of text alone.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> decoder_of(model) is decoder_of(model)
        True
    """
    require_generator(model)
    # An attribute rather than a table outside: functions hold their model, which a table would keep alive.
    kept = model.__dict__.setdefault(_NAME, {})
    mark = _mark(model)
    if xla not in kept or kept[xla][0] != mark:
        kept[xla] = (mark, Decoder(model, xla=xla))
    decoder: Decoder = kept[xla][1]
    return decoder


def _mark(model: keras.Model) -> tuple[Any, ...]:
    """Returns what a traced graph depends on beside the values of the weights."""
    layers = [
        (type(layer), getattr(layer, "lora_enabled", False), layer.dtype_policy.name) for layer in model._flatten_layers(include_self=False)
    ]
    return (*layers, *(id(variable) for variable in model.variables))


def longest_text(model: keras_hub.models.CausalLM) -> int:
    """Returns how many tokens a model can have before it, those it writes included."""
    return int(getattr(model.backbone, "max_sequence_length", None) or model.preprocessor.sequence_length)


def stop_tokens(tokenizer: Any) -> list[int]:
    """Returns the tokens that end a text; some families have two."""
    return [int(found) for name in ("end_token_id", "end_token2_id") if (found := getattr(tokenizer, name, None)) is not None]


class Decoder:
    """The functions of one model, each traced once and compiled for each size it is called with."""

    def __init__(self, model: keras_hub.models.CausalLM, *, xla: bool):
        self._model, self._xla = model, xla
        self.stops = stop_tokens(model.preprocessor.tokenizer)
        self.longest = longest_text(model)
        self.right_aligned = bool(kind_of_forward(model).right_aligned)
        row = tf.TensorSpec([None], tf.int32)
        # Not by XLA, which would copy every weight.
        self._prepare = tf.function(lambda: prepare(model), input_signature=[], autograph=False)
        self._prepared_specs = _specs(self._prepare)
        flags = tf.TensorSpec([None], tf.bool)
        self._begin = self._compiled(self._begin_graph, self._prepared_specs, tf.TensorSpec([None, None], tf.int32), row, row, flags, row)
        self._methods: dict[tuple[str, int], tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def start(self, prompts: Sequence[Sequence[int]], settings: Settings, seeds: Sequence[int]) -> Session:
        """Reads prompts and returns what writes on from them.

        Args:
            prompts: For each row at least one token, and fewer than the model can have.
            settings: How tokens are chosen. A row writes fewer than `max_tokens` where the model can have no more.
            seeds: A row's seed.
        """
        rows = len(prompts)
        counts = [min(settings.max_tokens, self.longest - len(prompt)) for prompt in prompts]
        # Sizes are rounded up, so that few of them are ever compiled.
        height, width, room = _power(rows, 1), _power(max(map(len, prompts)), _SMALLEST), _power(max(counts), _SMALLEST)
        if not self.right_aligned:
            width = min(width, self.longest)
            room = min(room, self.longest - width)
        tokens = np.full((height, width), self.stops[0], "int32")
        pad, ends = np.full(height, width - 1 if self.right_aligned else 0, "int32"), np.full(height, width, "int32")
        for i, prompt in enumerate(prompts):
            pad[i], ends[i] = (width - len(prompt), width) if self.right_aligned else (0, len(prompt))
            tokens[i, pad[i] : ends[i]] = prompt
        prepared = self._prepare()
        state = self._begin(prepared, tokens, pad, ends, np.arange(height) >= rows, np.zeros(room, "int32"))
        draws = np.zeros((height, room), "float32")
        if settings.method == "sample":
            draws[:rows] = [uniform_draws(seed, room) for seed in seeds]
        first, write = self._method(settings)
        most = np.array([*counts, *[0] * (height - rows)], "int32")
        go_on = partial(write, prepared, pad=pad, ends=ends, options={**_options(settings), "draws": draws, "max_tokens": most})
        return Session(first(prepared, state, pad), go_on, ends[:rows], most[:rows], self.stops)

    def _forward(self, prepared: Any) -> Forward:
        return forward_of(self._model, prepared, xla=self._xla)

    def _begin_graph(self, prepared: Any, prompts: Any, pad: Any, ends: Any, done: Any, room: Any) -> loops.State:
        return loops.begin(self._forward(prepared), prompts, pad, ends, done, room)

    def _method(self, settings: Settings) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns the functions that prepare the state and that write, of a method and its number of beams or candidates."""
        count = {"beam": settings.num_beams, "contrastive": settings.candidates}.get(settings.method, 0)
        key = (settings.method if count else "write", count)
        if key not in self._methods:
            self._methods[key] = self._made(*key)
        return self._methods[key]

    def _made(self, method: str, count: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def first(prepared: Any, state: loops.State, pad: tf.Tensor) -> loops.State:
            if method == "beam":
                return loops.begin_beams(state, count)
            if method == "contrastive":
                return loops.begin_contrast(self._forward(prepared), state, pad)
            return {name: part for name, part in state.items() if name != "hidden"}

        def write(prepared: Any, state: loops.State, pad: Any, ends: Any, options: loops.Options, limit: Any) -> loops.State:
            job = (self._forward(prepared), state, pad, ends, options, self.stops, limit)
            if method == "contrastive":
                return loops.write_contrast(*job, count)
            return loops.write_beams(*job) if method == "beam" else loops.write(*job)

        row, number, whole = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.int32)
        options = dict.fromkeys(("temperature", "top_p", "penalty", "alpha"), number)
        options |= {"top_k": whole, "max_tokens": row, "draws": tf.TensorSpec([None, None], tf.float32)}
        started = self._compiled(first, self._prepared_specs, _specs(self._begin), row)
        return started, self._compiled(write, self._prepared_specs, _specs(started), row, row, options, whole)

    def _compiled(self, function: Callable[..., Any], *specs: Any) -> Any:
        return tf.function(function, input_signature=specs, jit_compile=self._xla or None, autograph=False)


class Session:
    """Rows that are being written."""

    def __init__(self, state: loops.State, write: Callable[..., loops.State], ends: np.ndarray, most: np.ndarray, stops: Sequence[int]):
        self._state, self._write, self._ends, self._most, self._stops = state, write, ends, most, stops

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return bool(np.all(self._state["done"].numpy()[:: self._beams]))

    def advance(self, limit: int | None = None) -> list[list[int]]:
        """Writes on and returns all that each row has written so far, without the token that ends it.

        Args:
            limit: Most slots to write; all that are left if None.
        """
        limit = int((self._ends + self._most).max()) if limit is None else limit
        self._state = self._write(self._state, limit=limit)
        return self._rows()

    def stop(self, row: int) -> None:
        """Writes a row on no further."""
        done = self._state["done"].numpy()
        done[row * self._beams : (row + 1) * self._beams] = True
        self._state = {**self._state, "done": tf.constant(done)}

    @property
    def _beams(self) -> int:
        """How many rows of the state are one row of the caller's; the first of them is the best."""
        return len(self._state["tokens"]) // len(self._state["scores"]) if "scores" in self._state else 1

    def _rows(self) -> list[list[int]]:
        tokens, slot = self._state["tokens"].numpy(), int(self._state["slot"])
        rows = []
        for row, end, most in zip(tokens[:: self._beams], self._ends, self._most, strict=False):
            written = row[end : max(end, min(slot, end + most))]
            stopped = np.flatnonzero(np.isin(written, self._stops))
            rows.append(written[: stopped[0] if len(stopped) else None].tolist())
        return rows


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "temperature": np.float32(settings.temperature if settings.method == "sample" else 0.0),
        "top_k": np.int32(settings.top_k),
        "top_p": np.float32(settings.top_p),
        "penalty": np.float32(settings.repetition_penalty),
        "alpha": np.float32(settings.penalty_alpha),
    }


def _power(number: int, least: int) -> int:
    return max(least, 1 << (number - 1).bit_length())


def _specs(function: Any) -> Any:
    """Returns the specifications of what a function gives."""
    outputs = function.get_concrete_function().structured_outputs
    return tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), outputs)
