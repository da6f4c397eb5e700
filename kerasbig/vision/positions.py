"""Position embeddings of a ViT at another image size."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

# TensorFlow's exact kernels; the cubic one of `tf.image.resize` is read from a table and errs by a thousandth.
_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


def resized_positions(table: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int], method: str = "bicubic") -> np.ndarray:
    """Interpolates position embeddings to another grid of patches, so that each patch has what was learnt for its place.

    Args:
        table: float (T, D): those of tokens without a place, such as the class token's, then those of grid[0] x grid[1]
            patches, row by row.
        grid: Rows and columns of patches that the table is for.
        new_grid: Rows and columns that it shall be for.
        method: "bicubic" (Keys, 1981, with a = -0.5) or "bilinear". The centres of the outermost patches stay half a
            patch from the edge.

    Returns:
        float32 (T', D), with the same first tokens.

    Raises:
        ValueError: If the table has fewer rows than the grid, or the method is unknown.

    Example:
        >>> resized_positions(np.array([[9.0], [0.0], [4.0]]), (1, 2), (1, 4), "bilinear").ravel().tolist()
        [9.0, 0.0, 1.0, 3.0, 4.0]

    Source: Dosovitskiy et al., 2021, arXiv:2010.11929, section 3.2.
    """
    rows, columns = grid
    extra = len(table) - rows * columns
    if extra < 0:
        raise ValueError(f"Expected at least {rows * columns} rows for a grid of {rows} x {columns} patches. Received: {len(table)}.")
    if method not in _KERNELS:
        raise ValueError(f"Expected method to be one of {', '.join(_KERNELS)}. Received: method={method!r}")
    table = np.asarray(table, "float32")
    if grid == new_grid:
        return table
    places = table[extra:].reshape(1, rows, columns, -1)
    moved = tf.raw_ops.ScaleAndTranslate(
        images=places,
        size=new_grid,
        scale=[new_grid[0] / rows, new_grid[1] / columns],
        translation=[0.0, 0.0],
        kernel_type=_KERNELS[method],
        antialias=False,
    )
    return np.concatenate([table[:extra], moved.numpy().reshape(new_grid[0] * new_grid[1], -1)])


def copy_weights(source: Any, target: Any, grid: tuple[int, int], new_grid: tuple[int, int], method: str = "bicubic") -> None:
    """Copies the weights of a ViT backbone to one for another image size, its position embeddings interpolated.

    Args:
        source: The backbone to copy from.
        target: One of the same configuration but for its `image_shape`.
        grid: Rows and columns of patches of the source.
        new_grid: Those of the target.
        method: As for `resized_positions`.

    Raises:
        ValueError: If another weight differs in shape.
    """
    for own, other in zip(target.weights, source.weights, strict=True):
        value = np.asarray(other.value if hasattr(other, "value") else other)
        if "position_embedding" in own.path and own.shape != other.shape:
            flat = value.reshape(-1, value.shape[-1])
            value = resized_positions(flat, grid, new_grid, method).reshape(own.shape)
        if tuple(own.shape) != value.shape:
            raise ValueError(f"Expected {own.path} of shape {tuple(own.shape)}. Received: {value.shape}. Use a preset of a ViT.")
        own.assign(value)
