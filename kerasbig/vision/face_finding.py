"""Faces on photographs of any size: where they are, and cut out so that eyes, nose and mouth stand in the same place of each.

MTCNN finds them (Zhang et al., 2016, arXiv:1604.02878): `pip install 'kerasbig[faces]'`, which brings its own weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from PIL import Image

from kerasbig.data.images import decode

# Where eyes, nose and corners of the mouth stand in a face of 112 x 112 pixels, x and y, as face models are commonly fed
# (the template of InsightFace, `face_align.py`).
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], "float32")
TEMPLATE_SIDE = 112
# Pixels across the smallest face that the finder finds.
_FINDS = 20


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face on a photograph, in pixels of the upright image.

    Attributes:
        box: float32 (4,): left, top, right, bottom.
        landmarks: float32 (5, 2): x and y of the eye on the left of the image, the other eye, the nose, the corner of the
            mouth on the left of the image, the other corner.
        score: How sure the finder is, 0 to 1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float


def find_faces(images: Sequence[str | os.PathLike[str] | bytes | np.ndarray], *, least_side: int = 20) -> list[list[FoundFace]]:
    """Finds the faces of photographs.

    Args:
        images: Paths or bytes of image files, or arrays (H, W, 3) of 0 to 255.
        least_side: Pixels across the smallest face to look for, at least 20. With twice as many a photograph is searched at
            half its size.

    Returns:
        For each photograph its faces, the largest first; none for a photograph without.

    Raises:
        ImportError: Without `pip install 'kerasbig[faces]'`.
        RuntimeError: On another Keras backend than TensorFlow.
        ValueError: If `images` is a single one, an array has another shape, a file is no image, or `least_side` is below 20.

    Example:
        >>> find_faces([np.zeros((64, 64, 3), "uint8")])
        [[]]
    """
    if isinstance(images, str | bytes | os.PathLike) or (isinstance(images, np.ndarray) and images.ndim == 3):
        raise ValueError("Expected a list of images. Received: a single one. Put it into a list.")
    find = face_finder(least_side)
    return [find(_pixels(image)) for image in images]


def align_face(
    image: str | os.PathLike[str] | bytes | np.ndarray, face: FoundFace, image_shape: tuple[int, int, int] = (112, 112, 3)
) -> np.ndarray:
    """Cuts a face out of a photograph, turned, moved and scaled so that its landmarks come nearest to where they belong.

    Args:
        image: The photograph, as in `find_faces`.
        face: A face that `find_faces` found on it.
        image_shape: (side, side, 3) in pixels.

    Returns:
        uint8 (side, side, 3); what lies outside of the photograph is black.

    Raises:
        ValueError: If `image_shape` is no square of RGB.

    Example:
        >>> face = FoundFace(np.float32([0, 0, 112, 112]), TEMPLATE, 1.0)
        >>> align_face(np.full((112, 112, 3), 9, "uint8"), face, (56, 56, 3))[28, 28].tolist()
        [9, 9, 9]
    """
    side = square_side(image_shape)
    # Pixel i covers i to i + 1: places are scaled, not the numbers of pixels.
    a, b, x, y = _similarity((TEMPLATE + 0.5) * side / TEMPLATE_SIDE, face.landmarks + 0.5)
    # Where the face is larger than what is asked for, several points are read for each pixel and averaged.
    points = max(1, round(float(np.hypot(a, b))))
    turn = [a / points, -b / points, x, b / points, a / points, y]
    large = Image.fromarray(_pixels(image)).transform((side * points,) * 2, Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR)
    return np.asarray(large.reduce(points))


def face_finder(least_side: int) -> Callable[[np.ndarray], list[FoundFace]]:
    """Returns a function from uint8 (H, W, 3) to its faces, the largest first; raises as `find_faces` does."""
    if least_side < _FINDS:
        raise ValueError(f"Expected least_side of at least {_FINDS} pixels; no smaller face is found. Received: least_side={least_side!r}")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Expected Keras on TensorFlow, which the finder of faces runs on. Received: backend={keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow for this step; the faces it cuts out are plain images."
        )
    try:
        from mtcnn import MTCNN
    except ImportError as error:
        message = f"Expected the package {error.name!r} to find faces, which is not installed. Run: pip install 'kerasbig[faces]'"
        raise ImportError(message, name=error.name) from error
    detector = MTCNN(device="CPU:0")

    def find(photo: np.ndarray) -> list[FoundFace]:
        # MTCNN 1.0's own `min_face_size` makes it miss every face at most values, without a word: the photograph is shrunk instead.
        size = np.maximum(1, np.array(photo.shape[1::-1]) * _FINDS // least_side)
        shrunk = photo if least_side == _FINDS else np.asarray(Image.fromarray(photo).resize(size.tolist(), Image.Resampling.BOX))
        rows = np.asarray(detector.detect_faces(shrunk, output_type="numpy", box_format="xyxy"), "float32").reshape(-1, 16)
        scale = np.array(photo.shape[1::-1], "float32") / np.array(shrunk.shape[1::-1], "float32")
        faces = [_face(row, scale) for row in rows]
        return sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))

    return find


def _face(row: np.ndarray, scale: np.ndarray) -> FoundFace:
    """Reads a row of MTCNN (image, box, score, x of the five landmarks, their y) found at 1 / scale (2,) of the size."""
    return FoundFace(row[1:5] * np.tile(scale, 2), np.stack([row[6:11], row[11:16]], axis=1) * scale, float(row[5]))


def square_side(image_shape: tuple[int, ...]) -> int:
    """Returns the side of (side, side, 3), or raises a `ValueError`."""
    if len(image_shape) != 3 or image_shape[0] != image_shape[1] or image_shape[2] != 3 or image_shape[0] < 1:
        raise ValueError(f"Expected image_shape as (side, side, 3), such as (112, 112, 3). Received: image_shape={image_shape!r}")
    return image_shape[0]


def _pixels(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return decode(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"Expected an image as an array (H, W, 3) of 0 to 255. Received: shape {image.shape}. Repeat a grey one thrice.")
    return np.clip(np.rint(image), 0, 255).astype("uint8")


def _similarity(points: np.ndarray, onto: np.ndarray) -> tuple[float, float, float, float]:
    """Returns a, b, x, y of the turn, scale and shift (a -b x; b a y) that brings points (N, 2) nearest to others, by least squares."""
    one, zero = np.ones(len(points)), np.zeros(len(points))
    of_x = np.stack([points[:, 0], -points[:, 1], one, zero], axis=1)
    of_y = np.stack([points[:, 1], points[:, 0], zero, one], axis=1)
    a, b, x, y = np.linalg.lstsq(np.concatenate([of_x, of_y]), np.concatenate([onto[:, 0], onto[:, 1]]), rcond=None)[0]
    return float(a), float(b), float(x), float(y)
