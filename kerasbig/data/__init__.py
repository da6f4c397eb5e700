"""Raw files to examples, and examples to batches.

Only the table of samples loads at once: naming `batches` imports TensorFlow, the rest does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# At once and light: loaded later, the module would take the place of its function of the same name.
from kerasbig.data.samples import Sample, fetch, samples

if TYPE_CHECKING:
    from kerasbig.data.batching import Padding, batches, predict_logits
    from kerasbig.data.examples import Examples, Splits
    from kerasbig.data.splits import load, read

__all__ = ["Examples", "Padding", "Sample", "Splits", "batches", "fetch", "load", "predict_logits", "read", "samples"]

_MODULES = {
    "Examples": "examples",
    "Padding": "batching",
    "Splits": "examples",
    "batches": "batching",
    "load": "splits",
    "predict_logits": "batching",
    "read": "splits",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
