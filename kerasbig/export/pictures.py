"""The images that an exported image model is asked: built-in ones, or the user's own, as the bytes of files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from kerasbig.data.images import ORIENTATION_TAG, read_header

Picture = str | os.PathLike[str] | bytes | np.ndarray
# How the files begin that an exported graph reads; others are written as PNG before they are sent to it.
_IN_GRAPH = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")


def default_pictures() -> tuple[bytes, ...]:
    r"""Makes small pictures of each format, where decoders and graphs go wrong: not square, grey, transparent, lying on their side.

    Example:
        >>> [picture[:4] for picture in default_pictures()][:3]
        [b'\x89PNG', b'\xff\xd8\xff\xe0', b'GIF8']
    """
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:1:48j, 0:1:64j]
    waves = np.stack([np.sin(9 * x * y), np.cos(7 * x + 5 * y), np.sin(11 * (x - y) ** 2)], axis=-1)
    wide = Image.fromarray(np.uint8(127.5 + 120 * waves))
    tall = wide.resize((150, 420), Image.Resampling.BICUBIC)
    noise = Image.fromarray(random.integers(0, 256, (24, 24, 3)).astype("uint8"))
    turned = Image.Exif()
    turned[ORIENTATION_TAG] = 6
    clear = wide.copy()
    clear.putalpha(Image.fromarray(np.uint8(255 * x)))
    return (
        _file(noise, "PNG"),
        _file(wide, "JPEG"),
        _file(wide.quantize(64), "GIF"),
        _file(wide.rotate(90, expand=True), "BMP"),
        _file(clear, "PNG"),
        _file(tall.convert("L"), "JPEG"),
        _file(tall, "JPEG", exif=turned.tobytes()),
        _file(Image.new("RGB", (1, 1), "red"), "PNG"),
    )


def checked_pictures(examples: Sequence[Any] | None) -> tuple[bytes, ...]:
    """Returns the images that each exported file must answer as the model does; the built-in ones for None.

    Raises:
        FileNotFoundError: If one is a path where there is no file.
        ValueError: If they are no images, or none at all.
    """
    if examples is None:
        return default_pictures()
    files = files_of_pictures(examples, "examples")
    if not files:
        raise ValueError("Expected examples to have at least one image. Received none: leave it out for the built-in ones.")
    return tuple(files)


def files_of_pictures(images: Sequence[Picture], name: str = "images") -> list[bytes]:
    r"""Returns images as the bytes of files that an exported graph reads.

    Args:
        images: Paths, bytes of files, or uint8 (h, w, 3) arrays, mixed as they come; or one array (N, h, w, 3).
        name: What messages call them.

    Raises:
        FileNotFoundError: If one is a path where there is no file.
        ValueError: If one is no image, is damaged or too large.

    Example:
        >>> files_of_pictures([np.zeros((1, 1, 3), "uint8")])[0][:4]
        b'\x89PNG'
    """
    return [_content(image, f"{name}[{place}]") for place, image in enumerate(listed(images, name))]


def listed(images: Sequence[Picture], name: str = "images") -> list[Picture]:
    """Returns images as a list, each looked at: the headers of files, the shape of arrays.

    Raises:
        FileNotFoundError: If one is a path where there is no file.
        ValueError: If one is no image, is damaged or too large.
    """
    if isinstance(images, str | os.PathLike | bytes):
        raise ValueError(f"Expected {name} to be a list of images. Received one: put it in a list.")
    found = list(images)
    for place, image in enumerate(found):
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(
                    f"Expected {name}[{place}] to be uint8 of the shape (height, width, 3). Received: {image.dtype} {image.shape}."
                )
        elif isinstance(image, str | os.PathLike | bytes):
            read_header(image, name=f"{name}[{place}]" if isinstance(image, bytes) else None)
        else:
            raise ValueError(
                f"Expected {name}[{place}] to be a path, the bytes of a file or a uint8 array. Received: {type(image).__name__}."
            )
    return found


def _content(image: Picture, name: str) -> bytes:
    if isinstance(image, np.ndarray):
        return _file(Image.fromarray(image), "PNG", compress_level=1)
    if not isinstance(image, bytes):
        with open(image, "rb") as stream:
            image = stream.read()
    if image.startswith(_IN_GRAPH):
        return image
    from kerasbig.data.images import decode

    return _file(Image.fromarray(decode(image, name=name)), "PNG", compress_level=1)


def _file(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
