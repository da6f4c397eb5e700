"""Image files to pixels inside a graph, with TensorFlow's operations alone: what an exported model does with the bytes of a request.

The pixels are those that `kerasbig.data.image_batches` makes of the same file. Shapes: H and W as the model sees an image, h and w
as the image came.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf

from kerasbig.data.images import MOST_PIXELS, ORIENTATION_TAG, TURNED

# libjpeg decodes to a half, a quarter or an eighth of the size for less work.
JPEG_RATIOS = (1, 2, 4, 8)
# How files begin that the graph reads, in the order of the branches of `_decoded`.
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_HEAD_BYTES = 64
# The block with the orientation is one of the first of a JPEG, and at most 64 KiB long.
_EXIF_BYTES = 1 << 17
_EXIF = tuple(b"Exif\0\0")


def read_image(content: tf.Tensor, place: tf.Tensor, size: tuple[int, int], resize: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes the bytes of a file, turns the image upright and fits it to a size; one image.

    JPEG, PNG, GIF (its first image) and BMP are read. Grey and palette images become RGB, transparent PNG lies on white.

    Args:
        content: string (), a file.
        place: int32 (), its place in the request, for messages.
        size: H and W.
        resize: One of `kerasbig.data.image_batches.RESIZES`.

    Returns:
        uint8 (H, W, 3); int32 (2,), height and width of the upright image; float32 (4,), where it went, as `resize_plan` tells.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if the bytes are no such image, are damaged, or hold more than 67
            million pixels.

    Example:
        >>> file = tf.io.encode_png(tf.zeros((2, 4, 3), tf.uint8))
        >>> pixels, shape, plan = read_image(file, tf.constant(0), (4, 4), "pad")
        >>> pixels.shape.as_list(), shape.numpy().tolist(), plan.numpy().tolist()
        ([4, 4, 3], [2, 4], [1.0, 1.0, 1.0, 0.0])
    """
    head = _head(content)
    kind = _kind(head, place)
    stored = _stored_size(content, head, kind, place)
    orientation = tf.cond(kind == 0, lambda: jpeg_orientation(content), lambda: 1)
    upright_size = tf.where(orientation >= TURNED, stored[::-1], stored)
    plan = plan_of(upright_size, size, resize)
    image = _decoded(content, head, kind, plan)
    image = tf.cond(orientation == 1, lambda: image, lambda: upright(image, orientation))
    # What the JPEG decoder has made smaller needs to be scaled less.
    shrunk = tf.cast(tf.shape(image)[:2], tf.float32) / tf.cast(upright_size, tf.float32)
    return resized(image, plan / tf.concat([shrunk, tf.ones(2)], 0), size), upright_size, plan


def plan_of(shape: tf.Tensor, size: tuple[int, int], resize: str) -> tf.Tensor:
    """Tells where an image goes when it is resized, as `kerasbig.data.image_batches.resize_plan` does.

    Args:
        shape: int32 (2,): height and width.
        size: The height and width to fill.
        resize: One of `RESIZES`.

    Returns:
        float32 (4,): scale of y, scale of x, shift of y, shift of x.

    Example:
        >>> plan_of(tf.constant([10, 20]), (10, 10), "crop").numpy().tolist()
        [1.0, 1.0, 0.0, -5.0]
    """
    sides, wanted = tf.cast(shape, tf.float64), tf.constant(size, tf.float64)
    scales = wanted / sides
    if resize != "stretch":
        scales = tf.fill([2], (tf.reduce_max if resize == "crop" else tf.reduce_min)(scales))
    return tf.cast(tf.concat([scales, (wanted - sides * scales) / 2], 0), tf.float32)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image as its EXIF orientation says; `kerasbig.data.boxes.turned_upright` does it to boxes.

    Example:
        >>> upright(tf.reshape(tf.range(2), (1, 2, 1)), tf.constant(6)).shape.as_list()
        [2, 1, 1]
    """
    image = tf.cond(tf.reduce_any(orientation == [2, 3, 7, 8]), lambda: image[:, ::-1], lambda: image)
    image = tf.cond(tf.reduce_any(orientation == [3, 4, 6, 7]), lambda: image[::-1], lambda: image)
    return tf.cond(orientation >= TURNED, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)


def resized(image: tf.Tensor, plan: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Scales and moves (h, w, 3) to uint8 (H, W, 3), with a filter as wide as it gets smaller.

    Example:
        >>> resized(tf.constant([[[0, 0, 0], [90, 90, 90]]], tf.uint8), tf.constant([1.0, 1.5, 0.0, 0.0]), (1, 3))[0, :, 0].numpy().tolist()
        [0, 45, 90]
    """
    moved = tf.raw_ops.ScaleAndTranslate(
        images=image[None], size=tf.constant(size), scale=plan[:2], translation=plan[2:], kernel_type="triangle", antialias=True
    )
    return tf.ensure_shape(tf.cast(tf.round(moved[0]), tf.uint8), (*size, 3))


