"""Smaller and faster models: TF-MOT's methods on Keras 3, and a report that compares the results.

Everything loads on first use, since it brings TensorFlow with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_tfmot": ["ConstantSparsity", "PolynomialDecay"],
        "clustering": ["cluster_weights"],
        "comparison": ["Comparison", "compare"],
        "distillation": ["distill", "smaller_student"],
        "inspection": ["inspect"],
        "pruning": ["Pruning"],
        "quantization": ["calibrate", "quantize_model", "ranges"],
        "reports": ["Report"],
        "stripping": ["strip"],
    },
)
