"""Models to files that run without KerasBig, each of them run in a fresh process before it counts as done.

Everything loads on first use, since it brings TensorFlow with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasbig.export.bundles import bundle, hdf5, litert, onnx, saved_model
    from kerasbig.export.generator_predictors import Generator, HDF5Generator, SavedModelGenerator, bits_per_byte
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
    "bits_per_byte",
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
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundles": ["bundle", "hdf5", "litert", "onnx", "saved_model"],
        "generator_predictors": ["Generator", "HDF5Generator", "SavedModelGenerator", "bits_per_byte"],
        "image_predictors": ["ImagePredictor"],
        "litert_generator": ["LiteRTGenerator"],
        "loading": ["load"],
        "manifests": ["read_manifest"],
        "parity": ["ExportError"],
        "predictors": ["HDF5Predictor", "LiteRTPredictor", "OnnxPredictor", "Predictor", "SavedModelPredictor", "predictions"],
        "twin": ["float32_twin"],
    },
)
