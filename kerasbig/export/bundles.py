"""The Bundle: one folder with every exported form of a model, whole or not there."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import keras

from kerasbig.export.kept import Kept, carry_over, plan
from kerasbig.export.kinds import Kind, fingerprint, kind_of
from kerasbig.export.manifests import (
    CLASSES_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    SINGLE_FILES,
    TASK_FILE,
    hashes,
    size_of,
)
from kerasbig.export.parity import run_checks
from kerasbig.export.to_onnx import require_onnx
from kerasbig.export.twin import float32_twin
from kerasbig.files import replacing_folder
from kerasbig.remote import require_local

FORMATS = ("saved_model", "hdf5", "litert", "onnx")
# ONNX needs an extra.
DEFAULT_FORMATS = FORMATS[:3]
QUANTIZATIONS = ("dynamic", "int8", "float16")
PACKAGES = ("tensorflow", "tensorflow-text", "keras", "keras-hub", "h5py", "ai-edge-litert", "tokenizers", "numpy", "onnx", "tf2onnx")

Model: TypeAlias = keras.Model


def bundle(
    model: Model,
    path: str | os.PathLike[str],
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    quantize: str | None = "dynamic",
    version: int = 1,
    examples: Sequence[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model in one or more formats, runs each file in a fresh process and only then puts it in place.

    A format or a version may be added to a Bundle of the same model. All of a Bundle's formats are always one model;
    older SavedModel versions may be of older ones, to go back to.

    Args:
        model: A KerasHub BERT classifier, GPT-2 generator or image classifier, or a detector of
            `kerasbig.vision.vit_detector`, with its preprocessor. In bfloat16 or float16 it is exported in float32.
        path: The Bundle's folder.
        formats: Out of "saved_model", "hdf5", "litert" and, where `pip install 'kerasbig[onnx]'` was run, "onnx".
        quantize: The LiteRT file's numbers: "dynamic" for int8 weights, "int8" for int8 activations too, which takes a
            model from `kerasbig.compress.quantize_model` that is no generator, "float16" for float16 weights, or None for float32.
        version: The SavedModel's version, the name of its folder.
        examples: Texts that each file must answer as the model does, by default some that are hard to tokenize; of an image
            model paths, bytes of files or uint8 (h, w, 3) arrays, by default small pictures of each kind of file.
        metrics: Figures to keep in the manifest, such as the test accuracy.
        overwrite: Whether formats that exist may be replaced. With a different model the formats that are not exported
            again are removed; older SavedModel versions stay if a newer one is written.

    Returns:
        The Bundle's folder.

    Raises:
        TypeError: If `model` is none of these.
        ImportError: If "onnx" is asked for without its extra.
        ValueError: If a format, `quantize`, `version`, `examples` or `metrics` is not valid.
        FileExistsError: If a format or version exists, or belongs to a different model, without `overwrite`; or if the
            folder is not a Bundle.
        ExportError: If a file cannot be written, does not run, or answers differently. Nothing is left of it.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> folder = bundle(model, tempfile.mkdtemp() + "/sentiment", formats=["litert"])
        >>> sorted(file.name for file in folder.iterdir())
        ['classes.json', 'manifest.json', 'model.tflite', 'tokenizer.json']
    """
    formats = _checked_formats(formats)
    _check_options(quantize, version, metrics)
    kind = kind_of(model)
    asked = kind.exporter.checked_examples(examples)
    rounding = quantize if "litert" in formats else None
    if rounding == "int8" and not kind.int8_activations:
        raise ValueError(f"Expected quantize out of dynamic, float16, None for a {kind.task}. Received: 'int8'. Take 'dynamic'.")
    kind.exporter.require(model, rounding)
    missing = [name for name in formats if name not in kind.predictors]
    if missing:
        raise ValueError(f"Expected formats out of {', '.join(kind.predictors)} for a {kind.task}. Received: {missing[0]!r}.")
    if "onnx" in formats:
        require_onnx()
    target = require_local(path)
    mark = fingerprint(model)
    kept = plan(target, formats, version, mark, overwrite)
    twin = float32_twin(model)
    expected = kind.exporter.expect(model, twin, asked, formats, quantize)
    # The rules about what may be replaced were applied above, format by format.
    with replacing_folder(target, overwrite=True) as stage:
        carry_over(target, stage, kept)
        entries = _write(kind, model, twin, stage, formats, version, quantize)
        folders = {name: stage / str(version) if name == "saved_model" else stage for name in formats}
        for name, measured in run_checks(folders, expected, quantize=quantize).items():
            entries[name] |= {"parity": measured, "model_fingerprint": mark}
        _write_manifest(stage, kind, model, mark, entries, kept, metrics)
    return target


