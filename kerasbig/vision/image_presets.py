"""Presets of image classifiers, and what KerasHub leaves out when it reads one of Hugging Face: epsilon, pixels, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub

from kerasbig.data.presets import Family, Files

# What a ViT of Hugging Face may be set to; KerasHub computes the first whatever the setting says.
VIT_FORM: dict[str, tuple[Any, ...]] = {"hidden_act": ("gelu",), "qkv_bias": (True,), "num_channels": (3,)}
# The plain ViT's own: pixels from -1 to 1 (Dosovitskiy et al., 2021).
PLAIN_MEAN = PLAIN_STD = (0.5, 0.5, 0.5)


def _image_files(registered_name: str) -> Files | None:
    name = registered_name.partition(">")[2].replace("Backbone", "ImageClassifier")
    known = {kind.__name__ for kind in _subclasses(keras_hub.models.ImageClassifier)}
    return () if registered_name.endswith("Backbone") and name in known else None


def _subclasses(kind: type) -> list[type]:
    found: list[type] = []
    children: list[type] = kind.__subclasses__()
    for child in children:
        found += [child, *_subclasses(child)]
    return found


IMAGE_CLASSIFIER = Family(
    "vision",
    lambda: keras_hub.models.ImageClassifier.presets.keys(),
    frozenset(),
    {"vit": (), "deit": ()},
    _image_files,
)


def read_hugging_face_config(folder: str) -> dict[str, Any]:
    """Reads config.json of a Hugging Face ViT and checks that KerasHub computes the same.

    Raises:
        ValueError: If a setting asks for something that KerasHub's ViT does not have.
    """
    file = Path(folder, "config.json")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name, allowed in VIT_FORM.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"Expected {name} to be {allowed[0]!r} in {str(file)!r}: KerasHub's ViT knows no other. Received: {name}={config[name]!r}. "
                "Use another checkpoint."
            )
    return config


def label_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of a checkpoint's classes in the order of its logits.

    Example:
        >>> label_names({"id2label": {"1": "dog", "0": "cat"}})
        ('cat', 'dog')
    """
    names = config.get("id2label", {})
    return tuple(str(names[key]) for key in sorted(names, key=int))


def pixel_scaling(folder: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns scale and offset of each channel, for pixels from 0 to 255.

    Args:
        folder: A Hugging Face folder, whose preprocessor_config.json is read if it is there; None for pixels from -1 to 1.

    Example:
        >>> scale, offset = pixel_scaling(None)
        >>> [round(255 * scale[0] + offset[0], 6), offset[0]]
        [1.0, -1.0]
    """
    file = Path(folder, "preprocessor_config.json") if folder else None
    config = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
    factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    normalize = config.get("do_normalize", True)
    mean = config.get("image_mean", PLAIN_MEAN) if normalize else (0.0, 0.0, 0.0)
    std = config.get("image_std", PLAIN_STD) if normalize else (1.0, 1.0, 1.0)
    return tuple(factor / each for each in std), tuple(-each / wide for each, wide in zip(mean, std, strict=True))
