"""Smaller and faster models: TF-MOT's methods on Keras 3, and a report that compares the results.

Everything loads on first use, since it brings TensorFlow with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.compress._tfmot import ConstantSparsity, PolynomialDecay
    from kerasbig.compress.clustering import cluster_weights
    from kerasbig.compress.comparison import Comparison, compare
    from kerasbig.compress.distillation import distill, smaller_student
    from kerasbig.compress.inspection import inspect
    from kerasbig.compress.pruning import Pruning
    from kerasbig.compress.quantization import calibrate, quantize_model, ranges
    from kerasbig.compress.reports import Report
    from kerasbig.compress.stripping import strip

__all__ = [
    "Comparison",
    "ConstantSparsity",
    "PolynomialDecay",
    "Pruning",
    "Report",
    "calibrate",
    "cluster_weights",
    "compare",
    "distill",
    "inspect",
    "quantize_model",
    "ranges",
    "smaller_student",
    "strip",
]

_MODULES = {
    "Comparison": "comparison",
    "ConstantSparsity": "_tfmot",
    "PolynomialDecay": "_tfmot",
    "Pruning": "pruning",
    "Report": "reports",
    "calibrate": "quantization",
    "cluster_weights": "clustering",
    "compare": "comparison",
    "distill": "distillation",
    "inspect": "inspection",
    "quantize_model": "quantization",
    "ranges": "quantization",
    "smaller_student": "distillation",
    "strip": "stripping",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.compress' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
