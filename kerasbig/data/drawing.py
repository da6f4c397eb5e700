"""Drawing boxes on images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Colours that stay apart on photographs, for classes in turn: Paul Tol's "bright" scheme.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")


def class_colour(number: int) -> str:
    """Returns the colour of a class.

    Example:
        >>> class_colour(0), class_colour(7)
        ('#4477AA', '#4477AA')
    """
    return COLOURS[number % len(COLOURS)]


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, colours: Sequence[str], texts: Sequence[str] = (), *, side: int | None = None
) -> Image.Image:
    """Draws boxes, and texts at their upper edges.

    Args:
        image: uint8 (H, W, 3).
        boxes: float (n, 4) "xyxy" in its pixels.
        colours: The n colours, as "#rrggbb".
        texts: The n texts, or none.
        side: The longer side that the image is brought to first, in pixels, so that lines are as thin on each; its own if None.

    Returns:
        A Pillow image.

    Example:
        >>> draw_boxes(np.zeros((10, 20, 3), "uint8"), np.array([[2, 2, 8, 8]]), ["#ffffff"], side=40).size
        (40, 20)
    """
    picture = Image.fromarray(image)
    scale = 1.0 if side is None else side / max(picture.size)
    if scale != 1.0:
        kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), kind)
    draw = ImageDraw.Draw(picture)
    thickness = max(1, max(picture.size) // 250)
    font = ImageFont.load_default(max(10, max(picture.size) // 40))
    for number, (left, top, right, bottom) in enumerate(np.asarray(boxes, "float64").reshape(-1, 4) * scale):
        # A rectangle of no area would be an error.
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colours[number], width=thickness)
        if texts:
            around = draw.textbbox((left, top), texts[number], font=font)
            height = around[3] - top
            place = (left, top - height if top >= height else top)
            draw.rectangle((place[0], place[1], around[2] + 2, place[1] + height), fill=colours[number])
            draw.text(place, texts[number], fill="black" if _is_light(colours[number]) else "white", font=font)
    return picture


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
