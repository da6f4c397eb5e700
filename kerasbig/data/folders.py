"""A folder with one sub-folder a class, each text file one text."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kerasbig.data.tables import TABLE_ENDINGS, Table, read_text

logger = logging.getLogger(__name__)


def read_folder(path: str | Path, *, encoding: str = "utf-8") -> Table:
    """Reads `FOLDER/CLASS/*.txt` as a table with the columns `text` and `label`.

    Hidden files and folders are passed over. Other files are counted and reported, not read.

    Args:
        path: The folder.
        encoding: How the files are encoded.

    Returns:
        A `Table`; its rows number the files in the order of their names.

    Raises:
        ValueError: If there is no sub-folder, or a sub-folder holds no .txt file.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "good").mkdir()
        >>> _ = (folder / "good" / "1.txt").write_text("a fine film")
        >>> read_folder(folder).columns
        {'text': ['a fine film'], 'label': ['good']}
    """
    path = Path(path)
    class_folders = sorted(entry for entry in _visible(path) if entry.is_dir())
    if not class_folders:
        raise _no_class(path)
    texts, labels, files = [], [], []
    ignored: Counter[str] = Counter(_ending(entry) for entry in _visible(path) if not entry.is_dir())
    for class_folder in class_folders:
        found = sorted(entry for entry in _visible(class_folder) if entry.suffix.lower() == ".txt" and entry.is_file())
        others = Counter(_ending(entry) for entry in _visible(class_folder) if entry not in set(found))
        if not found:
            raise ValueError(
                f"Expected at least one .txt file in each sub-folder of {path}, one sub-folder a class. "
                f"Received: none in {class_folder}, which holds {_count(others)}. Save each text as a .txt file, or remove the folder."
            )
        ignored += others
        texts += [read_text(file, str(file), encoding) for file in found]
        labels += [class_folder.name] * len(found)
        files += [str(file) for file in found]
    if ignored:
        logger.warning("%s: read %d .txt files, passed over %s.", path, len(files), _count(ignored))
    return Table(str(path), {"text": texts, "label": labels}, list(range(1, len(files) + 1)), files)


def _no_class(path: Path) -> ValueError:
    tables = sorted(entry.name for entry in _visible(path) if entry.suffix.lower() in TABLE_ENDINGS)
    fix = f"Name the table itself: {path / tables[0]}." if tables else "Make one sub-folder a class and put its texts there as .txt files."
    return ValueError(
        f"Expected a folder with one sub-folder a class. Received: {path} without sub-folders; "
        f"it holds {_count(Counter(_ending(entry) for entry in _visible(path)))}. {fix}"
    )


def _visible(path: Path) -> Iterable[Path]:
    return [entry for entry in path.iterdir() if not entry.name.startswith(".")]


def _ending(entry: Path) -> str:
    return "folder" if entry.is_dir() else entry.suffix or "no ending"


def _count(endings: Counter[str]) -> str:
    """Names files by their ending: `3 files (.md 2, .pdf 1)`."""
    if not endings:
        return "nothing"
    total = endings.total()
    named = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(5))
    return f"{total} other {'entry' if total == 1 else 'entries'} ({named})"
