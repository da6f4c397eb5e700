"""Finding a preset: a sample's name, a local folder of KerasHub's or Hugging Face's form, or a KerasHub name."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

import keras_hub

from kerasbig import data

# Each form of folder: the files that must be there, with the alternatives for one.
KERAS_FILES = (
    ("config.json",),
    ("model.weights.h5", "model.weights.json"),
    ("tokenizer.json",),
    ("assets/tokenizer/vocabulary.txt",),
)
HUGGING_FACE_FILES = (
    ("config.json",),
    ("model.safetensors", "model.safetensors.index.json"),
    ("vocab.txt",),
    ("tokenizer_config.json",),
)


def resolve_bert_preset(preset: str | os.PathLike[str]) -> str:
    """Checks a preset and returns what KerasHub's `from_preset` takes.

    Args:
        preset: A sample preset (`minilm-l6`), a local folder (saved by KerasHub, or a Hugging Face BERT folder), a
            KerasHub name such as `bert_tiny_en_uncased`, or an address with a scheme such as `hf://` or `kaggle://`.

    Returns:
        A folder's path, a KerasHub name or an address.

    Raises:
        FileNotFoundError: If a folder lacks a file that its form needs.
        ValueError: If the folder is no BERT, or nothing of that name is known.

    Example:
        >>> resolve_bert_preset("bert_tiny_en_uncased")
        'bert_tiny_en_uncased'
    """
    name = os.fspath(preset)
    known_samples = [sample.name for sample in data.samples() if sample.kind == "preset"]
    if name in known_samples:
        return str(data.fetch(name))
    if os.path.isdir(name):
        _check_folder(Path(name))
        return name
    if "://" in name or name in keras_hub.models.BertBackbone.presets:
        return name
    known = [*known_samples, *keras_hub.models.BertBackbone.presets]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known names: {', '.join(sorted(known))}."
    raise ValueError(f"Expected preset to be a folder or a known BERT preset. Received: preset={name!r}, which is neither. {hint}")


def is_hugging_face(folder: str) -> bool:
    """Tells whether a preset is a local Hugging Face folder rather than a KerasHub one.

    Example:
        >>> is_hugging_face("bert_tiny_en_uncased")
        False
    """
    return os.path.isdir(folder) and "model_type" in json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


def _check_folder(folder: Path) -> None:
    """Raises if a local preset folder lacks a file or is not a BERT."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"Expected the preset folder {str(folder)!r} to hold config.json, but it does not. Name a KerasHub or Hugging Face folder."
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {str(config_file)!r} to be JSON. Received: {error}. Fetch the preset again.") from None
    kind = config.get("model_type", config.get("registered_name", "")) if isinstance(config, dict) else ""
    if kind not in ("bert", "keras_hub>BertBackbone"):
        raise ValueError(f"Expected a BERT preset in {str(folder)!r}. Received one of kind {kind!r} in config.json. Name a BERT folder.")
    needed = HUGGING_FACE_FILES if kind == "bert" else KERAS_FILES
    missing = [" or ".join(names) for names in needed if not any((folder / name).is_file() for name in names)]
    if missing:
        raise FileNotFoundError(
            f"Expected the preset folder {str(folder)!r} to hold {', '.join(missing)}, which is missing. Copy the whole folder again."
        )
