"""A generator from texts to texts inside the graph: tokens, keys and values, choosing and characters, all of it.

Shapes: B texts, P tokens of the longest prompt, S slots of prompts and answers, V tokens in the vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.data.token_text import token_bytes
from kerasbig.decoding import loops
from kerasbig.decoding.engine import longest_text, stop_tokens
from kerasbig.decoding.forward import forward_of, prepare
from kerasbig.decoding.settings import uniform_draws

_WHOLE, _REAL = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.float32)
TEXT = tf.TensorSpec([None], tf.string)
# What every signature that writes takes beside `text`.
SETTINGS = {"max_tokens": _WHOLE, "temperature": _REAL, "top_k": _WHOLE, "top_p": _REAL, "repetition_penalty": _REAL, "seed": _WHOLE}
_POWERS = [2**power for power in range(24)]
# Rows of equal sizes run as one compiled program: sizes are rounded up to these powers of two.
_SMALLEST = 16

State = dict[str, tf.Tensor]


class GeneratorGraph:
    """The functions of a generator.

    Args:
        model: A float32 `GPT2CausalLM` with its preprocessor.

    Attributes:
        tables: The tokenizer's tables, which the graphs look things up in.
    """

    def __init__(self, model: keras_hub.models.GPT2CausalLM):
        self._model, self._tokenizer = model, model.preprocessor.tokenizer
        self._longest, self._stops = longest_text(model), stop_tokens(self._tokenizer)
        table = token_bytes(self._tokenizer) or []
        # A model may have more tokens than its tokenizer: such stand for nothing.
        self._bytes = [*table, *[b""] * (model.backbone.vocabulary_size - len(table))]
        self.tables = [value for value in vars(self._tokenizer).values() if isinstance(value, tf.lookup.StaticHashTable)]
        # Functions that several signatures call: each is in the SavedModel once.
        self._tokens = _function(lambda text: self._tokenizer(text), TEXT)
        self._draws = _function(lambda seed: tf.cast(uniform_draws(tf.cast(seed, tf.int64), self._longest), tf.float32), _WHOLE)
        row, head = tf.TensorSpec([None], tf.int32), tf.TensorSpec([model.backbone.hidden_dim, model.backbone.vocabulary_size], tf.float32)
        prompts = tf.TensorSpec([None, None], tf.int32)
        self._prompts = _function(self._read, prompts, row, row, tf.TensorSpec([None], tf.bool), row, head)
        self._halves: dict[bool, tuple[Any, Any]] = {}

    def generate(self, *, xla: bool) -> Any:
        """Returns the function from `text` (B,) and `SETTINGS` to the `text` that comes after, (B,).

        Args:
            xla: Whether its loop is compiled by XLA, for each size once. A server may have no XLA.
        """
        begin, write = self._begin_and_write(xla=xla)

        def generate(text: tf.Tensor, settings: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            state = write(begin(text, *settings.values()), tf.constant(self._longest))
            return {"text": self._text(state)[: tf.shape(text)[0]]}

        return _with_settings(generate)

    def stream(self) -> tuple[Any, Any]:
        """Returns the functions that begin a stream and that write on.

        The first goes from `text` (1,) and `SETTINGS` to a state; the second from a state and the most tokens to write
        to the next state, all `text` () so far, and whether it is `finished` ().
        """
        begin, write = self._begin_and_write(xla=True)

        def stream_begin(text: tf.Tensor, settings: Mapping[str, tf.Tensor]) -> State:
            state: State = begin(tf.ensure_shape(text, [1]), *settings.values())
            return state

        def stream_next(state: State, limit: tf.Tensor) -> tuple[State, tf.Tensor, tf.Tensor]:
            state = write(state, limit)
            return state, self._text(state)[0], tf.reduce_all(state["done"])

        # A loaded function takes a dict, and a loaded concrete one does not.
        next_function = tf.function(stream_next, input_signature=[_specs(begin), _WHOLE], autograph=False)
        return _with_settings(stream_begin), next_function

    def score(self) -> Any:
        """Returns the function from `text` (B,) to `log_likelihood` float32 (B,) in nats and the number of `tokens` int32 (B,).

        A text counts as a document from its beginning; its end is not counted. What is beyond the context is left out.
        """

        def of_one(row: tf.Tensor) -> tf.Tensor:
            ids = tf.concat([[self._stops[0]], row], axis=0)[None]  # (1, T + 1)
            features = {"token_ids": ids[:, :-1], "padding_mask": tf.ones_like(ids[:, :-1])}
            logits = tf.cast(self._model(features, training=False), tf.float32)
            return tf.reduce_sum(-tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits))

        def score(text: tf.Tensor) -> dict[str, tf.Tensor]:
            ids = self._tokens(text)[:, : self._longest]
            # One at a time: logits are as wide as the vocabulary at every token.
            likelihood = tf.map_fn(of_one, ids, fn_output_signature=tf.float32, parallel_iterations=1)
            return {"log_likelihood": likelihood, "tokens": tf.cast(ids.row_lengths(), tf.int32)}

        return _function(score, TEXT)

    def _begin_and_write(self, *, xla: bool) -> tuple[Any, Any]:
        """Returns the function from `text` and settings to a state, and that from a state and a limit to the next."""
        if xla not in self._halves:
            begin = _with_settings(functools.partial(self._begin, bucketed=xla))
            specs = _specs(begin)

            def write(state: State, limit: tf.Tensor) -> State:
                options = {name.removeprefix("option_"): part for name, part in state.items() if name.startswith("option_")}
                forward = forward_of(self._model, {"head": state["head"]}, xla=xla)
                return _flat(loops.write(forward, _deep(state), state["pad"], state["ends"], options, self._stops, limit))

            writer = _function(write, specs, _WHOLE, xla=xla)
            # What does not change stays outside of what XLA gives back, which is a copy.
            self._halves[xla] = begin, _function(lambda state, limit: {**state, **writer(state, limit)}, specs, _WHOLE)
        return self._halves[xla]

    def _read(self, prompts: Any, pad: Any, ends: Any, done: Any, room: Any, head: Any) -> State:
        """Reads the prompts, without XLA: products of many tokens gain nothing by it."""
        return _flat(loops.begin(forward_of(self._model, {"head": head}, xla=False), prompts, pad, ends, done, room))

    def _begin(self, text: tf.Tensor, settings: Mapping[str, tf.Tensor], *, bucketed: bool) -> State:
        """Reads prompts into a state: a flat dict, since a signature holds no deeper one."""
        with tf.control_dependencies(_checks(settings)):
            text = tf.identity(text)
        layout = self._layout(text, settings["max_tokens"], bucketed=bucketed)
        room = tf.shape(layout["room"])[0]
        draws = tf.pad(self._draws(settings["seed"]), [[0, tf.maximum(room - self._longest, 0)]])[:room]
        head = prepare(self._model)["head"]
        return {
            **self._prompts(*(layout[name] for name in ("prompts", "pad", "ends", "done", "room")), head),
            **{f"option_{name}": settings[name] for name in ("temperature", "top_k", "top_p")},
            "option_penalty": settings["repetition_penalty"],
            "option_draws": tf.broadcast_to(draws, [tf.shape(layout["pad"])[0], room]),
            "option_max_tokens": layout["most"],
            "head": head,
            "pad": layout["pad"],
            "ends": layout["ends"],
        }

    def _layout(self, text: tf.Tensor, max_tokens: tf.Tensor, *, bucketed: bool) -> dict[str, tf.Tensor]:
        """Puts prompts into slots so that all end at one, long ones cut from their left; see `prompt_room`."""
        ids = self._tokens(text)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        # An empty prompt is the border before a document, with which missing tokens are filled up.
        found = tf.pad(ids.to_tensor(self._stops[0]), [[0, 0], [0, 1]], constant_values=self._stops[0])
        lengths = tf.maximum(lengths, 1)
        kept = tf.minimum(lengths, self._longest - tf.minimum(max_tokens, self._longest // 2))
        most = tf.minimum(max_tokens, self._longest - kept)
        rows, width, room = tf.size(text), tf.reduce_max(kept), tf.reduce_max(most)
        if bucketed:
            rows, width, room = _power(rows, 1), _power(width, _SMALLEST), _power(room, _SMALLEST)
        place = lengths[:, None] - width + tf.range(width)  # (B, P)
        tokens = tf.gather(found, tf.maximum(place, 0), batch_dims=1)
        tokens = tf.where(place >= (lengths - kept)[:, None], tokens, self._stops[0])
        added = rows - tf.size(text)
        return {
            "prompts": tf.pad(tokens, [[0, added], [0, 0]], constant_values=self._stops[0]),
            "pad": tf.pad(width - kept, [[0, added]]),
            "ends": tf.fill([rows], width),
            "done": tf.range(rows) >= tf.size(text),
            "room": tf.zeros([room], tf.int32),
            "most": tf.pad(most, [[0, added]]),
        }

    def _text(self, state: State) -> tf.Tensor:
        """Returns what was written so far, as whole characters (B,)."""
        tokens = state["tokens"]
        places = tf.range(tf.shape(tokens)[1])
        new = (places >= state["ends"][:, None]) & (places < state["slot"])
        # The end of a text stands for no bytes.
        return whole_characters(tf.strings.reduce_join(tf.where(new, tf.gather(tf.constant(self._bytes), tokens), ""), axis=1))


def whole_characters(raw: tf.Tensor) -> tf.Tensor:
    """Returns strings (B,) without a character at the end that is not whole, and U+FFFD for bytes that are no UTF-8.

    Equal to `kerasbig.data.token_text.whole_characters`.

    Example:
        >>> whole_characters(tf.constant(["电影".encode()[:5]])).numpy()[0].decode()
        '电'
    """
    tail = tf.cast(tf.io.decode_raw(tf.strings.substr(tf.strings.join(["...", raw]), -3, 3), tf.uint8), tf.int32)
    third, second, last = tail[:, 0], tail[:, 1], tail[:, 2]

    def between(byte: tf.Tensor, low: int, high: int) -> tf.Tensor:
        return (byte >= low) & (byte <= high)

    def goes_on(lead: tf.Tensor, byte: tf.Tensor) -> tf.Tensor:
        # Unicode, table 3-7: what may come second depends on the first.
        low = tf.where(lead == 0xE0, 0xA0, tf.where(lead == 0xF0, 0x90, 0x80))
        high = tf.where(lead == 0xED, 0x9F, tf.where(lead == 0xF4, 0x8F, 0xBF))
        return (byte >= low) & (byte <= high)

    begun = tf.where(between(last, 0xC2, 0xF4), 1, 0)
    begun = tf.where(between(second, 0xE0, 0xF4) & goes_on(second, last), 2, begun)
    begun = tf.where(between(third, 0xF0, 0xF4) & goes_on(third, second) & between(last, 0x80, 0xBF), 3, begun)
    whole = tf.strings.substr(raw, tf.zeros_like(begun), tf.strings.length(raw) - begun)
    return tf.strings.unicode_transcode(whole, "UTF-8", "UTF-8")


def _with_settings(function: Callable[[tf.Tensor, dict[str, tf.Tensor]], Any]) -> Any:
    """Returns a function whose arguments are named: a signature's inputs get their names from them."""

    def named(
        text: tf.Tensor,
        max_tokens: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        repetition_penalty: tf.Tensor,
        seed: tf.Tensor,
    ) -> Any:
        return function(text, dict(zip(SETTINGS, (max_tokens, temperature, top_k, top_p, repetition_penalty, seed), strict=True)))

    return _function(named, TEXT, *SETTINGS.values())


