"""Exported files back from the disk, whatever their kind and format."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kerasbig.export.kinds import KINDS, Kind, kind_called
from kerasbig.export.manifests import (
    CLASSES_FILE,
    MANIFEST_FILE,
    SINGLE_FILES,
    TASK_FILE,
    check_files,
    files_of,
    read_json,
    read_manifest,
)
from kerasbig.export.predictors import require_onnx_file

if TYPE_CHECKING:
    from kerasbig.export.generator_predictors import Generator
    from kerasbig.export.image_predictors import ImagePredictor
    from kerasbig.export.predictors import Predictor


def load(
    path: str | os.PathLike[str], format: str | None = None, *, version: int | None = None, verify: bool = True
) -> Predictor | Generator | ImagePredictor:
    """Loads an exported model.

    A SavedModel is code that TensorFlow runs: load only those you trust. HDF5 runs nothing; LiteRT and ONNX run their own
    operations on a file that is not checked beyond its hash.

    Args:
        path: A Bundle; or a version folder, `model.weights.h5`, `model.tflite` or `model.onnx` in one.
        format: "saved_model", "hdf5", "litert" or "onnx". By default the first of saved_model, litert, hdf5, onnx that is there.
        version: The SavedModel's version. The latest if None.
        verify: Whether the files are compared with the manifest's SHA-256 first.

    Returns:
        A `Predictor` of that format; of a text generator a `Generator`, of an image model an `ImagePredictor`.

    Raises:
        FileNotFoundError: If the file or format is missing.
        ValueError: If a file was altered since the export, or `format` is unknown.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> vocabulary = kb.text.learn_wordpiece(["a fine film"], 60)
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=vocabulary, sequence_length=16)
        >>> predictor = load(kb.export.litert(model, tempfile.mkdtemp() + "/sentiment"))
        >>> predictor.format, predictor.logits(["a film", "fine"]).shape
        ('litert', (2, 2))
    """
    folder, format, version = _located(Path(path), format, version)
    if not (folder / MANIFEST_FILE).is_file():
        return _opened(None, folder, format, version)
    manifest = read_manifest(folder)
    present = manifest["formats"]
    if format is None:
        format = next((name for name in ("saved_model", "litert", "hdf5", "onnx") if name in present), "saved_model")
    if format not in present or (version is not None and str(version) not in manifest["saved_model_versions"]):
        what = format if version is None else f"version {version} of saved_model"
        raise FileNotFoundError(f"Expected {what} in {str(folder)!r}. It has: {', '.join(present)}. Add it with kb.export.bundle.")
    if format == "saved_model":
        version = int(present[format]["version"]) if version is None else version
    if verify:
        inner = str(version) if format == "saved_model" else None
        check_files(folder, files_of(manifest, format, version), inner)
        if format != "saved_model" and CLASSES_FILE in manifest["files"]:
            check_files(folder, {CLASSES_FILE: manifest["files"][CLASSES_FILE]})
    return _opened(str(manifest["task"]), folder, format, version)


def _located(path: Path, format: str | None, version: int | None) -> tuple[Path, str | None, int | None]:
    """Finds the folder of what `path` names."""
    if format is not None and format not in ("saved_model", *SINGLE_FILES):
        known = ("saved_model", *SINGLE_FILES)
        close = difflib.get_close_matches(format, known, 1)
        raise ValueError(
            f"Expected format out of {', '.join(known)}. Received: {format!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"Expected a Bundle or a file in one. Received: {str(path)!r}, which is not there. Write one with kb.export.bundle."
        )
    if path.is_file():
        named = {".h5": "hdf5", ".tflite": "litert", ".onnx": "onnx"}.get(path.suffix)
        if named is None or path.name != SINGLE_FILES[named][0] or format not in (None, named):
            raise ValueError(
                "Expected model.weights.h5, model.tflite or model.onnx, or a Bundle's folder. "
                f"Received: {str(path)!r} as format={format!r}."
            )
        return path.parent, named, None
    if (path / "saved_model.pb").is_file() and path.name.isdecimal():
        return path.parent, "saved_model", int(path.name)
    return path, format, version


def _opened(task: str | None, folder: Path, format: str | None, version: int | None) -> Predictor | Generator | ImagePredictor:
    if format is None or (format == "saved_model" and version is None):
        raise FileNotFoundError(
            f"Expected a Bundle, a folder with {MANIFEST_FILE}. Received: {str(folder)!r}. Write one with kb.export.bundle."
        )
    place = folder / str(version) if format == "saved_model" else folder
    kind = kind_called(task) if task else _kind_by_itself(place, format)
    opened: Predictor | Generator | ImagePredictor = kind.predictor(format)(place)
    return opened


def _kind_by_itself(place: Path, format: str) -> Kind:
    """Returns the kind of files that have no manifest beside them."""
    if format == "saved_model":
        return kind_called(str(read_json(place / "assets.extra" / TASK_FILE)["task"]))
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(require_onnx_file(place)), providers=["CPUExecutionProvider"])
        return kind_called(session.get_modelmeta().custom_metadata_map.get("task", "none"))
    file = next((place / name for name in SINGLE_FILES[format][1:] if (place / name).is_file()), place / SINGLE_FILES[format][1])
    content = read_json(file)
    # Of images, LiteRT's own file says it, and `model.json` beside what Keras reads.
    task = content.get("images", content).get("task")
    for kind in KINDS:
        if task == kind.task or content.get("class_name") in kind.parts or content.get("model", {}).get("type", "") == kind.tokenizer:
            return kind
    raise ValueError(f"Expected {str(file)!r} to be of {' or '.join(kind.task for kind in KINDS)}. It is altered: export the Bundle again.")
