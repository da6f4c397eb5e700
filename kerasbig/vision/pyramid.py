"""The maps that a detector looks at, and its head: few plain layers on the last tokens of a ViT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

# So rare is a box at a place before anything is learnt (Lin et al., 2017, arXiv:1708.02002, section 3.3).
PRIOR = 0.01
# Whatever the ViT computes in: distances need the digits, and on a CPU a convolution in bfloat16 takes six times as long.
DTYPE = "float32"


def default_pyramid(image_shape: Sequence[int], patch_size: int) -> tuple[int, ...]:
    """Returns the strides of a detector's levels: from a quarter of a patch, at least 4 pixels, to two patches.

    A level that would have fewer than 8 places to a side is left out, as long as one is left.

    Example:
        >>> default_pyramid((512, 512, 3), 16), default_pyramid((96, 96, 3), 8)
        ((4, 8, 16, 32), (4, 8))
    """
    strides = [patch_size * 2**power // 4 for power in range(4) if (patch_size * 2**power) % 4 == 0]
    fine = [stride for stride in strides if stride >= min(4, patch_size)]
    return tuple(stride for stride in fine if stride * 8 <= min(image_shape[:2])) or (min(fine, default=patch_size),)


def feature_map(features: Any, image_shape: Sequence[int], patch_size: int) -> Any:
    """Lays the tokens of a ViT out as the map they stand for.

    Args:
        features: Keras tensor (B, T, D), whose last tokens are the patches row by row, or (B, h, w, D) already.
        image_shape: (height, width, channels).
        patch_size: Pixels to a side of a patch.

    Returns:
        Keras tensor (B, h, w, D).
    """
    if len(features.shape) == 4:
        return features
    rows, columns = (side // patch_size for side in image_shape[:2])
    patches = features[:, -rows * columns :]  # without the class token
    return keras.layers.Reshape((rows, columns, features.shape[-1]), name="patches")(patches)


def pyramid_maps(images: Any, features: Any, patch_size: int, strides: Sequence[int], width: int) -> list[Any]:
    """Builds a map for each stride out of the one map of a ViT (a simple feature pyramid).

    Finer maps come by transposed convolutions, coarser ones by pooling. A patch of a ViT is coarse for small objects, so
    that to finer maps a few convolutions on the image itself are added, where a stride is a power of 2.

    Args:
        images: Keras tensor (B, H, W, 3).
        features: Keras tensor (B, h, w, D).
        patch_size: The stride of `features`.
        strides: The strides to make, each the patch size times or over a power of 2.
        width: Channels of each map.

    Returns:
        Keras tensors (B, ceil(H / stride), ceil(W / stride), width).

    Source: Li et al., 2022, "Exploring plain vision transformer backbones for object detection", arXiv:2203.16527, section 3.
    """
    details = _details(images, [stride for stride in strides if stride < patch_size], width)
    maps = []
    for stride in strides:
        x, name = features, f"level_{stride}"
        for step in range(round(math.log2(patch_size / stride))):
            up = keras.layers.Conv2DTranspose(width, 2, 2, use_bias=False, dtype=DTYPE, name=f"{name}_up_{step + 1}")
            x = _normalized(up(x), f"{name}_up_{step + 1}")
        if stride > patch_size:
            x = keras.layers.MaxPooling2D(stride // patch_size, padding="same", dtype=DTYPE, name=f"{name}_pool")(x)
        x = keras.layers.Conv2D(width, 1, use_bias=False, dtype=DTYPE, name=f"{name}_lateral")(x)
        if stride in details:
            fine = keras.layers.Conv2D(width, 1, use_bias=False, dtype=DTYPE, name=f"{name}_detail")(details[stride])
            x = keras.layers.Add(dtype=DTYPE, name=f"{name}_sum")([x, fine])
        maps.append(_normalized(x, name))
    return maps


def fcos_head(maps: Sequence[Any], num_classes: int, width: int, depth: int) -> Any:
    """Puts the same head on each map: what is there, and how far its sides are.

    Args:
        maps: Keras tensors (B, h, w, width).
        num_classes: C.
        width: Channels of the head.
        depth: Convolutions before the last one, for classes and for boxes each.

    Returns:
        Keras tensor float32 (B, N, C + 4): logits, then log of the distances in strides; see `kerasbig.decoding.boxes.decode`.
    """
    towers = {
        part: [
            (
                keras.layers.Conv2D(width, 3, padding="same", use_bias=False, dtype=DTYPE, name=f"{part}_{place + 1}"),
                keras.layers.LayerNormalization(epsilon=1e-6, dtype=DTYPE, name=f"{part}_{place + 1}_norm"),
            )
            for place in range(depth)
        ]
        for part in ("classes", "boxes")
    }
    small = keras.initializers.RandomNormal(stddev=0.01)
    prior = keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR))
    last = {
        "classes": keras.layers.Conv2D(
            num_classes, 3, padding="same", kernel_initializer=small, bias_initializer=prior, dtype=DTYPE, name="classes"
        ),
        "boxes": keras.layers.Conv2D(
            4, 3, padding="same", kernel_initializer=small, bias_initializer=keras.initializers.Constant(1.0), dtype=DTYPE, name="boxes"
        ),
    }
    levels = []
    for number, one in enumerate(maps):
        parts = []
        for part, layers in towers.items():
            x = one
            for convolution, norm in layers:
                x = keras.ops.relu(norm(convolution(x)))
            parts.append(last[part](x))
        both = keras.layers.Concatenate(dtype=DTYPE, name=f"both_{number + 1}")(parts)
        levels.append(keras.layers.Reshape((-1, num_classes + 4), dtype=DTYPE, name=f"places_{number + 1}")(both))
    return keras.layers.Concatenate(axis=1, dtype=DTYPE, name="levels")(levels) if len(levels) > 1 else levels[0]


def _details(images: Any, strides: Sequence[int], width: int) -> dict[int, Any]:
    """Returns a map of the image itself for each stride that is a power of 2: its edges, as convolutions see them."""
    wanted = [stride for stride in strides if stride & (stride - 1) == 0]
    found: dict[int, Any] = {}
    x = images
    for halving in range(1, max(wanted, default=1).bit_length()):
        stride = 2**halving
        channels = min(width, 16 * 2 ** (halving - 1))
        convolution = keras.layers.Conv2D(channels, 3, 2, padding="same", use_bias=False, dtype=DTYPE, name=f"detail_{stride}")
        x = _normalized(convolution(x), f"detail_{stride}")
        if stride in wanted:
            found[stride] = x
    return found


def _normalized(x: Any, name: str) -> Any:
    x = keras.layers.LayerNormalization(epsilon=1e-6, dtype=DTYPE, name=f"{name}_norm")(x)
    return keras.ops.gelu(x, approximate=False)
