"""What a Bundle says of itself, and whether its files are still the ones it was written with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from kerasbig.files import sha256

MANIFEST_FILE = "manifest.json"
CLASSES_FILE = "classes.json"
# In a SavedModel's assets.extra: what kind of model it is.
TASK_FILE = "task.json"
FORMAT_VERSION = 1
# The largest, a vocabulary of a million tokens, is below.
_LARGEST_JSON = 64 * 2**20
# The files of the formats that have one place in a Bundle; of a text model's tokenizer and an image model's facts one is there.
SINGLE_FILES = {
    "hdf5": ("model.weights.h5", "model.json"),
    "litert": ("model.tflite", "tokenizer.json", "images.json"),
    "onnx": ("model.onnx",),
}


def read_manifest(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a Bundle's `manifest.json`.

    Args:
        bundle: The Bundle's folder.

    Returns:
        The manifest, with every path checked to stay inside the Bundle.

    Raises:
        FileNotFoundError: If there is no Bundle.
        ValueError: If the manifest is broken, of a newer form, or names a path outside.

    Example:
        >>> read_manifest("/no/such/bundle")
        Traceback (most recent call last):
            ...
        FileNotFoundError: Expected a Bundle, a folder with manifest.json. Received: '/no/such/bundle'. Write one with kb.export.bundle.
    """
    file = Path(bundle) / MANIFEST_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected a Bundle, a folder with {MANIFEST_FILE}. Received: {str(bundle)!r}. Write one with kb.export.bundle."
        )
    manifest = read_json(file)
    try:
        version, formats, files = manifest["format_version"], dict(manifest["formats"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {str(file)!r} to be a Bundle's manifest. It is truncated or altered: export the Bundle again."
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(f"Expected {str(file)!r} to have format_version {FORMAT_VERSION}. Received: {version!r}. Update kerasbig.")
    for path in (*files, *(str(entry.get("path")) for entry in formats.values())):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"Expected the paths in {str(file)!r} to stay inside the Bundle. Received: {path!r}.")
    return dict(manifest)


def read_json(file: Path) -> Any:
    """Reads a JSON file of a sensible size.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is too large or not JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"Expected {file.name} in {str(file.parent)!r}. Export the Bundle again.")
    if file.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"Expected {str(file)!r} to be below {_LARGEST_JSON:,} bytes. Received: {file.stat().st_size:,}.")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {str(file)!r} to be JSON. It is truncated or altered: export the Bundle again.") from error


def files_of(manifest: dict[str, Any], format: str, version: int | None = None) -> dict[str, str]:
    """Returns the files of one format and their SHA-256, from the manifest.

    Args:
        manifest: A Bundle's manifest.
        format: "saved_model", "hdf5", "litert" or "onnx".
        version: The SavedModel's version; the latest if None.
    """
    files: dict[str, str] = manifest["files"]
    if format == "saved_model":
        number = manifest["formats"]["saved_model"]["version"] if version is None else version
        return {path: digest for path, digest in files.items() if path.startswith(f"{number}/")}
    return {path: files[path] for path in SINGLE_FILES[format] if path in files}


def check_files(bundle: Path, expected: dict[str, str], folder: str | None = None) -> None:
    """Compares files with their SHA-256.

    Args:
        bundle: The Bundle's folder.
        expected: Relative path to SHA-256.
        folder: A folder of the Bundle that may hold no other files than these.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file was altered or added.
    """
    if not expected:
        raise ValueError(f"Expected {MANIFEST_FILE} of {str(bundle)!r} to list the format's files. It lists none: export the Bundle again.")
    missing = [path for path in expected if not (bundle / path).is_file()]
    if missing:
        raise FileNotFoundError(f"Expected {missing} in {str(bundle)!r}, as {MANIFEST_FILE} says. Export the Bundle again.")
    present = [path.relative_to(bundle).as_posix() for path in (bundle / folder).rglob("*") if path.is_file()] if folder else []
    altered = [path for path in present if path not in expected]
    altered += [path for path, digest in expected.items() if sha256(bundle / path) != digest]
    if altered:
        raise ValueError(
            f"Expected the files of {str(bundle)!r} to be those {MANIFEST_FILE} lists. Altered or added: {altered}. Export it again."
        )


def version_numbers(bundle: Path) -> list[int]:
    """Returns the SavedModel versions of a Bundle, in order."""
    return sorted(int(child.name) for child in bundle.iterdir() if child.is_dir() and re.fullmatch("[0-9]+", child.name))


def hashes(bundle: Path) -> dict[str, str]:
    """Returns relative path to SHA-256 of every file the Bundle is made of, the manifest itself left out."""
    paths = [path for number in version_numbers(bundle) for path in sorted((bundle / str(number)).rglob("*")) if path.is_file()]
    singles = (CLASSES_FILE, *(name for names in SINGLE_FILES.values() for name in names))
    paths += [bundle / name for name in singles if (bundle / name).is_file()]
    return {path.relative_to(bundle).as_posix(): sha256(path) for path in paths}


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
