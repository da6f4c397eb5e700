"""Gzip-compressed Keras weights, and the JSON that Keras rebuilds the model from.

A clustered kernel, of at most 256 values, is stored as the values (`codebook`) and the place of each weight's value in
them (`NAME.indices`), in four bits each where 16 values do. Keras does not find NAME then, and says so:
`expand_weights` makes the file that it reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

# The strongest level gains under 1 % over 6 on BERT weights, at several times the time. Shuffling bytes loses: it takes
# pruned weights' runs of zeros apart (0.42 instead of 0.31 of the raw size at 80 % zeros).
GZIP_LEVEL = 6
_CHUNK_BYTES = 2**20
# Of 590 thousand weights with 16 values from a normal distribution, gzip leaves 0.169 of the floats, 0.134 with a byte an
# index and 0.118 with half a byte; with 80 % zeros 0.082, 0.062 and 0.056 (entropy: 0.117 and 0.045).
_MOST_VALUES, _FEW_VALUES, _LEAST_WEIGHTS = 256, 16, 1024
INDICES = ".indices"
WEIGHTS_FILE = "model.weights.h5"
CONFIG_FILE = "model.json"


def write_hdf5(model: keras.Model, folder: Path, tokenizer_parts: Mapping[str, Any]) -> None:
    """Writes `model.weights.h5` and `model.json` into a folder.

    Keras alone reads them: `keras.models.model_from_json(text)` with keras_hub imported, then `load_weights`; the weights of
    a clustered model after `expand_weights`.

    Args:
        model: A float32 KerasHub task with its preprocessor.
        folder: An existing folder.
        tokenizer_parts: What KerasHub leaves out of the tokenizer's configuration, such as the vocabulary.
    """
    (folder / CONFIG_FILE).write_text(json.dumps(model_config(model, tokenizer_parts), ensure_ascii=False), encoding="utf-8")
    save_weights(model, folder)


def save_weights(model: keras.Model, folder: Path) -> None:
    """Writes `model.weights.h5`, compressed, into a folder."""
    raw = folder / "raw.weights.h5"
    try:
        model.save_weights(raw)
        compress_weights(raw, folder / WEIGHTS_FILE)
    finally:
        raw.unlink(missing_ok=True)


def model_config(model: keras.Model, tokenizer_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's Keras configuration with its vocabulary, without optimizer and loss."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(model)
    config["config"]["preprocessor"]["config"]["tokenizer"]["config"].update(tokenizer_parts)
    for part in (config, config["config"]["backbone"]):
        part.pop("compile_config", None)
        part.pop("build_config", None)
    return config


def compress_weights(source: Path, target: Path) -> None:
    """Copies a Keras weights file with every dataset compressed by gzip or as indices; the values stay bit for bit.

    Args:
        source: A `.weights.h5` file.
        target: The file to write.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with h5py.File(folder / "a.h5", "w") as file:
        ...     file["zeros"] = [0.0] * 100_000
        >>> compress_weights(folder / "a.h5", folder / "b.h5")
        >>> (folder / "b.h5").stat().st_size < 0.1 * (folder / "a.h5").stat().st_size
        True
    """
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        _copy(old, new)


def expand_weights(source: Path, target: Path) -> None:
    """Makes the weights file that Keras reads from one with clustered kernels; any other is copied.

    Args:
        source: A `model.weights.h5` from a Bundle.
        target: The file to write.

    Raises:
        ValueError: If indices or codebook do not fit each other.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with h5py.File(folder / "a.h5", "w") as file:
        ...     file["0"] = np.repeat(np.float32([0.5, -1.0]), 1024)
        >>> compress_weights(folder / "a.h5", folder / "b.h5")
        >>> expand_weights(folder / "b.h5", folder / "c.h5")
        >>> with h5py.File(folder / "b.h5") as small, h5py.File(folder / "c.h5") as whole:
        ...     list(small), whole["0"][1023:1025].tolist()
        (['0.indices'], [0.5, -1.0])
    """
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        _expand(old, new, source)


def is_clustered(file: Path) -> bool:
    """Returns whether a weights file needs `expand_weights`."""
    with h5py.File(file, "r") as opened:
        return opened.visit(lambda name: True if name.endswith(INDICES) else None) is True


def _chunk(item: h5py.Dataset | np.ndarray) -> tuple[int, ...]:
    """Whole rows, about a megabyte at once: h5py's own choice, small squares, compresses 1 % less."""
    row = item.nbytes // item.shape[0]
    return (min(item.shape[0], max(1, _CHUNK_BYTES // row)), *item.shape[1:])


def _copy(old: h5py.Group, new: h5py.Group) -> None:
    for name, value in old.attrs.items():
        new.attrs[name] = value
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name))
            continue
        values = item[()]
        codebook = _codebook(values)
        if codebook is not None:
            values, name = _packed(np.searchsorted(codebook, values.view("uint32")).ravel(), len(codebook)), name + INDICES
        gzip = {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": False}
        options = {**gzip, "chunks": _chunk(values)} if item.size and item.shape else {}
        dataset = new.create_dataset(name, data=values, dtype=values.dtype, **options)
        for key, value in item.attrs.items():
            dataset.attrs[key] = value
        if codebook is not None:
            dataset.attrs["codebook"], dataset.attrs["shape"] = codebook.view("float32"), item.shape


def _codebook(values: np.ndarray) -> np.ndarray | None:
    """Returns the few values of a clustered kernel as sorted bit patterns, so that -0.0 and NaN stay what they are."""
    if values.dtype != np.float32 or values.size < _LEAST_WEIGHTS:
        return None
    bits = values.view("uint32")
    if len(np.unique(bits.ravel()[:4096])) > _MOST_VALUES:
        return None
    found = np.unique(bits)
    return found if len(found) <= min(_MOST_VALUES, values.size // 4) else None


def _packed(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns indices as bytes, two in each where they fit."""
    whole = indices.astype("uint8")
    if count > _FEW_VALUES:
        return whole
    even = np.append(whole, np.uint8(0)) if len(whole) % 2 else whole
    return (even[::2] << 4) | even[1::2]


def _expand(old: h5py.Group, new: h5py.Group, file: Path) -> None:
    for name, value in old.attrs.items():
        new.attrs[name] = value
    for name, item in old.items():
        if isinstance(item, h5py.Group):
            _expand(item, new.create_group(name), file)
        elif name.endswith(INDICES):
            new.create_dataset(name.removesuffix(INDICES), data=_expanded(item, f"{item.name} of {str(file)!r}"))
        else:
            old.copy(item, new, name)


def _expanded(item: h5py.Dataset, where: str) -> np.ndarray:
    codebook, shape = np.asarray(item.attrs.get("codebook", [])), [int(size) for size in item.attrs.get("shape", [])]
    count = int(np.prod(shape, dtype="int64")) if shape else 0
    few = len(codebook) <= _FEW_VALUES
    if (
        codebook.ndim != 1
        or not 0 < len(codebook) <= _MOST_VALUES
        or item.dtype != np.uint8
        or item.size != (-(-count // 2) if few else count)
    ):
        raise ValueError(f"Expected indices with a codebook and a shape that fits at {where}. It is altered: export the Bundle again.")
    indices = item[()].ravel()
    if few:
        indices = np.stack([indices >> 4, indices & 15], axis=1).ravel()[:count]
    if indices.size and int(indices.max()) >= len(codebook):
        raise ValueError(f"Expected indices below {len(codebook)} at {where}. Received: {int(indices.max())}. Export the Bundle again.")
    return codebook.astype("float32")[indices].reshape(shape)
