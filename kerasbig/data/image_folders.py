"""Folders of images, one sub-folder a class or a person, and tables of paths, as tables with the columns `image` and `label`."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kerasbig.data.columns import find_column, read_labels
from kerasbig.data.images import IMAGE_ENDINGS
from kerasbig.data.tables import TABLE_ENDINGS, Table, read_table

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path")
CLASS_COLUMNS = ("label", "class", "person", "identity", "name", "category")
# How people name the folders of their own splits.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


class Skipped:
    """What is wrong in a source: the first raises, or all are listed.

    Args:
        skip: Whether to skip and list.
    """

    def __init__(self, skip: bool):
        self.skip = skip
        self.messages: list[str] = []

    def add(self, error: Exception) -> None:
        """Takes note of an error, or raises it."""
        if not self.skip:
            raise error
        self.messages.append(str(error))

    def log(self, source: str) -> None:
        """Says how many were skipped."""
        if self.messages:
            logger.warning("%s: skipped %d; the first: %s", source, len(self.messages), self.messages[0])


def find_split_folders(folder: Path) -> dict[str, Path] | None:
    """Returns the folders of a source that has its own splits (`train/`, `val/`, `test/`), or None.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("train/cat", "val/cat"):
        ...     (root / name).mkdir(parents=True)
        >>> sorted(find_split_folders(root))
        ['train', 'validation']
    """
    found = {}
    for entry in visible(folder):
        role = next((role for role, names in SPLIT_FOLDERS.items() if entry.name.lower() in names), None)
        if role is None or not entry.is_dir():
            return None
        found[role] = entry
    return found if "train" in found and len(found) > 1 else None


def read_image_folder(path: Path, skipped: Skipped) -> Table:
    """Reads `FOLDER/CLASS/**/*.jpg` and the like as a table with the columns `image` and `label`.

    Hidden files and folders are passed over; files with other endings are counted and reported.

    Args:
        path: The folder.
        skipped: What to do with a class folder that holds no image.

    Returns:
        A `Table` of paths and class names; its rows number the files in the order of their names.

    Raises:
        ValueError: If there is no sub-folder, or one holds no image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "cat").mkdir()
        >>> Image.new("RGB", (8, 8)).save(folder / "cat" / "1.png")
        >>> read_image_folder(folder, Skipped(False)).columns["label"]
        ['cat']
    """
    class_folders = sorted(entry for entry in visible(path) if entry.is_dir())
    if not class_folders:
        raise _no_class(path)
    files: list[str] = []
    labels: list[str] = []
    others: Counter[str] = Counter()
    for folder in class_folders:
        entries = [entry for entry in sorted(folder.rglob("*")) if not _is_hidden(entry, folder) and entry.is_file()]
        found = [entry for entry in entries if entry.suffix.lower() in IMAGE_ENDINGS]
        if not found:
            skipped.add(_empty_class(path, folder, entries))
            continue
        others += Counter(entry.suffix or "no ending" for entry in entries if entry.suffix.lower() not in IMAGE_ENDINGS)
        files += [str(entry) for entry in found]
        labels += [folder.name] * len(found)
    if not files:
        raise ValueError(f"Expected images in the sub-folders of {path}. Received: none in any of {len(class_folders)}.")
    if others:
        logger.warning("%s: read %d images, passed over %s.", path, len(files), counted(others))
    return Table(str(path), {"image": list(files), "label": list(labels)}, list(range(1, len(files) + 1)), files)


def read_image_table(path: Path, source: str, *, image: str | None, label: str | None, images: str | None, encoding: str) -> Table:
    """Reads a table of paths and labels.

    Args:
        path: A .csv, .tsv, .jsonl, .json or .parquet file.
        source: The name for messages.
        image: The column of paths; None looks for an obvious name.
        label: The column of labels; None looks for an obvious name.
        images: The folder that the paths start from; None for the table's own.
        encoding: How the file is encoded.

    Returns:
        A `Table` with the columns `image` (full paths) and `label`.

    Raises:
        ValueError: If a column is not there, or a path or a label is empty.
    """
    table = read_table(path, encoding=encoding, source=source)
    image_column = find_column(table, image, IMAGE_COLUMNS, "image")
    label_column = find_column(table, label, CLASS_COLUMNS, "label")
    if image_column == label_column:
        raise ValueError(
            f"Expected two columns, one of paths and one of labels. Received: image={image_column!r} and label={label_column!r}."
        )
    root = Path(images) if images else path.parent
    paths = []
    for i, value in enumerate(table.columns[image_column]):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"Expected a path in each row of column {image_column!r}. Received: {value!r} in {table.place(i)}.")
        paths.append(str(root / value.strip().replace("\\", os.sep)))
    return Table(source, {"image": paths, "label": read_labels(table, label_column)}, table.rows)


def visible(path: Path) -> Iterable[Path]:
    """Returns the entries of a folder that are not hidden."""
    return [entry for entry in path.iterdir() if not entry.name.startswith(".")]


def counted(endings: Mapping[str, int] | Sequence[str]) -> str:
    """Names files by their ending: `3 files (.md 2, .pdf 1)`.

    Example:
        >>> counted([".md", ".md", ".pdf"])
        '3 files (.md 2, .pdf 1)'
    """
    counts = Counter(endings)
    if not counts:
        return "nothing"
    named = ", ".join(f"{ending} {count}" for ending, count in counts.most_common(5))
    return f"{counts.total()} file{'' if counts.total() == 1 else 's'} ({named})"


def _is_hidden(entry: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in entry.relative_to(folder).parts)


def _empty_class(path: Path, folder: Path, entries: Sequence[Path]) -> ValueError:
    held = counted([entry.suffix or "no ending" for entry in entries])
    return ValueError(
        f"Expected at least one image ({', '.join(IMAGE_ENDINGS)}) in each sub-folder of {path}, one sub-folder a class or person. "
        f"Received: none in {folder}, which holds {held}. Put images there, or remove the folder."
    )


def _no_class(path: Path) -> ValueError:
    entries = list(visible(path))
    tables = sorted(entry.name for entry in entries if entry.suffix.lower() in TABLE_ENDINGS)
    fix = f"Name the table itself: {path / tables[0]}." if tables else "Make one sub-folder a class or person and put its images there."
    return ValueError(
        f"Expected a folder with one sub-folder a class or person. Received: {path} without sub-folders; "
        f"it holds {counted([entry.suffix or 'no ending' for entry in entries])}. {fix}"
    )
