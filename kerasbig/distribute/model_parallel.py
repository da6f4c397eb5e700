"""Models too large for one device: each device keeps a part of every large weight, on Keras's JAX backend.

TensorFlow has no such thing in Keras 3, where `keras.distribution` does nothing. Train on JAX, save the weights, and build
the same model on TensorFlow to export it: docs/distribute.md.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

BATCH, MODEL = "batch", "model"
# The first pattern that is found in a variable's path names the axis that is cut, so that a device multiplies its part
# of the heads or of the hidden units without asking the others: Shoeybi et al., 2019, arXiv:1909.08053, section 3.
_AXES = (
    (r"(query|key|value)[^/]*/kernel$", 1),  # (D, heads, head size)
    (r"(query|key|value)[^/]*/bias$", 0),  # (heads, head size)
    (r"(attention_output|output_dense|out_proj)[^/]*/kernel$", 0),  # (heads, head size, D) or (F, D)
    (r"(intermediate_dense|dense_1|fc1)[^/]*/kernel$", 1),  # (D, F)
    (r"(intermediate_dense|dense_1|fc1)[^/]*/bias$", 0),  # (F,)
    (r"(dense_2|fc2)[^/]*/kernel$", 0),  # (F, D)
    (r"embeddings?$", 0),  # (V, D)
)
# Smaller weights cost more to send around than to keep everywhere.
_LEAST_SIZE = 1024


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model are.

    Attributes:
        sharded: Paths of the variables that are cut, with the axis.
        replicated: Paths of those that every device has whole.
        bytes_total: Bytes of all weights.
        bytes_a_device: Bytes of the weights on one device.
    """

    sharded: dict[str, int]
    replicated: tuple[str, ...]
    bytes_total: int
    bytes_a_device: int
    coverage: float

    def __str__(self) -> str:
        return (
            f"{len(self.sharded)} variables cut ({self.coverage:.1%} of the bytes), {len(self.replicated)} on every device; "
            f"{self.bytes_a_device:,} of {self.bytes_total:,} bytes a device ({self.bytes_a_device / self.bytes_total:.1%})"
        )


def model_parallel(model: keras.Model | Callable[[], keras.Model], mesh: Any, *, least_coverage: float = 0.8) -> keras.Model:
    """Builds a model whose weights are cut over the devices of a mesh.

    The model compiles, fits, evaluates and predicts as any other, with the same results; batches are split over the
    mesh's "batch" axis, which has to divide each of them: JAX refuses a smaller last one. Where its weights are is printed,
    and kept in `model.placement`. What is made afterwards, such as the optimizer, is placed on the mesh too, until
    `keras.distribution.set_distribution(None)`.

    Args:
        model: A function that builds it, such as `lambda: kb.text.bert_classifier(...)`, or a built model to copy, which
            has to fit on one device.
        mesh: A `keras.distribution.DeviceMesh` with the axes "batch" and "model", or (batch, model) sizes over all devices.
        least_coverage: Least share of the weights' bytes that has to be cut, from 0 to 1.

    Returns:
        The model, not compiled if it was copied.

    Raises:
        RuntimeError: On another backend than JAX.
        ValueError: If the mesh has other axes or more devices than there are, or less than `least_coverage` can be cut.

    Example:
        >>> model_parallel(lambda: None, (1, 1))  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        RuntimeError: Expected Keras on JAX, ...
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"Expected Keras on JAX, whose ModelParallel cuts weights. Received: backend={keras.backend.backend()!r}, where it does "
            "nothing. Set KERAS_BACKEND=jax before Python starts, or use kerasbig.distribute.strategy('mirrored')."
        )
    mesh = _mesh(mesh)
    build = functools.partial(_copy, model) if isinstance(model, keras.Model) else model
    distribution = _Cut(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name=BATCH)
    keras.distribution.set_distribution(distribution)
    built = build()
    placement = _placement(built)
    if placement.coverage < least_coverage:
        largest = ", ".join(sorted(placement.replicated, key=lambda path: -_bytes(built, path))[:3])
        raise ValueError(
            f"Expected at least {least_coverage:.0%} of the bytes to be cut over {dict(zip(mesh.axis_names, mesh.shape, strict=True))}. "
            f"Received: {placement}. The largest that no axis divides: {largest}. Use a smaller model axis, or sizes that it divides."
        )
    built.placement = placement
    print(placement)
    return built


def _mesh(mesh: Any) -> Any:
    if isinstance(mesh, keras.distribution.DeviceMesh):
        if set(mesh.axis_names) != {BATCH, MODEL}:
            raise ValueError(f"Expected a mesh with the axes {BATCH!r} and {MODEL!r}. Received: {tuple(mesh.axis_names)}. Name them so.")
        return mesh
    devices, shape = keras.distribution.list_devices(), tuple(mesh)
    if len(shape) != 2 or math.prod(shape) != len(devices):
        raise ValueError(
            f"Expected a mesh of (batch, model) sizes whose product is the {len(devices)} devices. Received: {shape}. On a CPU, "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of it."
        )
    return keras.distribution.DeviceMesh(shape, (BATCH, MODEL), devices)


class _Cut(keras.distribution.ModelParallel):
    """A layout for every variable, from its path and shape: a map of patterns leaves what it does not name on all devices."""

    def get_variable_layout(self, variable: Any) -> Any:
        """Returns the layout of a variable that is being made; an optimizer's follow their weights'."""
        if getattr(variable, "_layout", None) is not None:
            return variable._layout
        mesh = self.device_mesh
        axis = _axis(variable.path, variable.shape, mesh.shape[mesh.axis_names.index(MODEL)])
        axes = [MODEL if index == axis else None for index in range(len(variable.shape))]
        return keras.distribution.TensorLayout(axes, mesh)


def _axis(path: str, shape: Sequence[int], devices: int) -> int | None:
    """Returns the axis of a variable to cut: the one that its place in the model asks for, or the largest that divides."""
    if math.prod(shape) < _LEAST_SIZE or devices == 1:
        return None
    wanted = next((axis for pattern, axis in _AXES if re.search(pattern, path)), None)
    by_size = sorted(range(len(shape)), key=lambda index: -shape[index])
    order = [*([wanted] if wanted is not None and wanted < len(shape) else []), *by_size]
    return next((axis for axis in order if shape[axis] % devices == 0), None)


def _copy(model: keras.Model) -> keras.Model:
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    if hasattr(model, "class_names"):
        copy.class_names = model.class_names
    return copy


def _placement(model: keras.Model) -> Placement:
    sharded: dict[str, int] = {}
    replicated = []
    total = here = covered = 0
    for variable in model.weights:
        array = variable.value
        part = array.addressable_shards[0].data
        total, here = total + array.nbytes, here + part.nbytes
        if part.shape == array.shape:
            replicated.append(variable.path)
            continue
        covered += array.nbytes
        sharded[variable.path] = next(i for i, size in enumerate(array.shape) if part.shape[i] != size)
    return Placement(sharded, tuple(replicated), total, here, covered / total)


def _bytes(model: keras.Model, path: str) -> int:
    return next(int(variable.value.nbytes) for variable in model.weights if variable.path == path)
