"""Boxes that people drew: COCO's JSON and Pascal VOC's XML, each box checked against its image."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from kerasbig.data.boxes import turned_upright
from kerasbig.data.image_folders import Skipped, visible
from kerasbig.data.images import IMAGE_ENDINGS, TURNED, Header

logger = logging.getLogger(__name__)

# Drawing programs round to whole pixels: a box may reach this far over the edge, and is cut there.
TOLERANCE = 1.0
# An annotation file is text of a few hundred bytes a box.
MOST_XML_BYTES = 1 << 24
VOC_FOLDERS = ("Annotations", "JPEGImages")
IMAGE_FOLDERS = ("images", "JPEGImages", "train2017", "val2017")


@dataclass(frozen=True)
class Drawn:
    """One box as it was drawn.

    Attributes:
        box: Left, top, right, bottom in pixels.
        label: The class.
        ignored: Whether it neither trains nor counts.
        place: What messages call it.
    """

    box: tuple[float, float, float, float]
    label: str
    ignored: bool
    place: str


@dataclass(frozen=True)
class Annotated:
    """One image with its boxes.

    Attributes:
        path: The image file.
        size: Height and width that the annotation states; None where it states none.
        drawn: Its boxes.
        place: What messages call it.
    """

    path: Path
    size: tuple[int, int] | None
    drawn: list[Drawn] = field(default_factory=list)
    place: str = ""


def read_coco(path: Path, source: str, skipped: Skipped, images: str | None = None) -> tuple[list[Annotated], tuple[str, ...]]:
    """Reads a COCO file of instances.

    Args:
        path: The .json file.
        source: The name for messages.
        skipped: What to do with what is wrong.
        images: The folder of the images; by default they are looked for beside the file.

    Returns:
        The images in the order of the file, and the names of all categories in the order of their ids.

    Raises:
        ValueError: If the file is none of COCO's, an id occurs twice, or a box belongs to nothing.

    Source: Lin et al., 2014, arXiv:1405.0312; the form: https://cocodataset.org/#format-data.
    """
    content = _coco_content(path, source)
    categories = _by_id(content["categories"], "category", source, Skipped(False))
    names = [str(categories[key].get("name", key)) for key in sorted(categories)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"Expected each category to have a name of its own. Received: {twice[0]!r} more than once in {source}.")
    entries = _by_id(content["images"], "image", source, skipped)
    root = Path(images) if images else None
    found: dict[Any, Annotated] = {}
    for key, entry in entries.items():
        name = str(entry.get("file_name", ""))
        size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
        found[key] = Annotated(_locate(name, path, root), size, [], f"image {key} ({name}) of {source}")
    for key, entry in _by_id(content["annotations"], "annotation", source, skipped).items():
        place = f"annotation {key} of {source}"
        image, category = found.get(entry.get("image_id")), categories.get(entry.get("category_id"))
        if image is None or category is None:
            what = ("image", entry.get("image_id")) if image is None else ("category", entry.get("category_id"))
            skipped.add(ValueError(f"Expected the {what[0]} {what[1]!r} of {place}. Received: no such id. Correct or remove it."))
            continue
        numbers = entry.get("bbox")
        if not isinstance(numbers, list) or not _is_numbers(numbers):
            skipped.add(ValueError(f"Expected bbox to be [left, top, width, height] in {place}. Received: {numbers!r}."))
            continue
        left, top, width, height = (float(number) for number in numbers)
        label = str(category.get("name", entry["category_id"]))
        image.drawn.append(Drawn((left, top, left + width, top + height), label, bool(entry.get("iscrowd", 0)), place))
    return list(found.values()), tuple(names)


def read_voc(folder: Path, source: str, skipped: Skipped, names: Sequence[str] | None = None) -> list[Annotated]:
    """Reads a folder of Pascal VOC: `Annotations/*.xml` and `JPEGImages/`, or XML files beside their images.

    Args:
        folder: The folder.
        source: The name for messages.
        skipped: What to do with what is wrong.
        names: The names, without ending, of the images to read; None reads all.

    Returns:
        The images in the order of their names. VOC counts pixels from 1 and includes the last, so 1 is taken off left and top.

    Raises:
        ValueError: If an XML file is broken, a box is not whole, or there is none.

    Source: Everingham et al., 2010, The Pascal Visual Object Classes challenge, IJCV 88.
    """
    place = folder / VOC_FOLDERS[0] if (folder / VOC_FOLDERS[0]).is_dir() else folder
    files = sorted(place.glob("*.xml")) if names is None else [place / f"{name}.xml" for name in names]
    found = []
    for file in files:
        try:
            found.append(_voc_image(file, folder, skipped))
        except (ValueError, OSError) as error:
            skipped.add(error if isinstance(error, ValueError) else FileNotFoundError(_no_annotation(file, source)))
    if not found:
        raise ValueError(f"Expected .xml files of Pascal VOC in {place}. Received: none. Check the path.")
    return found


def voc_splits(folder: Path) -> dict[str, list[str]]:
    """Returns the names in `ImageSets/Main/train.txt`, `val.txt` and `test.txt`; none where there is no train.txt.

    Example:
        >>> voc_splits(Path("a/folder/that/is/not/there"))
        {}
    """
    found = {}
    for role, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        for place in (folder / "ImageSets" / "Main", folder / "ImageSets"):
            if (place / f"{name}.txt").is_file():
                lines = (place / f"{name}.txt").read_text(encoding="utf-8").splitlines()
                found[role] = [line.split()[0] for line in lines if line.strip()]
                break
    return found if "train" in found else {}


def upright_boxes(image: Annotated, header: Header, skipped: Skipped) -> Iterator[tuple[Drawn, np.ndarray]]:
    """Yields each good box of an image, float64 (4,) "xyxy" in pixels of the upright image.

    Where the annotation states the size of the image as it is stored, and EXIF turns it, its boxes are turned with it.

    Args:
        image: The image.
        header: What its file says.
        skipped: What to do with a box that is outside, inverted or empty.
    """
    stored = (header.height, header.width) if header.orientation < TURNED else (header.width, header.height)
    upright = (header.height, header.width)
    size = image.size or upright
    if size not in (stored, upright):
        skipped.add(
            ValueError(
                f"Expected {image.place} to be {size[1]} x {size[0]} as its annotation says. Received: {image.path}, which is "
                f"{upright[1]} x {upright[0]}. Use the images that were annotated."
            )
        )
        return
    for drawn in image.drawn:
        left, top, right, bottom = drawn.box
        error = _box_error(drawn, size)
        if error:
            skipped.add(ValueError(error))
            continue
        box = np.array([max(left, 0.0), max(top, 0.0), min(right, size[1]), min(bottom, size[0])])
        if size != upright:
            box = turned_upright(box, header.orientation, *stored)[0]
        yield drawn, box


def _box_error(drawn: Drawn, size: tuple[int, int]) -> str:
    left, top, right, bottom = drawn.box
    height, width = size
    shown = f"[{left:g}, {top:g}, {right:g}, {bottom:g}] in {drawn.place}"
    if not all(map(math.isfinite, drawn.box)):
        return f"Expected four finite numbers (left, top, right, bottom). Received: {shown}. Correct or remove the box."
    if right < left or bottom < top:
        return f"Expected left < right and top < bottom. Received: {shown}, which is inverted. Exchange its sides, or remove the box."
    if left < -TOLERANCE or top < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        return f"Expected a box inside its image of {width} x {height}. Received: {shown}. Correct or remove the box."
    if min(right, width) - max(left, 0) <= 0 or min(bottom, height) - max(top, 0) <= 0:
        return f"Expected a box with an area. Received: {shown}, which is empty. Correct or remove the box."
    return ""


def _coco_content(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a COCO file. Received: {source}, which is no JSON: {error}. Export it again.") from error
    parts = ("images", "annotations", "categories")
    missing = [name for name in parts if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(f"Expected a COCO file with lists of {', '.join(parts)}. Received: {source} without {', '.join(missing)}.")
    return dict(content)


def _by_id(entries: Sequence[Any], what: str, source: str, skipped: Skipped) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, int | str):
            skipped.add(ValueError(f"Expected each {what} to be an object with an id. Received: {what} number {number} of {source}."))
        elif key in found:
            skipped.add(ValueError(f"Expected each {what} to have an id of its own. Received: the id {key!r} twice in {source}."))
        else:
            found[key] = entry
    return found


def _locate(name: str, file: Path, root: Path | None) -> Path:
    """Returns where an image of a COCO file is: in the folder that was named, beside the file, or in an image folder near it."""
    if root is not None:
        return root / name
    places = [file.parent, *(parent / folder for parent in (file.parent, file.parent.parent) for folder in IMAGE_FOLDERS)]
    # COCO's own: annotations/instances_train2017.json beside train2017/.
    places += [file.parent.parent / file.stem.rpartition("_")[2], file.parent.parent]
    return next((place / name for place in places if (place / name).is_file()), file.parent / name)


def _voc_image(file: Path, folder: Path, skipped: Skipped) -> Annotated:
    if file.stat().st_size > MOST_XML_BYTES:
        raise ValueError(f"Expected an annotation of at most {MOST_XML_BYTES:,} bytes. Received: {file}. Remove it.")
    content = file.read_bytes()
    if b"<!ENTITY" in content or b"<!DOCTYPE" in content:
        raise ValueError(f"Expected a plain XML annotation. Received: {file}, which declares entities. Do not trust this file.")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"Expected a Pascal VOC annotation. Received: {file}, which is broken XML: {error}. Export it again.") from error
    numbers = [root.findtext(f"size/{name}") for name in ("height", "width")]
    sides = [int(float(number)) for number in numbers if number and _is_number(number)]
    size = (sides[0], sides[1]) if len(sides) == 2 and all(sides) else None
    image = Annotated(_voc_path(root.findtext("filename"), file, folder), size, [], str(file))
    for number, thing in enumerate(root.iter("object"), start=1):
        place = f"object {number} of {file}"
        values = [thing.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        label = (thing.findtext("name") or "").strip()
        if not label or not all(value and _is_number(value) for value in values):
            skipped.add(ValueError(f"Expected a name and a bndbox of four numbers. Received: {label!r} and {values} in {place}."))
            continue
        left, top, right, bottom = (float(value) for value in values if value)
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        image.drawn.append(Drawn((left - 1, top - 1, right, bottom), label, difficult, place))
    return image


def _voc_path(name: str | None, file: Path, folder: Path) -> Path:
    """Returns the image of an annotation: by its own name, else by the name that stands in it."""
    places = [place for place in (folder / VOC_FOLDERS[1], folder / "images", file.parent, folder) if place.is_dir()]
    names = [file.stem + ending for ending in IMAGE_ENDINGS] + ([Path(name.replace("\\", "/")).name] if name else [])
    fallback = (places[0] if places else folder) / (name or file.stem)
    return next((place / each for place in places for each in names if (place / each).is_file()), fallback)


def is_voc(folder: Path) -> bool:
    """Tells whether a folder is one of Pascal VOC."""
    return (folder / VOC_FOLDERS[0]).is_dir() or any(entry.suffix.lower() == ".xml" for entry in visible(folder))


def _no_annotation(file: Path, source: str) -> str:
    return f"Expected the annotation {file}, which the split of {source} names. Received: no such file. Correct the list."


def _is_numbers(value: list[Any]) -> bool:
    return len(value) == 4 and all(type(each) in (int, float) for each in value)


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
