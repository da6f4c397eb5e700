"""Finding a preset: a sample's name, a local folder of KerasHub's or Hugging Face's form, or a KerasHub name."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub

from kerasbig.data.samples import fetch

# What a folder must hold: each entry one file, with the alternatives for it.
Files = tuple[tuple[str, ...], ...]
KERAS_FILES: Files = (("config.json",), ("model.weights.h5", "model.weights.json"))
HUGGING_FACE_FILES: Files = (("config.json",), ("model.safetensors", "model.safetensors.index.json"))
TOKENIZER_JSON: Files = (("tokenizer.json",),)
TOKENIZER_MODEL: Files = (("tokenizer.model",),)

# What GPT-2 of Hugging Face may be set to, and KerasHub computes whatever the setting says.
GPT2_FORM: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "add_cross_attention": (False,),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "tie_word_embeddings": (True,),
}


@dataclass(frozen=True)
class Family:
    """What a builder takes as its preset.

    Attributes:
        title: What an error calls it.
        known_names: The names that KerasHub fetches by.
        samples: The names of samples that are such a preset.
        hugging_face: Its `model_type`s in Hugging Face's folders, and the files of the tokenizer beside each.
        keras_files: From a `registered_name` in KerasHub's folders to the files beside its weights; None for another kind.
    """

    title: str
    known_names: Callable[[], Set[str]]
    samples: frozenset[str]
    hugging_face: Mapping[str, Files]
    keras_files: Callable[[str], Files | None]


def _bert_files(registered_name: str) -> Files | None:
    return (("tokenizer.json",), ("assets/tokenizer/vocabulary.txt",)) if registered_name == "keras_hub>BertBackbone" else None


def _generator_files(registered_name: str) -> Files | None:
    task = getattr(keras_hub.models, registered_name.removeprefix("keras_hub>").replace("Backbone", "CausalLM"), None)
    is_generator = registered_name.endswith("Backbone") and task is not None and not issubclass(task, keras_hub.models.Seq2SeqLM)
    if registered_name == "keras_hub>GPT2Backbone":
        return (("tokenizer.json",), ("assets/tokenizer/vocabulary.json",), ("assets/tokenizer/merges.txt",))
    return (("tokenizer.json",),) if is_generator else None


BERT = Family(
    "BERT",
    lambda: keras_hub.models.BertBackbone.presets.keys(),
    frozenset({"minilm-l6"}),
    {"bert": (("vocab.txt",), ("tokenizer_config.json",))},
    _bert_files,
)
GENERATOR = Family(
    "text generator",
    lambda: keras_hub.models.CausalLM.presets.keys() - keras_hub.models.Seq2SeqLM.presets.keys(),
    frozenset(),
    # The decoders of text that KerasHub's converters read, and what each reads its tokenizer from.
    {
        "gpt2": (("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json")),
        "llama": (("tokenizer.json",), ("tokenizer_config.json",)),
        "mistral": (("tekken.json", "tokenizer.model"),),
        "mixtral": TOKENIZER_MODEL,
        "gemma": TOKENIZER_MODEL,
        "gemma2": TOKENIZER_MODEL,
        "gemma3_text": (("tokenizer.model", "tokenizer.json"),),
        **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gpt_oss", "smollm3"), TOKENIZER_JSON),
    },
    _generator_files,
)


def resolve_preset(preset: str | os.PathLike[str], family: Family) -> str:
    """Checks a preset and returns what KerasHub's `from_preset` takes.

    Args:
        preset: A sample preset (`minilm-l6`), a local folder (saved by KerasHub, or a Hugging Face folder), a KerasHub
            name such as `bert_tiny_en_uncased`, or an address with a scheme such as `hf://` or `kaggle://`.
        family: What it must be: `BERT`, `GENERATOR`, or the family of another builder.

    Returns:
        A folder's path, a KerasHub name or an address.

    Raises:
        FileNotFoundError: If a folder lacks a file that its form needs.
        ValueError: If the folder is of another family, or nothing of that name is known.

    Example:
        >>> resolve_preset("bert_tiny_en_uncased", BERT)
        'bert_tiny_en_uncased'
    """
    name = os.fspath(preset)
    if name in family.samples:
        return str(fetch(name))
    if os.path.isdir(name):
        _check_folder(Path(name), family)
        return name
    known = family.samples | family.known_names()
    if "://" in name or name in known:
        return name
    close = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known names: {', '.join(sorted(known)[:20])}."
    raise ValueError(
        f"Expected preset to be a folder or a known {family.title} preset. Received: preset={name!r}, which is neither. {hint}"
    )


def resolve_bert_preset(preset: str | os.PathLike[str]) -> str:
    """Checks a BERT preset and returns what KerasHub's `from_preset` takes, as `resolve_preset` does.

    Example:
        >>> resolve_bert_preset("bert_tiny_en_uncased")
        'bert_tiny_en_uncased'
    """
    return resolve_preset(preset, BERT)


def hugging_face_type(preset: str) -> str | None:
    """Returns the `model_type` of a local Hugging Face folder; None for any other preset.

    Example:
        >>> hugging_face_type("bert_tiny_en_uncased") is None
        True
    """
    if not os.path.isdir(preset):
        return None
    kind = json.loads((Path(preset) / "config.json").read_text(encoding="utf-8")).get("model_type")
    return None if kind is None else str(kind)


def _check_folder(folder: Path, family: Family) -> None:
    """Raises if a local preset folder lacks a file or is of another family."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"Expected the preset folder {str(folder)!r} to hold config.json, but it does not. Name a KerasHub or Hugging Face folder."
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {str(config_file)!r} to be JSON. Received: {error}. Fetch the preset again.") from None
    config = config if isinstance(config, dict) else {}
    from_keras = "registered_name" in config
    kind = str(config.get("registered_name" if from_keras else "model_type", ""))
    tokenizer_files = family.keras_files(kind) if from_keras else family.hugging_face.get(kind)
    if tokenizer_files is None:
        raise ValueError(
            f"Expected a {family.title} preset in {str(folder)!r}. Received one of kind {kind!r} in config.json. "
            f"Name a {family.title} folder."
        )
    needed = (KERAS_FILES if from_keras else HUGGING_FACE_FILES) + tokenizer_files
    missing = [" or ".join(names) for names in needed if not any((folder / name).is_file() for name in names)]
    if missing:
        raise FileNotFoundError(
            f"Expected the preset folder {str(folder)!r} to hold {', '.join(missing)}, which is missing. Copy the whole folder again."
        )
    if kind == "gpt2":
        _check_gpt2_form(config_file, config)


def _check_gpt2_form(config_file: Path, config: Mapping[str, Any]) -> None:
    """Raises if KerasHub would compute something else than these weights were trained for."""
    for name, allowed in GPT2_FORM.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"Expected {name} to be {allowed[0]!r} in {str(config_file)!r}: KerasHub's GPT-2 knows no other. "
                f"Received: {name}={config[name]!r}. Use another checkpoint."
            )
    inner = config.get("n_inner")
    if inner not in (None, 4 * config.get("n_embd", 0)):
        raise ValueError(
            f"Expected n_inner to be 4 × n_embd in {str(config_file)!r}: KerasHub's GPT-2 knows no other. Received: n_inner={inner}. "
            "Use another checkpoint."
        )
