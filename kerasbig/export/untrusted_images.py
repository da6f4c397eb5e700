"""Reading an image model's HDF5 and JSON that someone else may have written; see `kerasbig.export.untrusted`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kerasbig.export.manifests import read_json
from kerasbig.export.plain_images import BACKBONES, FACTS
from kerasbig.export.untrusted import MOST_PARAMETERS, objects_of, rebuilt

# All that a plain image model is made of, with where Keras finds it. A Lambda, or any other layer, is not among them.
_LAYERS = (
    "Activation", "Add", "Concatenate", "Conv2D", "Conv2DTranspose", "Dense", "Dropout", "Flatten", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "InputLayer", "LayerNormalization", "MaxPooling2D", "Rescaling", "Reshape", "UnitNormalization",
)  # fmt: skip
_INITIALIZERS = ("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Ones", "RandomNormal", "TruncatedNormal", "Zeros")
_OPERATIONS = {"keras.src.ops.nn": ("Gelu", "Relu"), "keras.src.ops.numpy": ("Flip", "GetItem", "Mean", "Reshape", "Stack")}
_KNOWN = {
    ("keras.src.models.functional", "Functional"),
    ("keras", "DTypePolicy"),
    ("", "__keras_tensor__"),
    ("", "__slice__"),
    *(("keras.layers", name) for name in _LAYERS),
    *(("keras.initializers", name) for name in _INITIALIZERS),
    *((module, name) for module, names in _OPERATIONS.items() for name in names),
}
# What backbones call their sizes.
_WIDTHS, _INNER = ("hidden_dim", "hidden_size"), ("mlp_dim", "intermediate_dim")


def read_plain_model(config_file: Path, weights_file: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Rebuilds a plain image model from its JSON and loads its weights.

    Returns:
        The model, and what `model.json` says of the images.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration names an unknown class or a huge model, or the weights file links elsewhere or
            does not fit the model.
    """
    config, where = read_json(config_file), str(config_file)
    if not isinstance(config, dict) or config.get("class_name") != "Functional" or not isinstance(config.get(FACTS), dict):
        raise ValueError(f"Expected {where!r} to be the configuration of an image model. Export the Bundle again.")
    facts = config.pop(FACTS)
    for part in objects_of(config, where):
        module, name = str(part.get("module", "")), str(part["class_name"])
        if (module, name) not in _KNOWN and not (module.startswith("keras_hub.src.models.") and name in BACKBONES):
            raise ValueError(f"Expected only layers of an image model in {where!r}. Received: {module}.{name}.")
    try:
        parameters = _parameters([part.get("config", {}) for part in objects_of(config, where)])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, StopIteration, ZeroDivisionError) as error:
        raise ValueError(f"Expected {where!r} to have the sizes of an image model. It is altered: export the Bundle again.") from error
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"Expected a model of at most {MOST_PARAMETERS:,} parameters in {where!r}. Received: {parameters:,}.")
    return rebuilt(config, config_file, weights_file), facts


def _parameters(parts: list[Any]) -> int:
    """Returns how many parameters a model has at most, by the sizes of its parts."""
    parts = [part for part in parts if isinstance(part, Mapping)]
    widths = [int(part[name]) for part in parts for name in ("filters", "hidden_dim", "hidden_size", "units") if name in part]
    widest = max(widths, default=1)
    count = 0
    for part in parts:
        if "num_layers" in part:
            width, inner = (int(part[next(name for name in names if name in part)]) for names in (_WIDTHS, _INNER))
            patch = part["patch_size"] if isinstance(part["patch_size"], int) else part["patch_size"][0]
            positions = math.prod(int(side) for side in part["image_shape"][:2]) // int(patch) ** 2
            count += positions * width + int(part["num_layers"]) * (4 * width * width + 2 * width * inner)
        elif "filters" in part:
            count += int(part["filters"]) * widest * math.prod(int(side) for side in part["kernel_size"])
        elif "units" in part:
            count += int(part["units"]) * widest
    return count
