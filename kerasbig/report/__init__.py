"""One HTML page a run: what was trained, how it went, where it errs. It opens offline and loads nothing from elsewhere."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.report.page import overview, write
    from kerasbig.report.summary import Faces, Objects, RunSummary

__all__ = ["Faces", "Objects", "RunSummary", "overview", "write"]

_MODULES = {"Faces": "summary", "Objects": "summary", "RunSummary": "summary", "overview": "page", "write": "page"}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasbig.report' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
