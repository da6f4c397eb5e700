"""A source of images to examples: folders, tables of paths, COCO and VOC, each file and box checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from kerasbig.data import columns
from kerasbig.data.annotations import Annotated, is_voc, read_coco, read_voc, upright_boxes, voc_splits
from kerasbig.data.boxes import Boxes
from kerasbig.data.examples import Examples, concatenated
from kerasbig.data.image_folders import Skipped, counted, find_split_folders, read_image_folder, read_image_table, visible
from kerasbig.data.image_samples import read_image_sample
from kerasbig.data.images import Header, ImageFiles, read_header
from kerasbig.data.sources import SPLIT_NAMES, find_sample, missing
from kerasbig.data.tables import Table
from kerasbig.remote import fetch as fetch_remote
from kerasbig.remote import is_remote

CLASSIFIERS = ("image-classifier", "face-classifier")
IMAGE_TASKS = (*CLASSIFIERS, "object-detector")

# Reads one part of a source, given its role and the classes that are known from training.
Reader = Callable[[str, Sequence[str] | None], Examples]


@dataclass(frozen=True)
class ImageOptions:
    """How to read a source of images.

    Attributes:
        image: The column of paths of a table.
        label: The column of labels of a table.
        images: The folder that the paths of a table or a COCO file start from.
        encoding: How a table is encoded.
        skip_bad: Whether to skip and list what is wrong.
    """

    image: str | None = None
    label: str | None = None
    images: str | None = None
    encoding: str = "utf-8"
    skip_bad: bool = False


def image_parts(source: str | os.PathLike[str], task: str, options: ImageOptions) -> dict[str, Reader]:
    """Finds out what a source of images is, and returns how to read each of its parts.

    Args:
        source: A file, a folder, an address or a sample's name.
        task: One of `IMAGE_TASKS`.
        options: How to read it.

    Returns:
        A reader for each of "train", "validation" and "test" that the source has of its own; "train" alone for all of it.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If it is of no known form.

    Example:
        >>> parts = image_parts("digit_scenes", "object-detector", ImageOptions())
        >>> list(parts), len(parts["test"]("test", None))
        (['train', 'validation', 'test'], 250)
    """
    sample = find_sample(source, task)
    if sample is not None:
        return {role: partial(_read_sample, sample.name, role) for role in sample.splits or ("train",)}
    if is_remote(source):
        local = fetch_remote(str(source))
        if not local.is_dir():
            raise ValueError(
                f"Expected the address of a folder of images. Received: {source!r}, a file: its images would stay behind. Name the folder."
            )
        return image_parts(local, task, options)
    path = Path(source)
    if not path.exists():
        raise missing(path)
    if task == "object-detector":
        return _box_parts(path, str(source), options)
    parts = find_split_folders(path) if path.is_dir() else None
    return {role: partial(_read_labelled, part, options) for role, part in (parts or {"train": path}).items()}


def _read_sample(name: str, split: str, role: str, classes: Sequence[str] | None) -> Examples:
    examples = read_image_sample(name, split, role)
    if classes is None or tuple(classes) == examples.classes:
        return examples
    raise ValueError(f"Expected the classes of the sample {name!r}: {examples.classes}. Received: classes={tuple(classes)}")


def _read_labelled(part: Path, options: ImageOptions, role: str, classes: Sequence[str] | None) -> Examples:
    """Reads a folder or a table of images with labels."""
    skipped = Skipped(options.skip_bad)
    if part.is_dir():
        table = read_image_folder(part, skipped)
    else:
        table = read_image_table(
            part, str(part), image=options.image, label=options.label, images=options.images, encoding=options.encoding
        )
    return _labelled(table, role, classes, skipped)


def joined(parts: Mapping[str, Reader], classes: Sequence[str] | None) -> Examples:
    """Reads all parts of a source as one, in the order training, validation, test.

    Args:
        parts: What `image_parts` returned.
        classes: The classes of a trained model, or None.

    Returns:
        `Examples` with the role "all".
    """
    read = []
    for role in sorted(parts, key=SPLIT_NAMES.index):
        read.append(parts[role]("all", classes))
        classes = read[0].classes
    return read[0] if len(read) == 1 else concatenated(read)


def without_small_classes(examples: Examples, needed: int) -> Examples:
    """Leaves out the classes that have too few examples for one in each split, and lists them.

    Args:
        examples: Labelled images.
        needed: The fewest examples of a class.

    Example:
        >>> examples = Examples(["a", "b", "c"], np.array([0, 0, 1], "int32"), ("s1", "s2"), [1, 2, 3], "people", "train")
        >>> without_small_classes(examples, 2).classes
        ('s1',)
    """
    names = examples.classes or ()
    counts = np.bincount(examples.targets, minlength=len(names))
    kept = np.flatnonzero(counts >= needed)
    if len(kept) == len(names):
        return examples
    said = [
        f"Expected at least {needed} images of each class or person. Received: {counts[i]} of {names[i]!r} in {examples.source}."
        for i in np.flatnonzero(counts < needed)
    ]
    return replace(of_classes(examples, kept), skipped=(*examples.skipped, *said))


def of_classes(examples: Examples, kept: np.ndarray) -> Examples:
    """Returns the examples of some classes, which become all there are.

    Args:
        examples: Labelled examples.
        kept: int (K,): the ids of the classes, ascending.

    Example:
        >>> examples = Examples(["a", "b", "c"], np.array([0, 1, 2], "int32"), ("s1", "s2", "s3"), [1, 2, 3], "people", "train")
        >>> of_classes(examples, np.array([0, 2])).targets.tolist()
        [0, 1]
    """
    chosen = examples.take(np.flatnonzero(np.isin(examples.targets, kept)), examples.role)
    targets = np.searchsorted(kept, chosen.targets).astype("int32")
    return replace(chosen, targets=targets, classes=tuple((examples.classes or ())[i] for i in kept))


def _labelled(table: Table, role: str, classes: Sequence[str] | None, skipped: Skipped) -> Examples:
    """Checks each file of a table and returns images with class ids."""
    good: list[int] = []
    headers: list[Header] = []
    for i, path in enumerate(table.columns["image"]):
        try:
            headers.append(read_header(path))
        except (FileNotFoundError, ValueError) as error:
            place = "" if table.files is not None else f" ({table.place(i)})"
            skipped.add(type(error)(f"{error}{place}"))
            continue
        good.append(i)
    if not good:
        raise ValueError(f"Expected at least one image that can be read in {table.source}. Received: none.")
    kept = Table(
        table.source,
        {name: [values[i] for i in good] for name, values in table.columns.items()},
        [table.rows[i] for i in good],
        None if table.files is None else [table.files[i] for i in good],
    )
    labels = kept.columns["label"]
    names = columns.in_order(set(labels)) if classes is None else tuple(classes)
    if len(names) < 2:
        raise ValueError(f"Expected at least two classes in {table.source}. Received: one, {names[0]!r}. Add images of another class.")
    targets = columns.class_ids(kept, labels, names)
    skipped.log(table.source)
    files = ImageFiles.of(kept.columns["image"], headers)
    return Examples(files, targets, names, kept.rows, table.source, role, tuple(skipped.messages))


def _box_parts(path: Path, source: str, options: ImageOptions) -> dict[str, Reader]:
    """Finds COCO files and VOC folders."""
    if path.is_dir():
        folders = find_split_folders(path)
        if folders:
            return {role: _box_parts(part, str(part), options)["train"] for role, part in folders.items()}
        if is_voc(path):
            lists: dict[str, list[str] | None] = dict(voc_splits(path)) or {"train": None}
            return {role: partial(_read_voc, path, source, names, options) for role, names in lists.items()}
        return {role: partial(_read_coco, file, str(file), options) for role, file in _coco_files(path).items()}
    if path.suffix.lower() != ".json":
        raise ValueError(f"Expected a COCO file (.json) or a folder of COCO or Pascal VOC. Received: {source!r}.")
    return {"train": partial(_read_coco, path, source, options)}


def _read_voc(
    path: Path, source: str, names: list[str] | None, options: ImageOptions, role: str, classes: Sequence[str] | None
) -> Examples:
    skipped = Skipped(options.skip_bad)
    return _boxed(read_voc(path, source, skipped, names), None, role, source, classes, skipped)


def _read_coco(path: Path, source: str, options: ImageOptions, role: str, classes: Sequence[str] | None) -> Examples:
    skipped = Skipped(options.skip_bad)
    annotated, names = read_coco(path, source, skipped, options.images)
    return _boxed(annotated, names, role, source, classes, skipped)


def _coco_files(folder: Path) -> dict[str, Path]:
    """Returns the COCO file of a folder, or those of its splits, as in `annotations/instances_val2017.json`."""
    places = [folder, folder / "annotations"]
    files = sorted(file for place in places if place.is_dir() for file in place.glob("*.json"))
    instances = [file for file in files if file.stem.startswith("instances_")] or files
    if len(instances) == 1:
        return {"train": instances[0]}
    words = {"train": "train", "validation": "val", "test": "test"}
    named = {role: file for role, word in words.items() for file in instances if word in file.stem}
    if "train" in named and len(named) == len(instances):
        return named
    entries = [entry.suffix or "no ending" for entry in visible(folder)]
    raise ValueError(
        f"Expected a folder of Pascal VOC (Annotations, JPEGImages) or with one COCO file (.json). Received: {folder}, "
        f"which holds {len(instances)} .json files among {counted(entries)}. Name the file itself."
    )


def _boxed(
    annotated: list[Annotated], names: tuple[str, ...] | None, role: str, source: str, classes: Sequence[str] | None, skipped: Skipped
) -> Examples:
    """Checks each file and box, and returns images with boxes."""
    paths: list[str] = []
    headers: list[Header] = []
    boxes: list[list[np.ndarray]] = []
    labels: list[list[str]] = []
    ignored: list[list[bool]] = []
    rows: list[int] = []
    seen: set[Path] = set()
    for row, image in enumerate(annotated, start=1):
        try:
            if image.path in seen:
                raise ValueError(f"Expected one entry an image. Received: {image.path} again in {image.place}. Join the two.")
            headers.append(read_header(image.path))
        except (FileNotFoundError, ValueError) as error:
            skipped.add(type(error)(str(error) if image.place in str(error) else f"{error} ({image.place})"))
            continue
        seen.add(image.path)
        good = list(upright_boxes(image, headers[-1], skipped))
        paths.append(str(image.path))
        rows.append(row)
        boxes.append([box for _, box in good])
        labels.append([drawn.label for drawn, _ in good])
        ignored.append([drawn.ignored for drawn, _ in good])
    if not paths:
        raise ValueError(f"Expected at least one image that can be read in {source}. Received: none.")
    known = tuple(classes) if classes is not None else _used_classes(names, labels, source, skipped)
    ids = {name: i for i, name in enumerate(known)}
    strange = next(((label, paths[i]) for i, each in enumerate(labels) for label in each if label not in ids), None)
    if strange:
        raise ValueError(
            f"Expected one of the classes known from training: {', '.join(map(repr, known))}. Received: {strange[0]!r} on {strange[1]}. "
            "Correct or remove it, or train with examples of the new class."
        )
    skipped.log(source)
    found = Boxes.of(boxes, [[ids[label] for label in each] for each in labels], ignored)
    return Examples(ImageFiles.of(paths, headers), found, known, rows, source, role, tuple(skipped.messages))


def _used_classes(names: tuple[str, ...] | None, labels: list[list[str]], source: str, skipped: Skipped) -> tuple[str, ...]:
    used = {label for each in labels for label in each}
    if not used:
        raise ValueError(f"Expected at least one box in {source}. Received: none.")
    if names is None:
        return tuple(sorted(used))
    for name in names:
        if name not in used:
            skipped.add(
                ValueError(f"Expected each category to have a box. Received: {name!r} without one in {source}. Remove the category.")
            )
    return tuple(name for name in names if name in used)
