"""The embedded server: exported SavedModels behind TF Serving's REST and gRPC.

Everything loads on first use; the third parties come with `pip install 'kerasbig[serve]'`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasbig.serve.server import Server, serve, start

__all__ = ["Server", "serve", "start"]

_EXTRA = ("fastapi", "grpc", "grpc_health", "tensorflow_serving", "uvicorn")


def __getattr__(name: str) -> Any:
    """Imports the server when one of its names is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'kerasbig.serve' has no attribute {name!r}")
    # Looked at before TensorFlow, which takes seconds to load.
    for package in _EXTRA:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            message = f"Serving needs the package {error.name!r}, which is not installed. Run: pip install 'kerasbig[serve]'"
            raise ImportError(message, name=error.name) from error
    return getattr(importlib.import_module("kerasbig.serve.server"), name)


def __dir__() -> list[str]:
    return list(__all__)
