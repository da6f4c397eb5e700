"""One step of a model over slots of a token buffer, with cached keys and values.

Three ways, the first that fits: GPT-2's own layers with a cache that is written in place; any other KerasHub model's
`call_with_cache`; and, for the few whose cache is of another kind, the whole model anew at each step.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import keras
import keras_hub
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

_HIDDEN = -1e9
# What KerasHub's `_build_cache` of text models takes beside the tokens, for pictures that are not there.
_LEFT_OUT = {"img_embeddings", "vision_mask", "padding_mask", "vision_indices"}

Cache = Any
Stepped = tuple[tf.Tensor, tf.Tensor, Cache]


class Forward(Protocol):
    """A model inside the graph that it was made in.

    Attributes:
        right_aligned: Whether texts end at one slot and begin at `pad`; otherwise all begin at slot 0.
    """

    right_aligned: bool

    def fill(self, tokens: tf.Tensor, pad: tf.Tensor, slots: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """Returns float (B, P, D) of int32 (B, P) tokens, and the cache of all their slots with room for `slots`."""

    def step(self, tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor, cache: Cache) -> Stepped:
        """Reads the token at a slot of int32 (B, S): float32 logits (B, V), float (B, D), and the cache with this slot."""


def forward_of(model: keras_hub.models.CausalLM, prepared: Any, *, xla: bool) -> Forward:
    """Returns the fastest way to step through a model, for the graph that it is called in.

    Args:
        model: Any KerasHub CausalLM of text.
        prepared: What `prepare` gave for the model.
        xla: Whether that graph is compiled by XLA.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> type(forward_of(model, prepare(model), xla=False)).__name__
        'Gpt2Forward'
    """
    kind = kind_of_forward(model)
    return Gpt2Forward(model, prepared, xla=xla) if kind is Gpt2Forward else kind(model)


def prepare(model: keras_hub.models.CausalLM) -> Any:
    """Returns the weights that steps need in another form, made once for many calls; the others are read where they lie.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> prepare(model)["head"].shape.as_list()
        [128, 261]
    """
    return Gpt2Forward.prepare(model) if kind_of_forward(model) is Gpt2Forward else ()


def kind_of_forward(model: keras_hub.models.CausalLM) -> Any:
    """Returns the class that `forward_of` takes."""
    require_generator(model)
    if is_plain_gpt2(model):
        return Gpt2Forward
    builder = getattr(model, "_build_cache", None)
    taken = set(inspect.signature(builder).parameters) if builder is not None else set()
    return CachedForward if "token_ids" in taken and taken <= {"token_ids", *_LEFT_OUT} else WholeForward


def require_generator(model: object) -> None:
    """Raises unless a model is a KerasHub CausalLM that goes on from text alone.

    Raises:
        TypeError: If it is not, or has no preprocessor.
    """
    inputs = model.input if isinstance(model, keras_hub.models.CausalLM) else None
    if not isinstance(inputs, dict) or set(inputs) != {"token_ids", "padding_mask"}:
        raise TypeError(
            f"Expected model to be a keras_hub.models.CausalLM of text alone. Received: {type(model).__name__}. "
            "Build it with kerasbig.text.gpt_generator."
        )
    if getattr(getattr(model, "preprocessor", None), "tokenizer", None) is None:
        raise TypeError("Expected model to have its preprocessor, which knows the tokens. Received: model.preprocessor=None.")


def is_plain_gpt2(model: keras.Model) -> bool:
    """Returns whether a model is GPT-2 with Keras's own layers as they are: no quantized or rewired one, LoRA allowed."""
    if type(model) is not keras_hub.models.GPT2CausalLM or type(model.backbone) is not keras_hub.models.GPT2Backbone:
        return False
    known = (keras.layers.Dense, keras.layers.EinsumDense, keras_hub.layers.ReversibleEmbedding)
    layers = [layer for layer in model.backbone._flatten_layers(include_self=False) if isinstance(layer, known)]
    return all(type(layer) in known and getattr(layer, "quantization_mode", None) is None for layer in layers)


