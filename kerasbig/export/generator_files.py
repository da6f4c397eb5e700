"""The files of a generator: a SavedModel from text to text, and a LiteRT step with its cache outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.data.word_tokens import hugging_face_encoder
from kerasbig.decoding.engine import longest_text
from kerasbig.decoding.forward import Gpt2Block
from kerasbig.export.generator_graph import GeneratorGraph
from kerasbig.export.parity import ExportError
from kerasbig.export.to_litert import MODEL_FILE, STEPS_AN_OCTAVE, TOKENIZER_FILE, converted, row_exponents


def write_saved_model(model: keras_hub.models.GPT2CausalLM, folder: Path) -> None:
    """Writes a SavedModel with the tokenizer, the keys and values and the choosing of tokens in its graph.

    Signatures: `serving_default`, `generate_xla` and `score`; functions for a server that streams: `stream_begin` and
    `stream_next`, which hand the state on. All share one copy of the weights.

    Args:
        model: A float32 GPT-2 with its preprocessor.
        folder: The version folder to write, which must not exist.

    Raises:
        ExportError: If TensorFlow cannot write it.
    """
    graph = GeneratorGraph(model)
    module = tf.Module()
    module.weights, module.tables = [variable.value for variable in model.variables], graph.tables
    module.stream_begin, module.stream_next = graph.stream()
    module.functions = {"serving_default": graph.generate(xla=False), "generate_xla": graph.generate(xla=True), "score": graph.score()}
    try:
        tf.saved_model.save(module, str(folder), signatures={**module.functions})
    except tf.errors.OpError as error:
        raise ExportError(f"Expected to write a SavedModel to {str(folder)!r}. TensorFlow says: {error.message}") from error


def write_litert(model: keras_hub.models.GPT2CausalLM, folder: Path, quantize: str | None) -> None:
    """Writes `model.tflite` and `tokenizer.json` into a folder; `litert_generator.py` is what runs them.

    Inputs: `tokens` and `positions` int32 (1, T), `mask` float32 (1, 1, T, S + T) that is added to the scores, and for
    each layer `keys_NNN` and `values_NNN` float32 (1, H, S, D / H); T and S are left open. Outputs: logits (1, V) after
    the last token, then the keys and values of the T tokens, in the order of the names of the inputs.

    Args:
        model: A float32 GPT-2 with its preprocessor.
        folder: An existing folder.
        quantize: "dynamic" for int8 weights, "float16" for float16 weights, None for float32.

    Raises:
        ExportError: If the converter fails.
    """
    tokenizer = hugging_face_encoder(model.preprocessor.tokenizer)
    settings = json.loads(tokenizer.to_str())
    # The runner cuts by itself; the context is written where one would look for it.
    settings["truncation"] = {"direction": "Left", "max_length": longest_text(model), "strategy": "LongestFirst", "stride": 0}
    (folder / TOKENIZER_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    (folder / MODEL_FILE).write_bytes(converted(_step(model, int8=quantize == "dynamic"), quantize))


def _step(model: keras_hub.models.GPT2CausalLM, *, int8: bool) -> Any:
    backbone = model.backbone
    heads, width = backbone.num_heads, backbone.hidden_dim
    each = tf.TensorSpec((1, heads, None, width // heads), tf.float32)
    cache = [f"{kind}_{place:03}" for kind in ("keys", "values") for place in range(backbone.num_layers)]
    row = tf.TensorSpec((1, None), tf.int32)
    specs = {"tokens": row, "positions": row, "mask": tf.TensorSpec((1, 1, None, None), tf.float32), **dict.fromkeys(cache, each)}
    table, positions = backbone.token_embedding.embeddings.numpy(), backbone.position_embedding.position_embeddings.numpy()

    def split(part: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(part, [1, -1, heads, width // heads]), [0, 2, 1, 3])

    @tf.function(input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()], autograph=False)
    def step(*inputs: tf.Tensor) -> list[tf.Tensor]:
        given = dict(zip(specs, inputs, strict=True))
        x = _embedded(table, given["tokens"][0], int8=int8) + _embedded(positions, given["positions"][0], int8=int8)
        rows = {}
        for place, layer in enumerate(backbone.transformer_layers):
            block, keys, values = Gpt2Block(layer, width, tf.float32), f"keys_{place:03}", f"values_{place:03}"
            query, rows[keys], rows[values] = (split(part) for part in block.attend(x))
            scores = tf.matmul(query, tf.concat([given[keys], rows[keys]], axis=2), transpose_b=True) + given["mask"]
            mixed = tf.matmul(tf.nn.softmax(scores), tf.concat([given[values], rows[values]], axis=2))
            x = block.finish(x, tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, width]))
        logits = tf.matmul(backbone.layer_norm(x[-1:]), tf.constant(np.ascontiguousarray(table.T)))
        return [logits, *(rows[name] for name in cache)]

    return step


def _embedded(table: np.ndarray, places: tf.Tensor, *, int8: bool) -> tf.Tensor:
    """Returns rows of a table, (T, D); in int8 each row of the table has its own scale, a whole number of eighths of an octave."""
    if not int8:
        return tf.gather(tf.constant(table), places)
    exponents = row_exponents(table)
    codes = np.round(table / np.exp2(exponents[:, None] / STEPS_AN_OCTAVE) * 127).astype("int8")
    # The converter would make int8 of a table of scales, too, with one scale for all of them.
    octaves = tf.cast(tf.gather(tf.constant(exponents), places), tf.float32)
    sizes = tf.exp(float(np.log(2)) / STEPS_AN_OCTAVE * octaves) / 127.0
    return tf.cast(tf.gather(tf.constant(codes), places), tf.float32) * sizes[:, None]