def saved_model(
    model: Model,
    path: str | os.PathLike[str],
    *,
    version: int = 1,
    examples: Sequence[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a SavedModel that takes raw texts, or the bytes of images: `bundle` with one format.

    Signatures of a classifier: `serving_default` from string `text` (B,) to `label`, `label_id` and `probabilities`, or
    to `value` for regression; `logits` from `text` to `logits`. Of a generator: `serving_default` from `text` (B,) and
    the scalars `max_tokens`, `temperature` (0 is greedy), `top_k`, `top_p`, `repetition_penalty` and `seed` to the `text`
    that comes after; `generate_xla`, the same compiled by XLA; `score` from `text` to `log_likelihood` and `tokens`. Of
    image models: see docs/export.md.

    Args:
        model: As in `bundle`.
        path: The Bundle's folder; the SavedModel is its sub-folder `version`.
        version: The version for TensorFlow Serving, at least 1.
        examples: As in `bundle`.
        metrics: As in `bundle`.
        overwrite: As in `bundle`.

    Returns:
        The Bundle's folder.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> folder = saved_model(model, tempfile.mkdtemp() + "/sentiment", version=2)
        >>> (folder / "2" / "saved_model.pb").is_file()
        True
    """
    return bundle(model, path, ("saved_model",), version=version, examples=examples, metrics=metrics, overwrite=overwrite)


def hdf5(
    model: Model,
    path: str | os.PathLike[str],
    *,
    examples: Sequence[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes gzip-compressed Keras weights and `model.json`: `bundle` with one format.

    Args:
        model: As in `bundle`.
        path: The Bundle's folder.
        examples: As in `bundle`.
        metrics: As in `bundle`.
        overwrite: As in `bundle`.

    Returns:
        The Bundle's folder.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> folder = hdf5(model, tempfile.mkdtemp() + "/sentiment")
        >>> (folder / "model.weights.h5").is_file()
        True
    """
    return bundle(model, path, ("hdf5",), examples=examples, metrics=metrics, overwrite=overwrite)


def litert(
    model: Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = "dynamic",
    examples: Sequence[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a LiteRT file and its `tokenizer.json` or `images.json`: `bundle` with one format.

    Args:
        model: As in `bundle`.
        path: The Bundle's folder.
        quantize: As in `bundle`.
        examples: As in `bundle`.
        metrics: As in `bundle`.
        overwrite: As in `bundle`.

    Returns:
        The Bundle's folder.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> folder = litert(model, tempfile.mkdtemp() + "/sentiment", quantize="float16")
        >>> kb.export.read_manifest(folder)["formats"]["litert"]["quantize"]
        'float16'
    """
    return bundle(model, path, ("litert",), quantize=quantize, examples=examples, metrics=metrics, overwrite=overwrite)


def onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    examples: Sequence[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes an ONNX file that says in its metadata how texts or images go in: `bundle` with one format.

    Args:
        model: As in `bundle`, but no generator.
        path: The Bundle's folder.
        examples: As in `bundle`.
        metrics: As in `bundle`.
        overwrite: As in `bundle`.

    Returns:
        The Bundle's folder.

    Raises:
        ImportError: Without `pip install 'kerasbig[onnx]'`.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> model = kb.vision.vit_classifier(("cat", "dog"), size="lite-2", image_shape=(16, 16, 3))
        >>> folder = onnx(model, tempfile.mkdtemp() + "/pets")
        >>> (folder / "model.onnx").is_file()
        True
    """
    return bundle(model, path, ("onnx",), examples=examples, metrics=metrics, overwrite=overwrite)


def _checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    for name in names:
        _require_known("formats", name, FORMATS)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected formats to be some of {', '.join(FORMATS)}, each once. Received: formats={list(names)}.")
    return names


def _require_known(parameter: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(str(value), known, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Expected {parameter} out of {', '.join(known)}. Received: {value!r}.{hint}")


def _check_options(quantize: str | None, version: int, metrics: Mapping[str, Any] | None) -> None:
    if quantize is not None:
        _require_known("quantize", quantize, (*QUANTIZATIONS, "None"))
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"Expected version to be a whole number from 1. Received: version={version!r}.")
    try:
        json.dumps(metrics, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected metrics to be names and finite numbers that JSON can hold. Received: {metrics!r} ({error}).") from error


def _write(
    kind: Kind, model: Model, twin: Model, stage: Path, formats: tuple[str, ...], version: int, quantize: str | None
) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for name in formats:
        entry: dict[str, Any] = {"path": SINGLE_FILES[name][0]} if name in SINGLE_FILES else {"path": str(version), "version": version}
        entries[name] = entry | ({"quantize": quantize} if name == "litert" else {})
        kind.exporter.write(name, model, twin, stage if name in SINGLE_FILES else stage / str(version), quantize)
        if name == "saved_model":
            # TF Serving leaves `assets.extra` alone; by this file the folder is known without its Bundle.
            (stage / str(version) / "assets.extra").mkdir(exist_ok=True)
            (stage / str(version) / "assets.extra" / TASK_FILE).write_text(json.dumps({"task": kind.task}), encoding="utf-8")
        written = [stage / file for file in SINGLE_FILES.get(name, (str(version),))]
        entries[name]["bytes"] = sum(size_of(path) for path in written if path.exists())
    return entries


def _write_manifest(
    stage: Path, kind: Kind, model: Model, mark: str, entries: dict[str, dict[str, Any]], kept: Kept, metrics: Mapping[str, Any] | None
) -> None:
    about = kind.exporter.about(model)
    (stage / CLASSES_FILE).write_text(json.dumps(about["classes"], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    versions = dict(kept.versions)
    if "saved_model" in entries:
        versions[str(entries["saved_model"]["version"])] = entries["saved_model"]
    formats = {**kept.formats, **entries}
    if versions:
        formats["saved_model"] = versions[max(versions, key=int)]
    written = {file for name in entries for file in SINGLE_FILES.get(name, ())} | {CLASSES_FILE}
    prefix = f"{entries['saved_model']['path']}/" if "saved_model" in entries else None
    new = {path: digest for path, digest in hashes(stage).items() if path in written or (prefix and path.startswith(prefix))}
    manifest = {
        "kerasbig": _version("kerasbig"),
        "format_version": FORMAT_VERSION,
        "task": kind.task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name.replace("-", "_"): _version(name) for name in PACKAGES},
        **about,
        "model_fingerprint": mark,
        "metrics": dict(metrics) if metrics is not None else kept.metrics or {},
        "formats": {name: formats[name] for name in FORMATS if name in formats},
        "saved_model_versions": {number: versions[number] for number in sorted(versions, key=int)},
        "files": dict(sorted({**kept.files, **new}.items())),
    }
    (stage / MANIFEST_FILE).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