class Gpt2Forward:
    """GPT-2 with its kernels as matrices that are made once, before the loop, and a cache of (B, H, S, D / H) a layer.

    The numbers are those of the model itself but for rounding; a test holds it to `call_with_cache`.
    """

    right_aligned = True

    def __init__(self, model: keras_hub.models.GPT2CausalLM, prepared: dict[str, tf.Tensor], *, xla: bool):
        backbone = model.backbone
        self._xla, self._backbone, self._head = xla, backbone, prepared["head"]
        self._heads, self._width, dtype = backbone.num_heads, backbone.hidden_dim, self._head.dtype
        self._table = tf.cast(tf.convert_to_tensor(backbone.token_embedding.embeddings), dtype)  # (V, D)
        self._positions = tf.cast(tf.convert_to_tensor(backbone.position_embedding.position_embeddings), dtype)  # (N, D)
        self._blocks = [Gpt2Block(layer, self._width, dtype) for layer in backbone.transformer_layers]

    @staticmethod
    def prepare(model: keras_hub.models.GPT2CausalLM) -> dict[str, tf.Tensor]:
        """Returns the table of tokens as (D, V): on a CPU, products with it lying the other way are several times slower."""
        embedding = model.backbone.token_embedding
        return {"head": tf.cast(tf.transpose(tf.convert_to_tensor(embedding.embeddings)), embedding.compute_dtype)}

    def empty_cache(self, rows: tf.Tensor, slots: tf.Tensor) -> Cache:
        """Returns a cache without anything in it."""
        zeros = tf.zeros([rows, self._heads, slots, self._width // self._heads], self._head.dtype)
        return [(zeros, zeros) for _ in self._blocks]

    def fill(self, tokens: tf.Tensor, pad: tf.Tensor, slots: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """See `Forward.fill`."""
        return self.read(tokens, tf.constant(0), pad, self.empty_cache(tf.shape(tokens)[0], slots))

    def step(self, tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor, cache: Cache) -> Stepped:
        """See `Forward.step`."""
        hidden, cache = self.read(tf.gather(tokens, slot, axis=1)[:, None], slot, pad, cache)
        return self.logits(hidden[:, 0]), hidden[:, 0], cache

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns float32 (B, V) of float (B, D)."""
        return tf.cast(tf.matmul(hidden, self._head), tf.float32)

    def read(self, tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        """Reads tokens (B, T) that stand at `slot` and after: float (B, T, D), and the cache with these slots."""
        rows, count = tf.shape(tokens)[0], tf.shape(tokens)[1]
        places = slot + tf.range(count)  # (T,)
        positions = tf.clip_by_value(places - pad[:, None], 0, self._backbone.max_sequence_length - 1)
        seen = tf.range(tf.shape(cache[0][0])[2])
        visible = (seen <= places[:, None]) & (seen >= pad[:, None, None])  # (B, T, S)
        x = tf.gather(self._table, tokens) + tf.gather(self._positions, positions)
        x = tf.reshape(x, [-1, self._width])
        written = []
        for block, (keys, values) in zip(self._blocks, cache, strict=True):
            query, key, value = (self._split(part, rows, count) for part in block.attend(x))
            keys, values = self._put(keys, key, slot), self._put(values, value, slot)
            scores = tf.matmul(query, keys, transpose_b=True)  # (B, H, T, S)
            shares = tf.nn.softmax(tf.where(visible[:, None], scores, tf.cast(_HIDDEN, scores.dtype)))
            mixed = tf.transpose(tf.matmul(shares, values), [0, 2, 1, 3])
            x = block.finish(x, tf.reshape(mixed, [-1, self._width]))
            written.append((keys, values))
        return tf.reshape(self._backbone.layer_norm(x), [rows, count, self._width]), written

    def _split(self, part: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """(B * T, D) to (B, H, T, D / H)."""
        return tf.transpose(tf.reshape(part, [rows, count, self._heads, self._width // self._heads]), [0, 2, 1, 3])

    def _put(self, cache: tf.Tensor, new: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """Writes (B, H, T, D / H) into (B, H, S, D / H) at a slot, in place where nobody else holds the cache."""
        if self._xla:
            return dynamic_update_slice(cache, new, [0, 0, slot, 0])
        # The operation above needs XLA, which not every server has.
        rows, slots, count = tf.shape(cache)[0] * self._heads, tf.shape(cache)[2], tf.shape(new)[2]
        places = tf.reshape(tf.range(rows)[:, None] * slots + slot + tf.range(count), [-1, 1])
        width = self._width // self._heads
        flat = tf.tensor_scatter_nd_update(tf.reshape(cache, [-1, width]), places, tf.reshape(new, [-1, width]))
        return tf.reshape(flat, [-1, self._heads, slots, width])


class Gpt2Block:
    """One layer of GPT-2 around its attention. The only place that names the private parts of KerasHub's decoder layer."""

    def __init__(self, layer: keras_hub.layers.TransformerDecoder, width: int, dtype: tf.DType):
        attention, inner = layer._self_attention_layer, layer._feedforward_intermediate_dense
        self._norm, self._second_norm, self._activation = layer._self_attention_layer_norm, layer._feedforward_layer_norm, inner.activation
        three = [_matrix(each, width, dtype) for each in (attention._query_dense, attention._key_dense, attention._value_dense)]
        # One product of three is less waiting than three.
        self._three = tf.concat([kernel for kernel, _ in three], axis=1), tf.concat([bias for _, bias in three], axis=0)
        self._output, self._inner = _matrix(attention._output_dense, width, dtype), _matrix(inner, width, dtype)
        self._outer = _matrix(layer._feedforward_output_dense, inner.kernel.shape[-1], dtype)
        self._scale = (width // attention.num_heads) ** -0.5

    def attend(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns query, key and value, each (B * T, D)."""
        query, key, value = tf.split(_product(self._norm(x), self._three), 3, axis=-1)
        return query * self._scale, key, value

    def finish(self, x: tf.Tensor, mixed: tf.Tensor) -> tf.Tensor:
        """Returns what the layer gives for its input and the mixed values, both (B * T, D)."""
        x += _product(mixed, self._output)
        inner = self._activation(_product(self._second_norm(x), self._inner))
        return x + _product(inner, self._outer)


def _matrix(layer: keras.layers.Layer, rows: int, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    # `kernel` has what LoRA adds in it.
    kernel, bias = tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias)
    return tf.cast(tf.reshape(kernel, [rows, -1]), dtype), tf.cast(tf.reshape(bias, [-1]), dtype)


def _product(x: tf.Tensor, matrix: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    return tf.matmul(x, matrix[0]) + matrix[1]


class CachedForward:
    """Any KerasHub model whose `call_with_cache` keeps keys and values by position."""

    right_aligned = False

    def __init__(self, model: keras_hub.models.CausalLM):
        self._model = model

    def fill(self, tokens: tf.Tensor, pad: tf.Tensor, slots: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """See `Forward.fill`. Each family has its own form of cache, so all slots are filled, to be written over."""
        whole = tf.pad(tokens, [[0, 0], [0, slots - tf.shape(tokens)[1]]])
        builder = self._model._build_cache
        others = {name: None for name in inspect.signature(builder).parameters if name != "token_ids"}
        hidden, cache = builder(whole, **others)
        return hidden[:, : tf.shape(tokens)[1]], cache

    def step(self, tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor, cache: Cache) -> Stepped:
        """See `Forward.step`."""
        logits, hidden, cache = self._model.call_with_cache(tf.gather(tokens, slot, axis=1)[:, None], cache, slot)
        return tf.cast(logits[:, 0], tf.float32), hidden[:, 0], cache


class WholeForward:
    """A model without a cache of that kind: slow, and right."""

    right_aligned = False

    def __init__(self, model: keras_hub.models.CausalLM):
        self._model = model

    def fill(self, tokens: tf.Tensor, pad: tf.Tensor, slots: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """See `Forward.fill`."""
        return self._model.backbone(_features(tokens, tf.ones_like(tokens)), training=False), ()

    def step(self, tokens: tf.Tensor, slot: tf.Tensor, pad: tf.Tensor, cache: Cache) -> Stepped:
        """See `Forward.step`."""
        before = tf.cast(tf.range(tf.shape(tokens)[1]) <= slot, tf.int32)
        features = _features(tokens * before, tf.broadcast_to(before, tf.shape(tokens)))
        logits, hidden = self._model(features, training=False), self._model.backbone(features, training=False)
        return tf.cast(tf.gather(logits, slot, axis=1), tf.float32), tf.gather(hidden, slot, axis=1), cache


def _features(tokens: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"token_ids": tokens, "padding_mask": mask}
