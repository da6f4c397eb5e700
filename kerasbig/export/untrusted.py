"""Reading HDF5 and JSON that someone else may have written: nothing runs, nothing points elsewhere, nothing is huge."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from kerasbig.export.kinds import KINDS
from kerasbig.export.manifests import read_json
from kerasbig.export.to_hdf5 import expand_weights, is_clustered

MOST_PARAMETERS = 2 * 10**9
# All that the configurations of models that are exported are made of. A Lambda, or any other layer, is not among them.
_KNOWN_CLASSES = {**{part: "keras_hub" for kind in KINDS for part in kind.parts}, "DTypePolicy": "keras"}
_MODELS = tuple(kind.parts[0] for kind in KINDS if kind.parts)


def read_model(config_file: Path, weights_file: Path) -> keras.Model:
    """Rebuilds a model from its JSON and loads its weights.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration names an unknown class or a huge model, or the weights file links elsewhere or
            does not fit the model.
    """
    config = read_json(config_file)
    _check_config(config, str(config_file))
    return rebuilt(config, config_file, weights_file)


def rebuilt(config: Any, config_file: Path, weights_file: Path) -> keras.Model:
    """Builds a model from a configuration that was checked, and loads its weights.

    Raises:
        FileNotFoundError: If the weights are missing.
        ValueError: If Keras cannot build it, or the weights file links elsewhere or does not fit the model.
    """
    if not weights_file.is_file():
        raise FileNotFoundError(f"Expected {weights_file.name} in {str(weights_file.parent)!r}. Export the Bundle again.")
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:
        # Keras raises nearly anything on a configuration that does not fit.
        raise ValueError(f"Expected {str(config_file)!r} to be a model's configuration. Keras says: {_first_line(error)}") from error
    check_weights(weights_file, model.count_params())
    try:
        if is_clustered(weights_file):
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / weights_file.name
                expand_weights(weights_file, plain)
                model.load_weights(plain)
        else:
            model.load_weights(weights_file)
    except Exception as error:
        raise ValueError(
            f"Expected {str(weights_file)!r} to hold the weights of {config_file.name}. Keras says: {_first_line(error)}"
        ) from error
    return model


def check_weights(file: Path, parameters: int) -> None:
    """Checks an HDF5 file without reading its values.

    Args:
        file: A `.weights.h5` file.
        parameters: How many numbers the model has.

    Raises:
        ValueError: If it has a link to elsewhere, a value that is no plain array of numbers, or more numbers than the model.
    """
    try:
        with h5py.File(file, "r") as opened:
            found = sum(_size(name, dataset, file) for name, dataset in _datasets(opened, "", file, 0))
    except OSError as error:
        raise ValueError(f"Expected {str(file)!r} to be an HDF5 file. It is truncated or altered: export the Bundle again.") from error
    # Random states of dropout layers come on top: a few numbers each.
    if found > parameters + 4096:
        raise ValueError(f"Expected {str(file)!r} to hold the model's {parameters:,} numbers. Received: {found:,}.")


def _datasets(group: h5py.Group, prefix: str, file: Path, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
    if depth > 64:
        raise ValueError(f"Expected {str(file)!r} to be nested at most 64 deep. Received: {prefix[:80]!r}, which may hold itself.")
    for name in group:
        path = f"{prefix}/{name}"
        # Asked before it is followed: following is what opens another file.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"Expected {str(file)!r} to hold its own values. Received: a link to elsewhere at {path!r}.")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, path, file, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield path, item


def _size(name: str, dataset: h5py.Dataset, file: Path) -> int:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"Expected {str(file)!r} to hold its own values. Received: values in another file at {name!r}.")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"Expected {str(file)!r} to hold numbers. Received: {dataset.dtype} at {name!r}.")
    # Two indices may share a byte; `expand_weights` holds them against their shape.
    return int(np.prod(dataset.attrs["shape"], dtype="float64")) if "shape" in dataset.attrs else int(dataset.size)


def _check_config(config: Any, where: str) -> None:
    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        raise ValueError(f"Expected {where!r} to be the configuration of a {' or '.join(_MODELS)}. Export the Bundle again.")
    for part in objects_of(config, where):
        package = str(part.get("module", "")).split(".")[0]
        if _KNOWN_CLASSES.get(str(part["class_name"])) != package:
            known = ", ".join(_KNOWN_CLASSES)
            raise ValueError(f"Expected only {known} in {where!r}. Received: {part.get('module')}.{part['class_name']}.")
    try:
        backbone = config["config"]["backbone"]["config"]
        width, inner = int(backbone["hidden_dim"]), int(backbone["intermediate_dim"])
        rows = int(backbone["vocabulary_size"]) + int(backbone["max_sequence_length"]) + int(backbone.get("num_segments", 0))
        parameters = rows * width + int(backbone["num_layers"]) * (4 * width * width + 2 * width * inner)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected {where!r} to have the sizes of a backbone. It is altered: export the Bundle again.") from error
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"Expected a model of at most {MOST_PARAMETERS:,} parameters in {where!r}. Received: {parameters:,}.")


def objects_of(value: Any, where: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yields every serialized object inside a configuration."""
    if depth > 32:
        raise ValueError(f"Expected {where!r} to be nested at most 32 deep.")
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for part in value.values():
            yield from objects_of(part, where, depth + 1)
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, dict | list):
                yield from objects_of(part, where, depth + 1)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
