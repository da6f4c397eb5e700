"""The library `shap` without its compiler: the one place that knows names inside of it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

# Loops over some hundred numbers, which Numba compiles in ten seconds of the first call in each process.
COMPILED = {
    "shap.utils._masked_model": ("_build_fixed_multi_output", "_build_fixed_single_output", "_init_masks", "_rec_fill_masks"),
    "shap.explainers._partition": ("lower_credit",),
}


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Lets the small loops of `shap` run as the Python that they are written in; puts the compiled ones back at the end.

    Where a later version of `shap` has other names, they are compiled as before.
    """
    kept = []
    for module in map(importlib.import_module, COMPILED):
        for name in COMPILED[module.__name__]:
            function = getattr(module, name, None)
            plain = getattr(function, "py_func", None)
            if plain is not None:
                kept.append((module, name, function))
                setattr(module, name, plain)
    try:
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)