def jpeg_orientation(content: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG, int32 () from 1 to 8; 1 where there is none.

    Example:
        >>> int(jpeg_orientation(tf.io.encode_jpeg(tf.zeros((2, 4, 3), tf.uint8))))
        1
    """
    numbers = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 0, _EXIF_BYTES), tf.uint8), tf.int32)
    count = tf.shape(numbers)[0]
    # Whatever a broken file points at lies behind these zeros, and is none of the tags looked for.
    numbers = tf.pad(numbers, [[0, 32]])

    def at(place: tf.Tensor, length: int) -> tf.Tensor:
        """Returns bytes from a place on; the zeros at the end where it lies outside."""
        inside = tf.logical_and(place >= 0, place <= count)
        return tf.slice(numbers, [tf.where(inside, place, count)], [length])

    def goes_on(place: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        marker = at(place, 2)
        # The pixels begin at 0xDA.
        return tf.logical_and(found == 0, tf.logical_and(marker[0] == 0xFF, marker[1] != 0xDA))

    def next_block(place: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        block = at(place, 10)
        is_exif = tf.logical_and(block[1] == 0xE1, tf.reduce_all(block[4:10] == tf.constant(_EXIF)))
        found = tf.cond(is_exif, lambda: _tag_of_tiff(at, place + 10), lambda: 0)
        return place + 2 + tf.maximum(block[2] * 256 + block[3], 2), found

    _, found = tf.while_loop(goes_on, next_block, (tf.constant(2), tf.constant(0)), parallel_iterations=1)
    return tf.where(tf.logical_and(found >= 1, found <= 8), found, 1)


def _tag_of_tiff(at: Any, start: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that the first directory of a TIFF header gives, int32 (); -1 without one, which ends the search."""
    little = at(start, 1)[0] == ord("I")

    def number(place: tf.Tensor, length: int) -> tf.Tensor:
        digits = at(place, length)
        digits = tf.where(little, digits[::-1], digits)
        return tf.reduce_sum(digits * [256**power for power in range(length - 1, -1, -1)])

    # Beyond two bytes, an offset is outside of the block anyway.
    directory = start + number(start + tf.where(little, 4, 6), 2)

    def look(entry: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = directory + 2 + 12 * entry
        return entry + 1, tf.where(number(place, 2) == ORIENTATION_TAG, number(place + 8, 2), found)

    entries = number(directory, 2)
    _, found = tf.while_loop(
        lambda entry, found: tf.logical_and(entry < entries, found < 0), look, (tf.constant(0), tf.constant(-1)), parallel_iterations=1
    )
    return found


def _head(content: tf.Tensor) -> tf.Tensor:
    """Returns the first bytes as int32 (64,), zeros behind a shorter file."""
    numbers = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 0, _HEAD_BYTES), tf.uint8), tf.int32)
    return tf.ensure_shape(tf.pad(numbers, [[0, _HEAD_BYTES - tf.shape(numbers)[0]]]), (_HEAD_BYTES,))


