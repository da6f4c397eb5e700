"""KerasBig: Keras 3 text and vision transformers from raw data to a server.

The sub-packages load on first use, so that `import kerasbig` stays light and loads no TensorFlow.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerasbig import compress, data, distribute, explain, export, report, serve, text, vision

__all__ = ["compress", "data", "distribute", "explain", "export", "report", "serve", "text", "vision"]


def __getattr__(name: str) -> ModuleType | str:
    """Imports a sub-package when it is first named."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        return metadata.version("kerasbig")
    raise AttributeError(f"module 'kerasbig' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
