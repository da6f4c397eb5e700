"""Models to files that run without KerasBig, each of them run in a fresh process before it counts as done.

Everything loads on first use, since it brings TensorFlow with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.export.bundles import bundle, hdf5, litert, onnx, saved_model
    from kerasbig.export.generator_predictors import Generator, HDF5Generator, SavedModelGenerator
    from kerasbig.export.image_predictors import ImagePredictor
    from kerasbig.export.litert_generator import LiteRTGenerator
    from kerasbig.export.loading import load
    from kerasbig.export.manifests import read_manifest
    from kerasbig.export.parity import ExportError
    from kerasbig.export.predictors import HDF5Predictor, LiteRTPredictor, OnnxPredictor, Predictor, SavedModelPredictor, predictions
    from kerasbig.export.twin import float32_twin

__all__ = [
    "ExportError",
    "Generator",
    "HDF5Generator",
    "HDF5Predictor",
    "ImagePredictor",
    "LiteRTGenerator",
    "LiteRTPredictor",
    "OnnxPredictor",
    "Predictor",
    "SavedModelGenerator",
    "SavedModelPredictor",
    "bundle",
    "float32_twin",
    "hdf5",
    "litert",
    "load",
    "onnx",
    "predictions",
    "read_manifest",
    "saved_model",
]

# No module has the name of a public function: importing it would put the module in the function's place.
_MODULES = {
    "ExportError": "parity",
    "Generator": "generator_predictors",
    "HDF5Generator": "generator_predictors",
    "HDF5Predictor": "predictors",
    "ImagePredictor": "image_predictors",
    "LiteRTGenerator": "litert_generator",
    "LiteRTPredictor": "predictors",
    "OnnxPredictor": "predictors",
    "Predictor": "predictors",
    "SavedModelGenerator": "generator_predictors",
    "SavedModelPredictor": "predictors",
    "bundle": "bundles",
    "float32_twin": "twin",
    "hdf5": "bundles",
    "litert": "bundles",
    "load": "loading",
    "onnx": "bundles",
    "predictions": "predictors",
    "read_manifest": "manifests",
    "saved_model": "bundles",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.export' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
