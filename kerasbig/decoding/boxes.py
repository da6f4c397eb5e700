"""From what a detector gives for each place of its maps to boxes.

Shapes: B images, N places on all levels together, C classes. Boxes are "xyxy" in pixels of the image as the model sees it.
Source: Tian et al., 2019, "FCOS", arXiv:1904.01355.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

# Distances are computed as exp(x) strides; beyond these x nothing is meant.
LOWEST, HIGHEST = -4.0, 6.0


def locations(image_shape: Sequence[int], strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of all levels, row by row, from the first stride to the last.

    Args:
        image_shape: (height, width, channels).
        strides: Pixels between two places of a level.

    Returns:
        float32 (N, 2): x and y of each place; float32 (N,): its stride.

    Example:
        >>> points, sizes = locations((8, 8, 3), (4, 8))
        >>> points.tolist(), sizes.tolist()
        ([[2.0, 2.0], [6.0, 2.0], [2.0, 6.0], [6.0, 6.0], [4.0, 4.0]], [4.0, 4.0, 4.0, 4.0, 8.0])
    """
    points, sizes = [], []
    for stride in strides:
        rows, columns = (math.ceil(side / stride) for side in image_shape[:2])
        x, y = np.meshgrid((np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride)
        points.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        sizes.append(np.full(rows * columns, stride))
    return np.concatenate(points).astype("float32"), np.concatenate(sizes).astype("float32")


def decode(outputs: Any, points: np.ndarray, sizes: np.ndarray) -> tuple[Any, Any]:
    """Splits what a detector gives into logits and boxes.

    Args:
        outputs: float (B, N, C + 4): C logits, then log of the distances to left, top, right and bottom in strides.
        points: float (N, 2), see `locations`.
        sizes: float (N,), the strides.

    Returns:
        float32 (B, N, C) logits and float32 (B, N, 4) boxes.

    Example:
        >>> points, sizes = locations((4, 4, 3), (4,))
        >>> logits, boxes = decode(np.zeros((1, 1, 6), "float32"), points, sizes)
        >>> boxes.numpy().tolist()
        [[[-2.0, -2.0, 6.0, 6.0]]]
    """
    outputs = ops.cast(outputs, "float32")
    points, strides = ops.convert_to_tensor(points), ops.expand_dims(ops.convert_to_tensor(sizes), -1)
    distances = ops.exp(ops.clip(outputs[..., -4:], LOWEST, HIGHEST)) * strides
    return outputs[..., :-4], ops.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
