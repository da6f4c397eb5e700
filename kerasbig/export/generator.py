"""What the export knows of generators alone: what is demanded of one, and what its files must write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras_hub
import numpy as np
import tensorflow as tf

from kerasbig.data.splitting import mend_splitting
from kerasbig.data.token_text import byte_letters, text_of, token_bytes
from kerasbig.decoding.engine import decoder_of, longest_text, stop_tokens
from kerasbig.decoding.forward import require_generator
from kerasbig.decoding.settings import Settings, prompt_room
from kerasbig.export.generator_files import write_litert, write_saved_model
from kerasbig.export.parity import ExportError, checked_examples, compare_tokens, shortened
from kerasbig.export.to_hdf5 import write_hdf5
from kerasbig.export.twin import require_tensorflow

__all__ = ["about", "checked_examples", "expect", "facts", "require", "write"]

Model: TypeAlias = keras_hub.models.GPT2CausalLM
SCRIPT = Path(__file__).with_name("fresh_check_generator.py")
# Tokens that each file must write after each text.
TOKENS = 8
# Largest difference of a text's log-likelihood, in nats a token; in proportion above 1. Of a 2-layer, 128-wide model with
# large random weights, 11 nats a token: SavedModel and LiteRT in float32 below 1e-6, float16 0.002, int8 weights 0.11.
TOLERANCES = {"saved_model": 1e-4, "hdf5": 1e-4, "litert": 1e-3, "litert-float16": 1e-2, "litert-dynamic": 0.2}
# Where the likeliest token leads by less, rounding may choose the other one.
_CLEAR_LEAD = 1e-3


def require(model: Any, quantize: str | None) -> None:
    """Raises unless a model can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it is no GPT-2 with a byte-level tokenizer.
        ValueError: If its vocabulary lacks a byte, or Keras does not run on TensorFlow.
    """
    require_tensorflow()
    require_generator(model)
    tokenizer = model.preprocessor.tokenizer
    if type(model) is not keras_hub.models.GPT2CausalLM or not isinstance(tokenizer, keras_hub.tokenizers.GPT2Tokenizer):
        raise TypeError(
            f"Expected model to be a keras_hub.models.GPT2CausalLM with its tokenizer, which goes into the exported files. "
            f"Received: {type(model).__name__} with {type(tokenizer).__name__}. Serve other families with Keras itself."
        )
    missing = byte_letters().keys() - tokenizer.vocabulary.keys()
    if missing:
        raise ValueError(
            f"Expected a vocabulary with a token for each byte. Received: one without {len(missing)}, such as {min(missing)!r}. "
            "Learn one with kerasbig.text.learn_bpe."
        )
    # A model read back with KerasHub alone cuts words otherwise than the exported files.
    mend_splitting(tokenizer)


def facts(model: Model) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights."""
    return {"context": longest_text(model), "window": model.preprocessor.sequence_length, **_tokenizer_parts(model)}


def about(model: Model) -> dict[str, Any]:
    """Returns what the manifest says of a model."""
    return {"classes": None, "sequence_length": model.preprocessor.sequence_length}


def write(format: str, model: Model, twin: Model, folder: Path, quantize: str | None) -> None:
    """Writes one format from a model's float32 twin."""
    if format == "saved_model":
        write_saved_model(twin, folder)
    elif format == "hdf5":
        write_hdf5(twin, folder, _tokenizer_parts(twin))
    else:
        write_litert(twin, folder, quantize)


def _tokenizer_parts(model: Model) -> dict[str, Any]:
    """Returns what KerasHub keeps in files of their own."""
    tokenizer = model.preprocessor.tokenizer
    return {"vocabulary": dict(tokenizer.vocabulary), "merges": list(tokenizer.merges)}


