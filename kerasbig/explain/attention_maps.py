"""Attention rollout: where the answer's token looked, through all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasbig.explain.bert_layers import encode, encode_image
from kerasbig.explain.explanation import Explanation
from kerasbig.explain.paths import pieces_of_units
from kerasbig.explain.reading import reader_of
from kerasbig.explain.regions import ImageCase
from kerasbig.explain.scores import Scores
from kerasbig.explain.subjects import Subject, find_vit, image_converter, prepare, subject
from kerasbig.explain.words import TextCase


def attention(
    model: Any,
    example: Any,
    *,
    target: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    truncate: bool = False,
    regions: int = 50,
    baseline: Any = None,
    progress: bool = True,
) -> Explanation:
    """Shows what the first token of a BERT, or the class token of a ViT (the mean of its patches, where it has none), attends to.

    It says where the model looked, not what spoke for which class: the words that decide may get little of it. Compare with the
    other methods, and see `kerasbig.explain.faithfulness`.

    Args:
        model: A KerasHub BERT classifier or regression, or a Keras model with a `ViTBackbone`.
        example: A text, or an image (H, W, C) in the units that the model takes, or the path of one.
        target: Has to be None: attention knows no classes.
        class_names: Names of the classes, where the model does not know them.
        truncate: Whether a text beyond the model's length is cut; otherwise that is an error.
        regions: About how many superpixels an image is cut into, to rank them.
        baseline: As for the other methods; only kept.
        progress: Taken for the sake of the other methods; this one is one call.

    Returns:
        An `Explanation` whose one entry "attention" is never negative. What goes to [CLS], [SEP] or the class token is left out,
        and its share stands in `checks["special_tokens"]`; the rest sums to 1.

    Raises:
        TypeError: If the example is not of the model's kind, or the model is a generator.
        ValueError: If the example is empty, blank or too long, a class is named, or the method does not fit the model.

    Example:
        >>> import kerasbig as kb
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"] * 2, 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> float(round(kb.explain.attention(model, "a fine film").units().sum(), 6))
        1.0

    Source: Abnar and Zuidema, 2020, "Quantifying attention flow in transformers", arXiv:2005.00928, section 3.
    """
    of = subject(model, class_names)
    if target is not None:
        raise ValueError(
            f"Expected no class: attention is the same for all. Received: {target!r}. These know classes: {_others(of, example)}."
        )
    case = prepare(of, example, "attention", regions=regions, baseline=baseline, truncate=truncate)
    whole = case.keep(np.ones(case.count, bool))
    scores = Scores(of)
    names, before = scores.names(whole), scores([whole])[0]
    values, special = _of_text(of.model, case) if isinstance(case, TextCase) else _of_image(of.model, case)
    return Explanation(
        kind="text" if isinstance(case, TextCase) else "image",
        method="attention",
        case=case,
        attributions={"attention": values},
        base_value={},
        scores=dict(zip(names, before.tolist(), strict=True)),
        settings={"rule": "rollout", "units": case.count},
        checks={"special_tokens": special},
    )


def rollout(attentions: Sequence[np.ndarray]) -> np.ndarray:
    """Multiplies the attention of all layers, each averaged over its heads and with half of it staying where it is.

    Args:
        attentions: For each layer float (N, T, T): how much each token (row) attends to each, by head.

    Returns:
        float64 (T, T): how much of each token (column) has come into each (row); rows sum to 1.

    Example:
        >>> rollout([np.array([[[0.0, 1.0], [1.0, 0.0]]])]).tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Source: Abnar and Zuidema, 2020, arXiv:2005.00928, section 3.
    """
    flow = np.eye(attentions[0].shape[-1])
    for layer in attentions:
        mixed = 0.5 * np.asarray(layer, "float64").mean(axis=0) + 0.5 * np.eye(layer.shape[-1])
        flow = mixed / mixed.sum(axis=1, keepdims=True) @ flow
    return flow


def _of_text(model: Any, case: TextCase) -> tuple[np.ndarray, float]:
    token_ids = keras.ops.convert_to_tensor(reader_of(model).tokens([case.text]).token_ids[None])
    _, attentions = encode(model.backbone, model.backbone.token_embedding(token_ids))
    first = rollout([_numpy(layer)[0] for layer in attentions])[model.backbone.cls_token_index]  # (T,)
    values = pieces_of_units(model, case) @ first
    return values / values.sum(), float(1 - values.sum())


def _of_image(model: Any, case: ImageCase) -> tuple[np.ndarray, float]:
    found: Any = find_vit(model)
    backbone, before = found
    images, converter = keras.ops.convert_to_tensor(case.image[None]), image_converter(model)
    images = images if converter is None else converter(images)
    for layer in before:
        images = layer(images)
    _, attentions = encode_image(backbone, images)
    flow = rollout([_numpy(layer)[0] for layer in attentions])  # (T, T)
    special = int(backbone.use_class_token)
    # Without a class token the answer comes from the mean of all patches.
    looked = flow[0] if special else flow.mean(axis=0)
    sizes = [size // patch for size, patch in zip(backbone.image_shape[:2], backbone.patch_size, strict=True)]
    # The nearest patch of each pixel of the image as it was given.
    rows, columns = (np.arange(got) * count // got for got, count in zip(case.image.shape[:2], sizes, strict=True))
    values = looked[special:].reshape(sizes)[np.ix_(rows, columns)]
    return values / values.sum(), float(looked[:special].sum())


def _others(of: Subject, example: Any) -> str:
    return ", ".join(name for name in of.methods("text" if isinstance(example, str) else "image") if name != "attention")


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")
