"""Why did it say that: LIME, SHAP, integrated gradients and attention, and whether they can be believed.

Everything loads on first use. LIME and SHAP need `pip install 'kerasbig[explain]'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention_maps": ["attention", "rollout"],
        "boxes": ["box"],
        "explanation": ["Explanation"],
        "faithful": ["Faithfulness", "faithfulness"],
        "gradients": ["integrated_gradients"],
        "local_models": ["lime"],
        "methods": ["METHODS", "explain"],
        "overviews": ["Overview", "overview"],
        "shapley": ["shap"],
        "subjects": ["Subject", "subject"],
    },
)