def _function(function: Callable[..., Any], *specs: Any, xla: bool = False) -> Any:
    # Concrete, since a tf.function (TensorFlow 2.21) is traced once more when it is called a second time.
    return tf.function(function, input_signature=specs, jit_compile=xla or None, autograph=False).get_concrete_function()


def _specs(function: Any) -> State:
    """Returns the specifications of what a concrete function gives."""
    return {name: tf.TensorSpec(part.shape, part.dtype) for name, part in function.structured_outputs.items()}


def _checks(settings: Mapping[str, tf.Tensor]) -> list[Any]:
    """Returns the assertions on what a client may send."""
    rules: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
        ("max_tokens", lambda value: value >= 1, "to be at least 1"),
        ("temperature", lambda value: (value >= 0.0) & (value < np.inf), "to be 0, which takes the likeliest token, or above"),
        ("top_k", lambda value: value >= 0, "to be 0, which is all, or above"),
        ("top_p", lambda value: (value > 0.0) & (value <= 1.0), "above 0 and at most 1"),
        ("repetition_penalty", lambda value: (value > 0.0) & (value < np.inf), "above 0; 1 is none"),
    )
    return [
        tf.debugging.Assert(rule(settings[name]), [f"Expected {name} {words}. Received: {name}=", settings[name]])
        for name, rule, words in rules
    ]


def _flat(state: Mapping[str, Any]) -> State:
    """Names each layer's keys and values; `hidden` is for other methods than these."""
    flat = {name: part for name, part in state.items() if name not in ("cache", "hidden")}
    for place, (keys, values) in enumerate(state["cache"]):
        flat |= {f"keys_{place:03}": keys, f"values_{place:03}": values}
    return flat


def _deep(state: State) -> dict[str, Any]:
    keys, values = ([state[name] for name in sorted(state) if name.startswith(kind)] for kind in ("keys_", "values_"))
    return {**{name: state[name] for name in ("tokens", "slot", "done")}, "cache": list(zip(keys, values, strict=True))}


def _power(number: tf.Tensor, least: int) -> tf.Tensor:
    powers = tf.constant([power for power in _POWERS if power >= least])
    return tf.reduce_min(tf.boolean_mask(powers, powers >= number))
