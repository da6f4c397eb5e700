"""Image files: what their headers say, and their pixels, upright and in RGB."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, overload

import numpy as np

# Pillow knows these formats once their modules are loaded; the others it loads by itself.
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
# Pillow's names of the formats that are read. Others, such as EPS, start programs of their own.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# The pixels of a 64-megapixel photograph: 192 MiB once decoded. A small file may claim any number.
MOST_PIXELS = 1 << 26
ORIENTATION_TAG = 0x0112
# Pillow states the upright size of these, and turns them while it loads.
_TURNED_BY_PILLOW = ("TIFF",)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DECODERS = ("pillow", "jpeg", "png")
# EXIF orientations 5 to 8 lie on their side.
TURNED = 5
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before a pixel is decoded.

    Attributes:
        height: Pixels from top to bottom of the upright image.
        width: Pixels from left to right of the upright image.
        orientation: The EXIF tag, 1 (upright) to 8.
        decoder: One of `DECODERS`: TensorFlow's own where it gives the same RGB as `decode` (JPEG, and PNG of 8 bits
            without transparency), else Pillow.
    """

    height: int
    width: int
    orientation: int
    decoder: str


def read_header(source: str | os.PathLike[str] | bytes, *, name: str | None = None, most_pixels: int = MOST_PIXELS) -> Header:
    """Reads the header of an image file, and looks whether the file is whole, without decoding it.

    Args:
        source: A path, or the bytes of a file.
        name: What messages call it; by default the path.
        most_pixels: The most pixels it may claim to hold.

    Returns:
        A `Header`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image of a known format, is cut off, or holds too many pixels.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("RGB", (640, 480)).save(stream, "JPEG")
        >>> read_header(stream.getvalue())
        Header(height=480, width=640, orientation=1, decoder='jpeg')
    """
    name = _name(source, name)
    with _open(source, name, most_pixels) as image:
        orientation = _orientation(image)
        width, height = image.size if orientation < TURNED or image.format in _TURNED_BY_PILLOW else image.size[::-1]
        decoder = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}.get(str(image.format), "pillow") if _is_plain(image) else "pillow"
        _require_end(source, str(image.format), name)
    return Header(height, width, orientation, decoder)


