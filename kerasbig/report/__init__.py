"""One HTML page a run: what was trained, how it went, where it errs. It opens offline and loads nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerasbig.report.page import overview, write
    from kerasbig.report.summary import Faces, Objects, RunSummary

__all__ = ["Faces", "Objects", "RunSummary", "overview", "write"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "page": ["overview", "write"],
        "summary": ["Faces", "Objects", "RunSummary"],
    },
)
