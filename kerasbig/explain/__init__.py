"""Why did it say that: LIME, SHAP, integrated gradients and attention, and whether they can be believed.

Everything loads on first use. LIME and SHAP need `pip install 'kerasbig[explain]'`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.explain.attention_maps import attention, rollout
    from kerasbig.explain.boxes import box
    from kerasbig.explain.explanation import Explanation
    from kerasbig.explain.faithful import Faithfulness, faithfulness
    from kerasbig.explain.gradients import integrated_gradients
    from kerasbig.explain.local_models import lime
    from kerasbig.explain.methods import METHODS, explain
    from kerasbig.explain.overviews import Overview, overview
    from kerasbig.explain.shapley import shap
    from kerasbig.explain.subjects import Subject, subject

__all__ = [
    "METHODS",
    "Explanation",
    "Faithfulness",
    "Overview",
    "Subject",
    "attention",
    "box",
    "explain",
    "faithfulness",
    "integrated_gradients",
    "lime",
    "overview",
    "rollout",
    "shap",
    "subject",
]

# No module has the name of a public function: importing it would put the module in the function's place.
_MODULES = {
    "METHODS": "methods",
    "Explanation": "explanation",
    "Faithfulness": "faithful",
    "Overview": "overviews",
    "Subject": "subjects",
    "attention": "attention_maps",
    "box": "boxes",
    "explain": "methods",
    "faithfulness": "faithful",
    "integrated_gradients": "gradients",
    "lime": "local_models",
    "overview": "overviews",
    "rollout": "attention_maps",
    "shap": "shapley",
    "subject": "subjects",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.explain' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