def _kind(head: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Returns the place in `STARTS` of how a file begins, int32 (), or fails."""
    found = tf.stack([tf.reduce_all(head[: len(start)] == list(start)) for start in STARTS])
    message = "Expected the bytes of a JPEG, PNG, GIF or BMP image. Received other bytes. Number of the image in the request, from 0:"
    check = tf.debugging.Assert(tf.reduce_any(found), [message, place])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.argmax(found, output_type=tf.int32)


def _little(numbers: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(numbers * [256**power for power in range(numbers.shape[0])])


def _stored_size(content: tf.Tensor, head: tf.Tensor, kind: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Returns height and width as the file says them, int32 (2,), or fails if they are too many pixels to decode."""
    png = [_little(head[first : first + 4][::-1]) for first in (20, 16)]
    branches = [
        lambda: tf.image.extract_jpeg_shape(content)[:2],
        lambda: tf.stack(png),
        lambda: tf.stack([_little(head[8:10]), _little(head[6:8])]),
        # A negative height means that rows run from the top down.
        lambda: tf.abs(tf.stack([_little(head[22:26]), _little(head[18:22])])),
    ]
    stored = tf.ensure_shape(tf.switch_case(kind, branches), (2,))
    pixels = tf.reduce_prod(tf.cast(stored, tf.int64))
    message = f"Expected an image of 1 to {MOST_PIXELS} pixels. Received more, or none. Number of the image in the request, from 0:"
    good = tf.logical_and(tf.reduce_all(stored > 0), pixels <= MOST_PIXELS)
    check = tf.debugging.Assert(good, [message, place, "height and width:", stored])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(stored)


def _decoded(content: tf.Tensor, head: tf.Tensor, kind: tf.Tensor, plan: tf.Tensor) -> tf.Tensor:
    """Decodes a file to uint8 (h, w, 3), a JPEG to as small a size as still holds what is needed; not yet upright."""
    # The exact transform, as Pillow's, so that both give the same pixels.
    decode_jpeg = partial(tf.io.decode_jpeg, content, channels=3, dct_method="INTEGER_ACCURATE")
    largest = tf.reduce_max(plan[:2])
    smaller = tf.reduce_sum(tf.cast(largest * [float(ratio) for ratio in JPEG_RATIOS[1:]] <= 1.0, tf.int32))
    branches = [
        lambda: tf.switch_case(smaller, [partial(decode_jpeg, ratio=ratio) for ratio in JPEG_RATIOS]),
        lambda: _decoded_png(content, head),
        lambda: tf.ensure_shape(tf.io.decode_image(content, channels=3, expand_animations=False), (None, None, 3)),
        lambda: _decoded_bmp(content, head),
    ]
    return tf.ensure_shape(tf.switch_case(kind, branches), (None, None, 3))


def _decoded_png(content: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    # TensorFlow cuts a grey of 16 bits instead of rounding it, and leaves one of fewer than 8 as it is beside alpha.
    grey, depth = head[25] == 0, head[24]

    def deep() -> tf.Tensor:
        values = tf.cast(tf.io.decode_png(content, channels=3, dtype=tf.uint16), tf.float32)
        return tf.cast(tf.round(values / 257.0), tf.uint8)

    def plain() -> tf.Tensor:
        image = tf.cast(tf.io.decode_png(content, channels=4), tf.int32)
        colours, alpha = image[..., :3], image[..., 3:]
        # On white, rounded as Pillow's alpha_composite does.
        mixed = (colours * alpha + 255 * (255 - alpha) + 128) * 128
        return tf.cast(((mixed // 256) + mixed) // 256 // 128, tf.uint8)

    branches = [plain, lambda: tf.io.decode_png(content, channels=3), deep]
    return tf.switch_case(tf.where(grey, tf.cast(depth < 8, tf.int32) + 2 * tf.cast(depth == 16, tf.int32), 0), branches)


def _decoded_bmp(content: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP; TensorFlow's own takes the numbers of palette entries for grey."""
    bits, compression, start, header = _little(head[28:30]), _little(head[30:34]), _little(head[10:14]), _little(head[14:18])
    known = tf.logical_and(tf.reduce_any(bits == [8, 24, 32]), tf.reduce_any(compression == [0, 3]))
    check = tf.debugging.Assert(known, ["Expected a BMP of 8, 24 or 32 bits a pixel, not compressed. Received:", bits, compression])

    def palette() -> tf.Tensor:
        entries = tf.io.decode_raw(tf.strings.substr(content, 14 + header, start - 14 - header), tf.uint8)
        colours = tf.reshape(entries[: tf.shape(entries)[0] // 4 * 4], (-1, 4))[:, 2::-1]
        return tf.gather(colours, tf.cast(tf.io.decode_bmp(content)[..., 0], tf.int32))

    with tf.control_dependencies([] if check is None else [check]):
        return tf.cond(bits == 8, palette, lambda: tf.io.decode_bmp(content, channels=3))
