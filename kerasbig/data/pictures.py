"""Images for people: small ones that stand in a page, and names for them."""

from __future__ import annotations

import base64
import io
from typing import Any

import keras
import numpy as np
from PIL import Image

from kerasbig.data.examples import Examples
from kerasbig.data.image_batches import ImageSource, input_size, require_converter, resize_of
from kerasbig.data.images import decode, is_images

THUMBNAIL_SIDE = 96


def thumbnail(inputs: Any, index: int, side: int = THUMBNAIL_SIDE) -> str:
    """Returns one of many images, made small, as a `data:` address for a page.

    Args:
        inputs: Paths of images, or uint8 (N, H, W, 3).
        index: Which one.
        side: Its longer side in pixels; a smaller image is enlarged by whole pixels.

    Example:
        >>> thumbnail(np.zeros((1, 8, 8, 3), "uint8"), 0)[:22]
        'data:image/png;base64,'
    """
    image = Image.fromarray(pixels_of(inputs, index))
    small = max(image.size) <= side
    if small:
        times = max(1, side // max(image.size))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:
        image.thumbnail((side, side))
    return data_address(image, "PNG" if small else "JPEG")


def pixels_of(inputs: Any, index: int) -> np.ndarray:
    """Returns one of many images as uint8 (H, W, 3), upright.

    Example:
        >>> pixels_of(np.zeros((1, 8, 9, 3), "uint8"), 0).shape
        (8, 9, 3)
    """
    return np.asarray(inputs[index] if isinstance(inputs, np.ndarray) else decode(inputs[index]))


def fitted_pixels(model: keras.Model, inputs: Any) -> np.ndarray:
    """Returns images as a model sees them: upright, in colour, at its size, before its preprocessor's scale and offset.

    Args:
        model: A model with an image converter, such as `kerasbig.vision.vit_classifier` builds.
        inputs: N paths, `ImageFiles`, or uint8 (N, h, w, 3).

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        TypeError: If the model has no image converter.
        ValueError: If a file is no image.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.vision.vit_classifier(("cat", "dog"), size="lite-2", image_shape=(16, 16, 3))
        >>> fitted_pixels(model, np.zeros((1, 20, 24, 3), "uint8")).shape
        (1, 16, 16, 3)
    """
    source = ImageSource.of(inputs, input_size(model), resize_of(require_converter(model)))
    return np.asarray(source.cached().pixels)


def data_address(image: Image.Image, form: str) -> str:
    """Returns an image as a `data:` address.

    Args:
        image: A Pillow image.
        form: "PNG" or "JPEG".

    Example:
        >>> data_address(Image.new("RGB", (2, 2)), "JPEG")[:23]
        'data:image/jpeg;base64,'
    """
    stream = io.BytesIO()
    image.save(stream, form, quality=85)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def names_of(examples: Examples) -> list[str]:
    """Returns what to call each input on a page: a text itself, the path of an image, or its number.

    Example:
        >>> names_of(Examples(np.zeros((2, 8, 8, 3), "uint8"), np.array([0, 1]), ("a", "b"), [1, 2], "digits", "test"))
        ['image 1 of digits', 'image 2 of digits']
    """
    if is_images(examples.inputs) and isinstance(examples.inputs, np.ndarray):
        return [f"image {row} of {examples.source}" for row in examples.rows]
    return list(examples.inputs)
