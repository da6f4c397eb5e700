"""Raw files to examples, and examples to batches.

Everything loads on first use: naming `batches` imports TensorFlow, the rest does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.data.batching import Padding, batches, predict_logits
    from kerasbig.data.examples import Examples, Splits
    from kerasbig.data.samples import Sample, fetch, samples
    from kerasbig.data.splits import load, read

__all__ = ["Examples", "Padding", "Sample", "Splits", "batches", "fetch", "load", "predict_logits", "read", "samples"]

_MODULES = {
    "Examples": "examples",
    "Padding": "batching",
    "Sample": "samples",
    "Splits": "examples",
    "batches": "batching",
    "fetch": "samples",
    "load": "splits",
    "predict_logits": "batching",
    "read": "splits",
    "samples": "samples",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    # Kept here, since importing `kerasbig.data.samples` would otherwise leave the module under the function's name.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
