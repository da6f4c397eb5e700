"""The GPT text generator: GPT-2 from scratch, or any decoder that KerasHub has from a preset."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import keras
import keras_hub
from safetensors import SafetensorError

from kerasbig.arguments import require_dropout, require_start
from kerasbig.data.presets import GENERATOR, hugging_face_type, resolve_preset
from kerasbig.data.splitting import mend_splitting
from kerasbig.text.bert import SIZES
from kerasbig.text.byte_pairs import BytePair, read_tokenizer_json, require_byte_pair

# Radford et al., 2019, "Language models are unsupervised multitask learners", table 2: layers and width; heads of 64 as
# in the released weights, where "base" is called gpt2. Below it the compact sizes of arXiv:1908.08962, table 1.
GPT_SIZES: dict[str, dict[str, int]] = {
    **{name: SIZES[name] for name in ("tiny", "mini", "small", "medium")},
    "base": {"num_layers": 12, "hidden_dim": 768, "num_heads": 12, "intermediate_dim": 3072},
    "gpt2-medium": {"num_layers": 24, "hidden_dim": 1024, "num_heads": 16, "intermediate_dim": 4096},
    "gpt2-large": {"num_layers": 36, "hidden_dim": 1280, "num_heads": 20, "intermediate_dim": 5120},
    "gpt2-xl": {"num_layers": 48, "hidden_dim": 1600, "num_heads": 25, "intermediate_dim": 6400},
}

# Brown et al., 2020, arXiv:2005.14165, table 2.1, the smallest model; Hu et al., 2021, arXiv:2106.09685, table 11.
FROM_SCRATCH_RATE, LORA_RATE, FINE_TUNING_RATE = 6e-4, 2e-4, 5e-5


_EMBEDDING_DEVIATION = 0.02
# Kernels whose products are added to a layer's input.
_ADDED = ("/attention_output/kernel", "/feedforward_output_dense/kernel")


def gpt_generator(
    *,
    preset: str | os.PathLike[str] | None = None,
    size: str | None = None,
    vocabulary: BytePair | None = None,
    sequence_length: int = 256,
    dropout: float = 0.1,
    dtype: str | None = None,
    lora_rank: int | None = None,
) -> keras_hub.models.CausalLM:
    """Builds a GPT that writes text, token by token.

    The model comes compiled with AdamW and cross entropy; compile it again for your own.

    Args:
        preset: A pretrained model to start from: a folder saved by KerasHub, a Hugging Face folder, or a KerasHub name,
            of GPT-2 or another decoder of text that KerasHub has. Either this, or `size` and `vocabulary`.
        size: A key of `GPT_SIZES`, such as "tiny" or "base", with new random weights.
        vocabulary: The tokens for a model from scratch, as `learn_bpe` returns them.
        sequence_length: Tokens in a window of training, and the longest text, prompt included, it is trained to write.
        dropout: Share of activations dropped in training, from 0 to below 1. A preset keeps its own.
        dtype: A Keras dtype policy such as "mixed_bfloat16"; Keras's own default if None.
        lora_rank: Trains, in place of a preset's weights, additions of this rank to its queries and values (Hu et al.,
            2021). They are part of the weights that `save_to_preset` writes.

    Returns:
        A `keras_hub.models.CausalLM`, `GPT2CausalLM` for a size. Input: a dict of int32 (B, T) `token_ids` and
        `padding_mask` (1 = real), or raw texts. Output: float logits (B, T, V) of each next token, not normalized.

    Raises:
        ValueError: If not exactly one of `preset` and `size` is given; the size or preset is unknown, or the preset is
            no generator of text from text; the vocabulary is missing, incomplete, given beside a preset or larger than
            the preset's embedding; or `sequence_length`, `dropout` or `lora_rank` is out of range.
        TypeError: If `vocabulary` is no `BytePair`.
        FileNotFoundError: If a preset folder lacks a file.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_bpe(["a fine film, a dull film"], 300)
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=vocabulary, sequence_length=32)
        >>> model.count_params(), model.output_shape
        (434304, (None, None, 261))

    Source: Radford et al., 2019, "Language models are unsupervised multitask learners".
    """
    require_start(preset, size, vocabulary, GPT_SIZES, "learn_bpe")
    require_dropout(dropout)
    if sequence_length < 2:
        raise ValueError(f"Expected sequence_length of at least 2: a token and the next. Received: sequence_length={sequence_length}")
    if lora_rank is not None and (lora_rank < 1 or preset is None):
        raise ValueError(
            f"Expected lora_rank of at least 1, beside a preset that it freezes. Received: lora_rank={lora_rank}, preset={preset!r}"
        )
    if vocabulary is None:
        model = _from_preset(os.fspath(preset or ""), sequence_length, dtype)
    else:
        model = _from_size(str(size), vocabulary, sequence_length, dropout, dtype)
    rate = FROM_SCRATCH_RATE if preset is None else FINE_TUNING_RATE
    if lora_rank is not None:
        _enable_lora(model, lora_rank)
        rate = LORA_RATE
    model.preprocessor.sequence_length = sequence_length
    # KerasHub builds it when it is first called; Keras's own `quantize` refuses a model with an unbuilt part.
    model.preprocessor.tokenizer.build(None)
    compile_generator(model, keras.optimizers.AdamW(rate, weight_decay=0.01))
    return model


def compile_generator(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles a generator: cross entropy in nats a token, and the share of next tokens guessed right as "accuracy".

    A model read back with KerasHub alone also gets what its files do not hold: its family's way to cut texts into words.

    Args:
        model: A model from `gpt_generator`.
        optimizer: Any Keras optimizer; by default AdamW with a learning rate of 5e-5.

    Example:
        >>> import kerasbig as kb, keras
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> compile_generator(model, keras.optimizers.SGD(0.1))
        >>> type(model.optimizer).__name__
        'SGD'
    """
    model.class_names = None
    mend_splitting(getattr(getattr(model, "preprocessor", None), "tokenizer", None))
    model.compile(
        optimizer=optimizer or keras.optimizers.AdamW(FINE_TUNING_RATE, weight_decay=0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Weighted, so that what fills up a window of the last tokens counts nowhere.
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def _from_preset(preset: str, sequence_length: int, dtype: str | None) -> keras_hub.models.CausalLM:
    source = resolve_preset(preset, GENERATOR)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        if hugging_face_type(source) == "gpt2" and not Path(source, "vocab.json").is_file():
            options["preprocessor"] = _preprocessor_from_json(source)
        model = keras_hub.models.CausalLM.from_preset(source, **options)
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise ValueError(f"Expected preset {preset!r} to load as a text generator. Received: {error}") from error
    inputs = set(model.input) if isinstance(model.input, dict) else set()
    if inputs != {"token_ids", "padding_mask"} or model.preprocessor is None:
        raise ValueError(
            f"Expected preset {preset!r} to write text from text alone. Received: a {type(model).__name__} with the inputs "
            f"{', '.join(sorted(inputs))}. Name a decoder such as gpt2_base_en."
        )
    longest = getattr(model.backbone, "max_sequence_length", None)
    if longest is not None and sequence_length > longest:
        raise ValueError(
            f"Expected sequence_length of at most {longest} for preset {preset!r}. Received: sequence_length={sequence_length}"
        )
    _require_ids_within(model, preset)
    return model


def _preprocessor_from_json(folder: str) -> keras_hub.models.GPT2CausalLMPreprocessor:
    """Reads the tokenizer of a GPT-2 that transformers 5 wrote, whose only file KerasHub does not look for."""
    pairs = read_tokenizer_json(Path(folder, "tokenizer.json"))
    return keras_hub.models.GPT2CausalLMPreprocessor(keras_hub.tokenizers.GPT2Tokenizer(pairs.vocabulary, pairs.merges))


def _require_ids_within(model: keras_hub.models.CausalLM, preset: str) -> None:
    """Raises if the tokenizer gives ids that the embedding has no row for: TensorFlow would read zeros there on a GPU."""
    tokenizer, rows = model.preprocessor.tokenizer, model.backbone.vocabulary_size
    ids = getattr(tokenizer, "vocabulary", None)
    count = max(ids.values()) + 1 if isinstance(ids, dict) else tokenizer.vocabulary_size()
    if count > rows:
        raise ValueError(
            f"Expected token ids below {rows}, the rows of the embedding of preset {preset!r}. Received: a tokenizer with ids up to "
            f"{count - 1}. The tokenizer's files and the weights are not of one model: copy both from the same place."
        )


def _from_size(size: str, vocabulary: BytePair, sequence_length: int, dropout: float, dtype: str | None) -> keras_hub.models.GPT2CausalLM:
    require_byte_pair(vocabulary)
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary.vocabulary, vocabulary.merges)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=sequence_length)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(vocabulary.vocabulary), max_sequence_length=sequence_length, dropout=dropout, dtype=dtype, **GPT_SIZES[size]
    )
    size_new_weights(backbone)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor)


