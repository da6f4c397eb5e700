"""Image files: headers, decoding, orientation, and what is refused before a pixel is decoded."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from kerasbig.data import ImageFiles, decode
from kerasbig.data.boxes import Boxes, turned_upright
from kerasbig.data.images import MOST_PIXELS, ORIENTATION_TAG, read_header


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture, so that JPEG keeps it, with a bright corner that tells where up is."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x + y, 3 * y, 60 + x], axis=-1).astype("uint8")
    image[:8, :8] = 250
    return image


def saved(kind: str, image: Image.Image, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def with_orientation(orientation: int, image: Image.Image, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return saved(kind, image, exif=exif)


@pytest.mark.parametrize(
    ("kind", "decoder", "tolerance"),
    [("PNG", "png", 0), ("BMP", "pillow", 0), ("TIFF", "pillow", 0), ("PPM", "pillow", 0), ("WEBP", "pillow", 40), ("JPEG", "jpeg", 40)],
)
def test_formats(kind, decoder, tolerance):
    image = picture()
    content = saved(kind, Image.fromarray(image), **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    header = read_header(content)
    assert (header.height, header.width, header.orientation, header.decoder) == (24, 40, 1, decoder)
    assert np.abs(decode(content).astype(int) - image).max() <= tolerance


def test_grey_palette_alpha_and_16_bits_become_rgb():
    grey = picture()[..., 1]
    for kind in ("PNG", "PPM", "TIFF"):  # PPM: a PGM file
        np.testing.assert_array_equal(decode(saved(kind, Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=-1))
    deep = Image.fromarray(grey.astype("uint16") * 257)
    for kind in ("PNG", "PPM", "TIFF"):
        np.testing.assert_array_equal(decode(saved(kind, deep))[..., 0], grey)
    palette = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(decode(saved("PNG", palette)), np.asarray(palette.convert("RGB")))
    assert read_header(saved("PNG", palette)).decoder == "pillow"
    alpha = np.dstack([picture(), np.full((24, 40), 51, "uint8")])
    expected = np.round(picture() * 0.2 + 255 * 0.8)
    assert np.abs(decode(saved("PNG", Image.fromarray(alpha))) - expected).max() <= 1


def test_an_animation_gives_its_first_image():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = saved("GIF", frames[0], save_all=True, append_images=frames[1:])
    assert decode(content)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_each_format_that_has_one(orientation, kind):
    content = with_orientation(orientation, Image.fromarray(picture()), kind)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(with_orientation(orientation, Image.fromarray(picture()), "PNG")))))
    found, header = decode(content), read_header(content)
    assert (header.height, header.width) == found.shape[:2] == expected.shape[:2]
    assert np.abs(found.astype(int) - expected).mean() < 4


def test_broken_exif_is_passed_over():
    content = with_orientation(6, Image.fromarray(picture()))
    broken = content.replace(b"Exif\0\0II*\0", b"Exif\0\0XXXX").replace(b"Exif\0\0MM\0*", b"Exif\0\0XXXX")
    assert broken != content
    assert read_header(broken).orientation == 1
    assert decode(broken).shape == (24, 40, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_pixels_and_boxes(orientation):
    stored = Image.fromarray(picture())
    content = with_orientation(orientation, stored, "PNG")
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(decode(content), upright)
    header = read_header(content)
    assert (header.height, header.width, header.orientation) == (*upright.shape[:2], orientation)
    # A box that was drawn on the stored image holds the same pixels of the upright one.
    box = np.array([[5.0, 3.0, 17.0, 11.0]])
    left, top, right, bottom = turned_upright(box, orientation, 24, 40)[0].astype(int)
    inside = sorted(map(tuple, picture()[3:11, 5:17].reshape(-1, 3).tolist()))
    assert sorted(map(tuple, upright[top:bottom, left:right].reshape(-1, 3).tolist())) == inside


def test_orientation_of_a_jpeg_is_read_from_its_header():
    assert read_header(with_orientation(6, Image.fromarray(picture()))).orientation == 6
    assert read_header(with_orientation(99, Image.fromarray(picture()))).orientation == 1


def test_a_bomb_is_refused_by_its_header():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for read in (read_header, decode):
        with pytest.raises(ValueError, match=f"Expected at most {MOST_PIXELS:,} pixels"):
            read(bomb)
    with pytest.raises(ValueError, match=r"Expected at most 100 pixels. Received: big, whose header says 40 x 24"):
        read_header(saved("PNG", Image.fromarray(picture())), name="big", most_pixels=100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_file_that_was_cut_off_is_told_without_decoding(kind, tmp_path):
    content = saved(kind, Image.fromarray(picture(200, 300)))
    (tmp_path / "cut").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match=r"Expected a whole image. Received: .*cut, which is truncated or damaged"):
        read_header(tmp_path / "cut")
    (tmp_path / "more").write_bytes(content + b"\0" * 100_000)
    assert read_header(tmp_path / "more").height == 200


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"Expected an image \(JPEG, .*Received: .*text\.jpg, which is none"):
        read_header(tmp_path / "text.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="which is none"):
        decode(tmp_path / "empty.png")
    with pytest.raises(FileNotFoundError, match=r"Received: '.*gone\.png', which is not there"):
        read_header(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="floating-point values"):
        decode(saved("TIFF", Image.fromarray(np.zeros((4, 4), "float32"))))


def test_damage_in_the_middle_is_told_when_it_is_decoded():
    content = bytearray(saved("PNG", Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8"))))
    content[len(content) // 2 : len(content) // 2 + 200] = b"\0" * 200
    with pytest.raises(ValueError, match=r"Received: photo\.png, which is truncated or damaged"):
        decode(bytes(content), name="photo.png")


def test_a_path_in_any_script(tmp_path):
    path = tmp_path / "Größe 图片 🎬.png"
    Image.fromarray(picture()).save(path)
    files = ImageFiles.read([path])
    assert (files[0], files.sizes.tolist(), files.take(np.array([0, 0])).paths) == (str(path), [[24, 40]], [str(path)] * 2)
    np.testing.assert_array_equal(decode(path), picture())


def test_boxes_are_taken_and_joined():
    boxes = Boxes.of([[[0, 0, 1, 1], [0, 0, 2, 2]], [], [[0, 0, 3, 3]]], [[0, 1], [], [2]], [[False, True], [], [False]])
    turned = boxes.take(np.array([2, 0]))
    assert (turned.classes.tolist(), turned.counts.tolist(), turned.ignored.tolist()) == ([2, 0, 1], [1, 2], [False, False, True])
    both = Boxes.concatenate([boxes, turned])
    assert (len(both), both.of_image(3)[0].tolist()) == (5, [[0, 0, 3, 3]])
    places, classes = boxes.padded()
    assert places.shape == (3, 1, 4)
    assert classes.tolist() == [[0], [-1], [2]]  # what is ignored does not train
    with pytest.raises(ValueError, match=re.escape("Expected boxes (M, 4), classes (M,)")):
        Boxes(np.zeros((2, 4)), np.zeros(1), np.array([0, 2]), np.zeros(2, bool))


def test_pillow_reads_no_format_that_starts_programs(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ValueError, match="which is none"):
        decode(tmp_path / "a.png")
