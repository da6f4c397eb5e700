"""The only file that imports TF-MOT, and takes from it just what runs without Keras 2.

`import tensorflow_model_optimization` sets `TF_USE_LEGACY_KERAS=1` for this process and its children, loads `tf_keras` and
may turn `tf.keras` into it. The pruning mathematics needs none of that: three files of TensorFlow code that take one
function, `assign`, from TF-MOT's compatibility module. They are loaded here as private copies under a stub package, so
that a program that imports TF-MOT itself, before or after, gets TF-MOT whole and untouched.

Source: TensorFlow Model Optimization 0.8.1, `tensorflow_model_optimization/python/core/sparsity/keras`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import tensorflow as tf

PACKAGE = "tensorflow_model_optimization"
SPARSITY = f"{PACKAGE}.python.core.sparsity.keras"
# A test compares these with the installed files, so that an upgrade of TF-MOT is read before it is believed.
FILES_SHA256 = {
    "pruning_impl": "0c90e1474fbd2fa9262ff27dc167c365916a731a97dce73a9de726381abf300e",
    "pruning_schedule": "2f929c727cc03df3cabae67cf80178c65e86d780732293b6fbbe16bcd2e225e8",
    "pruning_utils": "e9ee1d7b13a36673bb9de7016d09de43d8b3bba41e1d89c595a8e79fd2a9b156",
}

_lock = threading.Lock()


def _load() -> dict[str, ModuleType]:
    """Returns private copies of TF-MOT's pruning modules by name."""
    with _lock, _stub_package():
        return {name: importlib.import_module(f"{SPARSITY}.{name}") for name in FILES_SHA256}


@contextlib.contextmanager
def _stub_package() -> Iterator[None]:
    """Puts an empty TF-MOT package into `sys.modules`, and what was there before back at the end."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "Expected the package tensorflow-model-optimization, which kerasbig.compress runs on. It is not installed: "
            "pip install 'tensorflow-model-optimization>=0.8.1'"
        )
    root = ModuleType(PACKAGE)
    root.__path__ = list(spec.submodule_search_locations)
    compat = ModuleType(f"{PACKAGE}.python.core.keras.compat")
    compat.assign = _assign  # type: ignore[attr-defined]
    kept = _take_modules()
    sys.modules[PACKAGE], sys.modules[compat.__name__] = root, compat
    try:
        yield
    finally:
        _take_modules()
        sys.modules.update(kept)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}


def _assign(variable: Any, value: Any, name: str | None = None) -> Any:
    return variable.assign(value)


_modules = _load()

ConstantSparsity = _modules["pruning_schedule"].ConstantSparsity
PolynomialDecay = _modules["pruning_schedule"].PolynomialDecay


class MatrixPruning(_modules["pruning_impl"].Pruning):  # type: ignore[misc]
    """TF-MOT's magnitude pruning of one kernel, on the kernel's (in, out) matrix.

    Args:
        variable: The `tf.Variable` to prune, of any rank.
        matrix_shape: (in, out), the view in which blocks and m:n groups are meant; groups of n run along `in`.
        step: Callable that returns the int32 step as TF-MOT counts it: 1 before the first update of the weights.
        schedule: Callable from a step to (whether to update the mask, sparsity).
        block_size: (height, width) of the blocks that are zeroed together.
        block_pooling: "AVG" or "MAX", how a block's magnitudes become one.
        m_by_n: (m, n): m zeros in each n consecutive weights; None for the schedule's sparsity.
    """

    def __init__(
        self,
        variable: tf.Variable,
        matrix_shape: tuple[int, int],
        *,
        step: Any,
        schedule: Any,
        block_size: tuple[int, int],
        block_pooling: str,
        m_by_n: tuple[int, int] | None,
    ):
        self.variable, self.matrix_shape = variable, matrix_shape
        self.mask = tf.Variable(tf.ones(variable.shape, variable.dtype), trainable=False, name="mask")
        self.threshold = tf.Variable(0.0, trainable=False, dtype=variable.dtype, name="threshold")
        super().__init__(step, [(variable, self.mask, self.threshold)], schedule, block_size, block_pooling, m_by_n)

    def read_zeros(self) -> None:
        """Makes the kernel's own zeros the mask; a kernel of nothing but zeros keeps a mask of ones."""
        kept = tf.cast(tf.not_equal(self.variable, 0), self.variable.dtype)
        self.mask.assign(tf.maximum(kept, 1 - tf.reduce_max(kept)))

    def _validate_block(self) -> None:
        """TF-MOT takes blocks of rank-2 kernels only; the matrix view always has rank 2."""

    def _maybe_update_block_mask(self, weights: Any) -> tuple[Any, Any]:
        threshold, mask = super()._maybe_update_block_mask(tf.reshape(weights, self.matrix_shape))
        return tf.cast(threshold, weights.dtype), tf.cast(tf.reshape(mask, self.mask.shape), weights.dtype)
