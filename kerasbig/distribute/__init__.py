"""Where a model trains, at which precision, on how many devices and machines, and how a killed training goes on.

Everything loads on first use: starting workers needs no TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adamw": ["AdamW"],
        "agreement": ["chief_first", "is_chief", "wait_for_all", "worker_number"],
        "launching": ["launch"],
        "model_parallel": ["Placement", "model_parallel"],
        "precision": ["Precision", "fastest_precision"],
        "resume": ["Resume"],
        "strategies": ["strategy"],
    },
)