def size_new_weights(backbone: keras_hub.models.GPT2Backbone) -> None:
    """Gives random weights the sizes that GPT-2's began with; KerasHub's, as they come, learn more slowly.

    Embeddings get a deviation of 0.02, of which KerasHub gives those of tokens half, and the two products of each layer that
    are added to its input are divided by the square root of how many such there are.

    Args:
        backbone: A new backbone. On trained weights this would spoil them.

    Example:
        >>> backbone = keras_hub.models.GPT2Backbone(300, 2, 2, 64, 256, max_sequence_length=32)
        >>> size_new_weights(backbone)
        >>> round(float(keras.ops.std(backbone.token_embedding.embeddings)), 3)
        0.02

    Source: Radford et al., 2019, section 2.3.
    """
    table = backbone.token_embedding.embeddings
    table.assign(table * (_EMBEDDING_DEVIATION / keras.ops.std(table)))
    for weight in backbone.weights:
        if weight.path.endswith(_ADDED):
            weight.assign(weight / math.sqrt(2 * backbone.num_layers))


def _enable_lora(model: keras_hub.models.CausalLM, rank: int) -> None:
    model.backbone.enable_lora(rank)
    if not any(getattr(layer, "lora_enabled", False) for layer in model.backbone._flatten_layers()):
        raise ValueError(
            f"Expected a preset whose attention KerasHub's enable_lora finds. Received: lora_rank={rank} and a "
            f"{type(model).__name__}, in which it finds none. Leave lora_rank out."
        )
