"""Images cut into what can be covered: superpixels."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# Below, a superpixel is half of the picture; above, hundreds of samples say nothing about each.
FEWEST, MOST = 8, 250


@dataclass(frozen=True, eq=False)
class ImageCase:
    """An image as the regions that an explanation gives credit to.

    Attributes:
        image: float32 (H, W, C), in the units of the model.
        segments: int (H, W): the number of each pixel's region, from 0 to M - 1.
        baseline: float32 (H, W, C): what a covered region shows.
    """

    image: np.ndarray
    segments: np.ndarray
    baseline: np.ndarray

    @property
    def count(self) -> int:
        """The number of regions."""
        return int(self.segments.max()) + 1

    @property
    def points(self) -> np.ndarray:
        """The middle of each region, to group neighbours by: float (M, 2)."""
        rows, columns = np.indices(self.segments.shape)
        sizes = np.bincount(self.segments.ravel())
        middles = [np.bincount(self.segments.ravel(), axis.ravel()) / sizes for axis in (rows, columns)]
        return np.stack(middles, axis=1)

    def keep(self, mask: np.ndarray) -> np.ndarray:
        """Returns the image with only some of its regions, float32 (H, W, C).

        Args:
            mask: bool (M,): the regions that stay.
        """
        return np.where(mask[self.segments][..., None], self.image, self.baseline)


def cut(image: Any, regions: int, baseline: Any = None) -> ImageCase:
    """Cuts an image into superpixels of about equal size.

    Args:
        image: (H, W, C) or (H, W), numbers of any kind.
        regions: About how many superpixels, from 8 to 250.
        baseline: What a covered region shows: an image of the same shape, or a number or (C,) colour. By default the mean
            colour of the image.

    Returns:
        An `ImageCase`. Where SLIC finds too few or too many regions, they are squares.

    Raises:
        TypeError: If it is no image.
        ValueError: If it has another shape, holds NaN, is blank, or `regions` is out of range.

    Example:
        >>> image = np.zeros((32, 32, 3)); image[8:16, 8:16] = 255
        >>> 8 <= cut(image, 20).count <= 80
        True

    Source: Achanta et al., 2012, "SLIC superpixels compared to state-of-the-art superpixel methods".
    """
    pixels = _checked_image(image)
    if not FEWEST <= regions <= MOST:
        raise ValueError(f"Expected regions from {FEWEST} to {MOST}. Received: regions={regions}")
    try:
        colour = pixels.mean(axis=(0, 1)) if baseline is None else np.asarray(baseline, "float32")
        cover = np.ascontiguousarray(np.broadcast_to(colour, pixels.shape), "float32")
    except ValueError as error:
        raise ValueError(f"Expected baseline to be an image of shape {pixels.shape}, or a colour. Received: {error}.") from None
    return ImageCase(pixels, superpixels(pixels, regions), cover)


def superpixels(image: np.ndarray, regions: int) -> np.ndarray:
    """Returns int (H, W): the superpixel of each pixel, numbered from 0 without gaps."""
    slic = require("skimage.segmentation").slic
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low)
    found = slic(scaled, n_segments=regions, compactness=10.0, start_label=0, channel_axis=-1)
    segments = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    if FEWEST <= segments.max() + 1 <= min(MOST, 3 * regions):
        return segments
    return _squares(image.shape[0], image.shape[1], regions)


def require(name: str) -> Any:
    """Imports a package of the extra `explain`.

    Raises:
        ImportError: If it is missing, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Expected the package {name.split('.')[0]!r}, which is not installed ({error}). Run: pip install 'kerasbig[explain]'"
        ) from error


def _squares(height: int, width: int, regions: int) -> np.ndarray:
    """Returns int (H, W): a grid of about so many squares."""
    side = max(1, round(math.sqrt(height * width / regions)))
    rows, columns = np.indices((height, width)) // side
    return rows * (-(-width // side)) + columns


def _checked_image(image: Any) -> np.ndarray:
    try:
        pixels = np.asarray(image, "float32")
    except (TypeError, ValueError):
        raise TypeError(f"Expected an image: numbers of shape (height, width, channels). Received: {type(image).__name__}.") from None
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or min(pixels.shape[:2]) < 8 or pixels.shape[2] > 4:
        raise ValueError(
            "Expected one image of shape (height, width, channels), 8 pixels or more a side and 1 to 4 channels. "
            f"Received the shape {pixels.shape}."
        )
    if not np.isfinite(pixels).all():
        raise ValueError("Expected finite pixels. Received: NaN or infinity among them.")
    if pixels.min() == pixels.max() or (pixels == pixels[0, 0]).all():
        raise ValueError(f"Expected an image with something on it. Received a blank one: every pixel is {pixels[0, 0].tolist()}.")
    return pixels