def decode(source: str | os.PathLike[str] | bytes, *, name: str | None = None, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decodes an image file to upright RGB.

    Grey and palette images become RGB, transparent ones lie on white, 16 bits a channel become 8, and an animation or a
    file of several pages gives its first image.

    Args:
        source: A path, or the bytes of a file.
        name: What messages call it; by default the path.
        most_pixels: The most pixels it may claim to hold.

    Returns:
        uint8 (H, W, 3).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image of a known format, is broken, or holds too many pixels.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("LA", (2, 1), (0, 0)).save(stream, "PNG")
        >>> decode(stream.getvalue()).tolist()
        [[[255, 255, 255], [255, 255, 255]]]
    """
    name = _name(source, name)
    with _open(source, name, most_pixels) as image:
        orientation = _orientation(image)
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, IndexError) as error:
            raise _broken(name, str(error)) from error
        upright = image if orientation == 1 or image.format in _TURNED_BY_PILLOW else image.transpose(_TURNS[orientation])
        return np.asarray(_to_rgb(upright, name))


@dataclass(frozen=True, eq=False)
class ImageFiles(Sequence[str]):
    """Paths of image files, with what their headers say.

    Attributes:
        paths: N paths.
        sizes: int32 (N, 2): height and width of each upright image in pixels.
        orientations: uint8 (N,): EXIF orientation, 1 to 8.
        decoders: uint8 (N,): the place in `DECODERS` of what decodes each.

    Example:
        >>> files = ImageFiles(["a.jpg"], np.array([[480, 640]]), np.array([1]), np.array([DECODERS.index("jpeg")]))
        >>> len(files), files[0], files.sizes[0].tolist()
        (1, 'a.jpg', [480, 640])
    """

    paths: list[str]
    sizes: np.ndarray
    orientations: np.ndarray
    decoders: np.ndarray

    @classmethod
    def read(cls, paths: Sequence[str | os.PathLike[str]], *, most_pixels: int = MOST_PIXELS) -> ImageFiles:
        """Reads the headers of files.

        Raises:
            FileNotFoundError: If one is not there.
            ValueError: If one is no image, is cut off, or too large.
        """
        return cls.of([os.fspath(path) for path in paths], [read_header(path, most_pixels=most_pixels) for path in paths])

    @classmethod
    def of(cls, paths: Sequence[str], headers: Sequence[Header]) -> ImageFiles:
        """Joins paths and the headers that were read from them."""
        sizes = np.array([(header.height, header.width) for header in headers], "int32").reshape(-1, 2)
        orientations = np.array([header.orientation for header in headers], "uint8")
        return cls(list(paths), sizes, orientations, np.array([DECODERS.index(header.decoder) for header in headers], "uint8"))

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.paths[index]

    @classmethod
    def concatenate(cls, parts: Sequence[ImageFiles]) -> ImageFiles:
        """Joins files end to end."""
        arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "orientations", "decoders")]
        return cls([path for part in parts for path in part.paths], *arrays)

    def take(self, indices: np.ndarray) -> ImageFiles:
        """Returns some of the files, in a new order."""
        paths = [self.paths[i] for i in indices]
        return ImageFiles(paths, self.sizes[indices], self.orientations[indices], self.decoders[indices])


def is_images(inputs: object) -> bool:
    """Tells whether the inputs of examples are images: files, or an array (N, H, W, C)."""
    return isinstance(inputs, ImageFiles) or (isinstance(inputs, np.ndarray) and inputs.ndim == 4)


def _name(source: str | os.PathLike[str] | bytes, name: str | None) -> str:
    return name or ("the image" if isinstance(source, bytes) else os.fspath(source))


def _open(source: str | os.PathLike[str] | bytes, name: str, most_pixels: int) -> Image.Image:
    """Opens an image without decoding it."""
    stream: str | IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    try:
        image = Image.open(stream, formats=FORMATS)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"Expected an image file. Received: {name!r}, which is not there. Check the path.") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"Expected an image (JPEG, PNG, BMP, GIF, PGM, PPM, TIFF or WebP). Received: {name}, which is none. "
            "Remove it, give its true ending, or save it anew as JPEG or PNG."
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"Expected at most {most_pixels:,} pixels. Received: {name}: {error}. Make the image smaller.") from None
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        raise _broken(name, str(error)) from error
    width, height = image.size
    if width * height > most_pixels:
        image.close()
        raise ValueError(
            f"Expected at most {most_pixels:,} pixels. Received: {name}, whose header says {width} x {height}. Make the image smaller."
        )
    return image


def _broken(name: str, reason: str) -> ValueError:
    return ValueError(f"Expected a whole image. Received: {name}, which is truncated or damaged: {reason}. Copy it again, or remove it.")


def _orientation(image: Image.Image) -> int:
    # Pillow would decode the whole of a PNG to look for what may stand behind its pixels.
    if image.format in ("PNG", "GIF", "BMP", "PPM") and "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):  # the pixels may be good all the same
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("L", "RGB") and "transparency" not in image.info


def _require_end(source: str | os.PathLike[str] | bytes, kind: str, name: str) -> None:
    """Raises if a file ends before its own end mark, as one that was cut off does. What follows the mark is no matter."""
    if isinstance(source, bytes):
        whole = _is_whole(kind, source)
    else:
        with open(source, "rb") as stream:
            stream.seek(max(0, Path(source).stat().st_size - _TAIL_BYTES))
            whole = _is_whole(kind, stream.read())
            if not whole:  # some cameras write more behind the mark than the last bytes hold
                stream.seek(0)
                whole = _is_whole(kind, stream.read())
    if not whole:
        raise _broken(name, f"it has no end mark of a {kind} file")


def _is_whole(kind: str, content: bytes) -> bool:
    if kind in ("JPEG", "MPO"):
        # A thumbnail in the header has an end of its own, before the pixels start.
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if kind == "GIF":
        return content.rstrip(b"\0").endswith(b";")
    return kind != "PNG" or b"IEND" in content


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError(
            f"Expected whole-number pixels. Received: {name}, which holds floating-point values. Save it with 8 or 16 bits a channel."
        )
    if image.mode.startswith("I"):  # 16 bits a pixel, grey
        values = np.clip(np.asarray(image).astype("float64"), 0, 65535)
        image = Image.fromarray(np.round(values / 257).astype("uint8"))
    if image.mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
