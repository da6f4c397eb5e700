"""Where a model trains, at which precision, on how many devices and machines, and how a killed training goes on.

Everything loads on first use: starting workers needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.distribute.adamw import AdamW
    from kerasbig.distribute.agreement import chief_first, is_chief, wait_for_all, worker_number
    from kerasbig.distribute.launching import launch
    from kerasbig.distribute.model_parallel import Placement, model_parallel
    from kerasbig.distribute.precision import Precision, fastest_precision
    from kerasbig.distribute.resume import Resume
    from kerasbig.distribute.strategies import strategy

__all__ = [
    "AdamW",
    "Placement",
    "Precision",
    "Resume",
    "chief_first",
    "fastest_precision",
    "is_chief",
    "launch",
    "model_parallel",
    "strategy",
    "wait_for_all",
    "worker_number",
]

_MODULES = {
    "AdamW": "adamw",
    "Placement": "model_parallel",
    "Precision": "precision",
    "Resume": "resume",
    "chief_first": "agreement",
    "fastest_precision": "precision",
    "is_chief": "agreement",
    "launch": "launching",
    "model_parallel": "model_parallel",
    "strategy": "strategies",
    "wait_for_all": "agreement",
    "worker_number": "agreement",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.distribute' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
