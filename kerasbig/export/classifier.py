"""What the export knows of classifiers alone: what is demanded of one, and what its files must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import keras_hub
import numpy as np

from kerasbig.export.parity import Expected, ExportError, checked_examples
from kerasbig.export.to_hdf5 import write_hdf5
from kerasbig.export.to_litert import write_litert
from kerasbig.export.to_onnx import write_text_onnx
from kerasbig.export.to_saved_model import write_saved_model
from kerasbig.export.twin import class_names_of, is_quantized, litert_twin, logits_of, require_classifier, tokenized

__all__ = ["about", "checked_examples", "expect", "facts", "require", "write"]

Model: TypeAlias = keras_hub.models.BertTextClassifier
# Between the model and its float32 copy: rounding and no more, even where an accelerator multiplies in TensorFloat-32.
_TWIN_TOLERANCE = 0.02


def require(model: Model, quantize: str | None) -> None:
    """Raises unless a model can be exported with a LiteRT file of a quantization.

    Raises:
        TypeError: If it is no classifier with its preprocessor.
        ValueError: If its outputs or its names do not fit, or int8 is asked for without ranges.
    """
    require_classifier(model)
    if quantize == "int8" and not is_quantized(model):
        raise ValueError(
            "Expected a model with ranges for quantize='int8'. Received: one without. Calibrate it with "
            "kerasbig.compress.quantize_model(model, calibration=batches), or use quantize='dynamic', which needs none."
        )


def facts(model: Model) -> dict[str, Any]:
    """Returns what an answer depends on beside the weights."""
    tokenizer = model.preprocessor.tokenizer
    return {
        "classes": class_names_of(model),
        "sequence_length": model.preprocessor.sequence_length,
        "vocabulary": list(tokenizer.get_vocabulary()),
        "rules": [tokenizer.lowercase, tokenizer.strip_accents, tokenizer.split_on_cjk, tokenizer.special_tokens_in_strings],
    }


def about(model: Model) -> dict[str, Any]:
    """Returns what the manifest says of a model."""
    names = class_names_of(model)
    return {"classes": None if names is None else list(names), "sequence_length": model.preprocessor.sequence_length}


def write(format: str, model: Model, twin: Model, folder: Path, quantize: str | None) -> None:
    """Writes one format from a model or its float32 twin."""
    if format == "saved_model":
        write_saved_model(twin, folder)
    elif format == "hdf5":
        tokenizer = twin.preprocessor.tokenizer
        # KerasHub keeps the vocabulary in a file of its own and forgets `split_on_cjk`.
        write_hdf5(twin, folder, {"vocabulary": list(tokenizer.get_vocabulary()), "split_on_cjk": tokenizer.split_on_cjk})
    elif format == "onnx":
        write_text_onnx(twin, folder)
    else:
        write_litert(model if quantize == "int8" else twin, folder, quantize)


def expect(model: Model, twin: Model, texts: Sequence[str], formats: Sequence[str], quantize: str | None) -> Mapping[str, Expected]:
    """Returns what each format must answer to the texts.

    Raises:
        ExportError: If the model's logits are not finite, or its twin's are others.
    """
    features = tokenized(model, texts)
    logits = logits_of(twin, features)
    if not np.isfinite(logits).all():
        raise ExportError(
            "Expected the model to return finite logits. Received: NaN or infinity; its training has diverged. Nothing was written."
        )
    if not is_quantized(model) and all(layer.dtype_policy.name == "float32" for layer in (model, *model.layers)):
        difference = float(np.abs(logits_of(model, features) - logits).max())
        if not difference <= _TWIN_TOLERANCE * max(1.0, float(np.abs(logits).max())):
            raise ExportError(
                "Expected the model to be what its configuration says. "
                f"Received: logits that differ by {difference:.2g} from a model rebuilt from it. "
                "Remove what training added, with kerasbig.compress.strip. Nothing was written."
            )
    rows = zip(features["token_ids"].numpy(), features["padding_mask"].numpy(), strict=True)
    token_ids = [row[: np.flatnonzero(mask).max(initial=0) + 1].tolist() for row, mask in rows]
    expected = Expected(texts, token_ids, logits, class_names_of(model))
    answers = dict.fromkeys(formats, expected)
    if quantize == "int8" and "litert" in formats:
        answers["litert"] = replace(expected, logits=logits_of(litert_twin(model, int8=True), features))
    return answers