@dataclass(frozen=True)
class Written:
    """What a generator answers in this process.

    Attributes:
        texts: The N texts asked.
        token_ids: All tokens of each.
        ids: The tokens that come after each, greedily.
        continued: The same as text.
        leads: By how much the likeliest token leads, at least, in each of these.
        likelihoods: float64 (N,) log-likelihoods of the texts in nats.
    """

    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    ids: Sequence[Sequence[int]]
    continued: Sequence[str]
    leads: Sequence[float]
    likelihoods: np.ndarray
    script: Path = SCRIPT

    def job(self) -> dict[str, Any]:
        """Returns the texts and how many tokens to write."""
        return {"texts": list(self.texts), "max_tokens": TOKENS}

    def measured(self, kind: str, answer: Mapping[str, Any], quantize: str | None) -> dict[str, Any]:
        """Compares the answers of a file with the model's.

        Raises:
            ExportError: If tokens, log-likelihoods or texts differ.
        """
        if "token_ids" in answer:
            compare_tokens(answer["token_ids"], self.texts, self.token_ids)
        key = f"{kind}-{quantize}" if kind == "litert" and quantize else kind
        counts = np.maximum([len(ids) for ids in self.token_ids], 1)
        each = np.abs(self.likelihoods) / counts
        difference = np.abs(np.asarray(answer["log_likelihood"], "float64") - self.likelihoods) / counts
        tolerance = TOLERANCES[key] * np.maximum(1.0, each)
        # NaN is in no order: written as "not within".
        if not np.all(difference <= tolerance):
            worst = int(np.argmax(np.nan_to_num(difference - tolerance, nan=np.inf)))
            raise ExportError(
                f"Expected the exported {kind} to find the model's log-likelihood within {tolerance[worst]:.3g} nats a token. "
                f"Received: {difference[worst]:.2g} for {shortened(self.texts[worst])}. Nothing was written."
            )
        exact = key in ("saved_model", "hdf5", "litert")
        equal = [self._compare_written(kind, received, right, exact=exact) for received, right in self._written(answer)]
        return {
            "max_abs_nats_per_token": float(difference.max()),
            "tolerance": float(tolerance.max()),
            "equal_texts": equal[0],
            "examples": len(self.texts),
        }

    def _written(self, answer: Mapping[str, Any]) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        """Returns each way in which a format wrote, with what is right: all of them must write the same."""
        rights = {"texts": self.continued, "texts_xla": self.continued, "texts_streamed": self.continued, "ids": self.ids}
        return [(answer[name], right) for name, right in rights.items() if name in answer]

    def _compare_written(self, kind: str, received: Sequence[Any], right: Sequence[Any], *, exact: bool) -> int:
        """Returns how many are equal, of as many as were asked; rounded weights may write others."""
        same = [one == other for one, other in zip(received, right, strict=False)]
        for place, equal in enumerate(same):
            if exact and not equal and self.leads[place] > _CLEAR_LEAD:
                raise ExportError(
                    f"Expected the exported {kind} to write {right[place]!r} after {shortened(self.texts[place])}, "
                    f"as the model does. Received: {received[place]!r}. Nothing was written."
                )
        return sum(same)


def expect(model: Model, twin: Model, texts: Sequence[str], formats: Sequence[str], quantize: str | None) -> Mapping[str, Written]:
    """Returns what each format must answer to the texts.

    Raises:
        ExportError: If the model's logits are not finite, or its twin's are others.
    """
    tokenizer = model.preprocessor.tokenizer
    (end,), longest = stop_tokens(tokenizer), longest_text(model)
    token_ids = [[int(token) for token in row] for row in tokenizer.tokenize(list(texts))]
    room = prompt_room(longest, TOKENS)
    prompts = [(ids or [end])[-room:] for ids in token_ids]
    with tf.device("/CPU:0"):
        rows = decoder_of(twin, xla=False).start(prompts, Settings(TOKENS), [0] * len(prompts)).advance()
        logits_of = _whole(twin)
        leads, likelihoods = [], []
        for ids, prompt, row in zip(token_ids, prompts, rows, strict=True):
            after = np.sort(logits_of([*prompt, *row]), axis=-1)[len(prompt) - 1 :][:TOKENS]
            leads.append(float((after[:, -1] - after[:, -2]).min()))
            scored = [end, *ids[:longest]]
            logits = logits_of(scored[:-1] or [end]).astype("float64")[: len(scored) - 1]
            logits -= logits.max(axis=-1, keepdims=True)
            chosen = logits[np.arange(len(logits)), scored[1:]] - np.log(np.exp(logits).sum(axis=-1))
            likelihoods.append(float(chosen.sum()))
        _compare_twin(model, logits_of, prompts)
    if not np.isfinite(likelihoods).all():
        raise ExportError(
            "Expected the model to return finite logits. Received: NaN or infinity; its training has diverged. Nothing was written."
        )
    table = token_bytes(tokenizer)
    continued = [text_of(tokenizer, table, prompt[-1], row) for prompt, row in zip(prompts, rows, strict=True)]
    written = Written(texts, [ids[:longest] for ids in token_ids], rows, continued, leads, np.array(likelihoods))
    return dict.fromkeys(formats, written)


def _whole(model: Model) -> Any:
    """Returns the function from tokens to float32 (T, V), without any cache."""

    @tf.function(input_signature=[tf.TensorSpec([1, None], tf.int32)], autograph=False)
    def logits(ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(model({"token_ids": ids, "padding_mask": tf.ones_like(ids)}, training=False), tf.float32)

    return lambda ids: logits(tf.constant([ids])).numpy()[0]


def _compare_twin(model: Model, logits_of: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Holds a float32 model's own logits against its copy's; one with fake quantizers computes otherwise on purpose."""
    layers = list(model._flatten_layers(include_self=False))
    if any(hasattr(layer, "compression") or layer.dtype_policy.name != "float32" for layer in layers):
        return
    right, copy = _whole(model)(max(prompts, key=len)), logits_of(max(prompts, key=len))
    if not np.allclose(right, copy, rtol=0.02, atol=0.02 * max(1.0, float(np.abs(copy).max()))):
        raise ExportError(
            "Expected the model to be what its configuration says. Received: logits that differ from a model rebuilt from it. "
            "Remove what training added, with kerasbig.compress.strip. Nothing was written."
        )
