"""The BERT text classifier, from a preset or from scratch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub

from kerasbig.arguments import require_dropout, require_start
from kerasbig.data.presets import hugging_face_type, resolve_bert_preset

# Turc et al., 2019, "Well-read students learn better", arXiv:1908.08962, table 1: layers L, width H; H / 64 heads.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 2, "hidden_dim": 128, "num_heads": 2, "intermediate_dim": 512},
    "mini": {"num_layers": 4, "hidden_dim": 256, "num_heads": 4, "intermediate_dim": 1024},
    "small": {"num_layers": 4, "hidden_dim": 512, "num_heads": 8, "intermediate_dim": 2048},
    "medium": {"num_layers": 8, "hidden_dim": 512, "num_heads": 8, "intermediate_dim": 2048},
    "base": {"num_layers": 12, "hidden_dim": 768, "num_heads": 12, "intermediate_dim": 3072},
}


def bert_classifier(
    classes: Sequence[str] | None,
    *,
    preset: str | os.PathLike[str] | None = None,
    size: str | None = None,
    vocabulary: Sequence[str] | None = None,
    sequence_length: int = 128,
    dropout: float = 0.1,
    dtype: str | None = None,
) -> keras_hub.models.BertTextClassifier:
    """Builds a BERT that classifies texts, or with `classes=None` predicts one number.

    The model comes compiled with AdamW and the loss of its kind; compile it again for your own.

    Args:
        classes: Names of the classes, in the order of the logits; None for regression.
        preset: A pretrained model to start from: the sample `minilm-l6`, a folder saved by KerasHub, a Hugging Face
            BERT folder, or a KerasHub name. Either this, or `size` and `vocabulary`.
        size: "tiny", "mini", "small", "medium" or "base", with new random weights.
        vocabulary: Tokens for a model from scratch, as `learn_wordpiece` returns them.
        sequence_length: Longest text in tokens, [CLS] and [SEP] included; longer ones are cut.
        dropout: Share of activations dropped in training, from 0 to below 1. A preset keeps its own in the encoder
            and takes this in the head.
        dtype: A Keras dtype policy such as "mixed_bfloat16"; Keras's own default if None.

    Returns:
        A `keras_hub.models.BertTextClassifier` with the attribute `class_names`. Input: raw texts, or a dict of int32
        (B, T) `token_ids`, `segment_ids` and `padding_mask`. Output: float logits (B, len(classes)), not normalized,
        or float values (B, 1).

    Raises:
        ValueError: If fewer than two classes are given or one twice; not exactly one of `preset` and `size`; an
            unknown size or preset; a vocabulary missing, without a special token or given beside a preset; or
            `sequence_length` or `dropout` out of range.
        FileNotFoundError: If a preset folder lacks a file.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film", "a dull film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary)
        >>> model.class_names, model.predict(["a fine film"], verbose=0).shape
        (('bad', 'good'), (1, 2))

    Source: Devlin et al., 2019, arXiv:1810.04805; sizes from Turc et al., 2019, arXiv:1908.08962, table 1.
    """
    names = _class_names(classes)
    require_start(preset, size, vocabulary, SIZES, "learn_wordpiece")
    require_dropout(dropout)
    if sequence_length < 3:
        raise ValueError(f"Expected sequence_length of at least 3: [CLS], one token, [SEP]. Received: sequence_length={sequence_length}")
    outputs = 1 if names is None else len(names)
    if vocabulary is None:
        model = _from_preset(os.fspath(preset or ""), outputs, sequence_length, dropout, dtype)
    else:
        model = _from_size(str(size), vocabulary, outputs, sequence_length, dropout, dtype)
    model.class_names = names
    # KerasHub builds it when it is first called; Keras's own `quantize` refuses a model with an unbuilt part.
    model.preprocessor.tokenizer.build(None)
    compile_classifier(model)
    return model


def compile_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles a classifier, or a regression model, with the loss and the metrics of its kind.

    Args:
        model: A model from `bert_classifier`.
        optimizer: Any Keras optimizer; by default AdamW with a learning rate of 5e-5.

    Example:
        >>> import kerasbig as kb, keras
        >>> model = kb.text.bert_classifier(None, size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> compile_classifier(model, keras.optimizers.SGD(0.1))
        >>> type(model.optimizer).__name__
        'SGD'
    """
    optimizer = optimizer or keras.optimizers.AdamW(5e-5, weight_decay=0.01)
    if model.class_names is None:
        model.compile(optimizer=optimizer, loss="mean_squared_error", metrics=[keras.metrics.RootMeanSquaredError(name="rmse")])
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])


def _class_names(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or any(not isinstance(name, str) for name in classes):
        raise ValueError(f"Expected classes to be a list of names, or None for regression. Received: classes={classes!r}")
    names = tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"Expected at least two classes with different names. Received: classes={list(names)}")
    return names


def _from_preset(preset: str, outputs: int, sequence_length: int, dropout: float, dtype: str | None) -> keras_hub.models.BertTextClassifier:
    source = resolve_bert_preset(preset)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    model = keras_hub.models.BertTextClassifier.from_preset(source, num_classes=outputs, dropout=dropout, **options)
    longest = model.backbone.max_sequence_length
    if sequence_length > longest:
        raise ValueError(
            f"Expected sequence_length of at most {longest} for preset {preset!r}. Received: sequence_length={sequence_length}"
        )
    model.preprocessor.sequence_length = sequence_length
    if hugging_face_type(source) is not None:
        tokenizer = json.loads((Path(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
        # KerasHub's converter leaves this out; Hugging Face strips accents wherever it folds case, unless told otherwise.
        strip = tokenizer.get("strip_accents")
        model.preprocessor.tokenizer.strip_accents = tokenizer.get("do_lower_case", True) if strip is None else strip
    return model


def _from_size(
    size: str, vocabulary: Sequence[str], outputs: int, sequence_length: int, dropout: float, dtype: str | None
) -> keras_hub.models.BertTextClassifier:
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if missing:
        raise ValueError(
            f"Expected the vocabulary to hold {', '.join(missing)}. Received {len(vocabulary)} tokens without. Use learn_wordpiece."
        )
    # A vocabulary without a capital letter was learnt on folded text.
    cased = any(token != token.lower() for token in vocabulary if not token.startswith("["))
    tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary=list(vocabulary), lowercase=not cased)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=sequence_length)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary), max_sequence_length=sequence_length, dropout=dropout, dtype=dtype, **SIZES[size]
    )
    return keras_hub.models.BertTextClassifier(backbone, outputs, preprocessor=preprocessor, dropout=dropout)
