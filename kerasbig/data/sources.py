"""What a user may name as a source of data: files, folders, addresses, samples, and files of one's own for the splits."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from kerasbig.data.samples import Sample, samples

Source = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]

SPLIT_NAMES = ("train", "validation", "test")


# What kind of sample each task reads.
_KINDS = {"image-classifier": "images", "face-classifier": "images", "object-detector": "boxes"}


def find_sample(source: str | os.PathLike[str], task: str = "text-classifier") -> Sample | None:
    """Returns the sample that a source names, or None.

    Raises:
        ValueError: If the sample is a pretrained model, or for another task.

    Example:
        >>> find_sample("movie_reviews").kind, find_sample("reviews.csv")
        ('data', None)
    """
    sample = next((each for each in samples() if each.name == source), None)
    if sample is None:
        return None
    if sample.kind == "preset":
        raise ValueError(f"Expected a source of examples. Received: {source!r}, which is a pretrained model: pass it as preset (--preset).")
    wanted = _KINDS.get(task, "data")
    if sample.kind != wanted:
        others = ", ".join(each.name for each in samples() if each.kind == wanted)
        raise ValueError(f"Expected a sample for the task {task}: {others}. Received: {source!r}, which holds {sample.description}.")
    return sample


def missing(path: Path) -> FileNotFoundError:
    """Returns the error for a file that is not there, with what may be meant.

    Example:
        >>> "Did you mean 'movie_reviews'?" in str(missing(Path("movie_review")))
        True
    """
    names = [sample.name for sample in samples() if sample.kind != "preset"]
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    meant = str(path.with_name(close[0])) if close else next(iter(difflib.get_close_matches(str(path), names, n=1)), None)
    return FileNotFoundError(
        f"Expected a file, a folder or a sample's name ({', '.join(names)}). Received: {str(path)!r}, which is not there."
        f"{f' Did you mean {meant!r}?' if meant else ' Check the path.'}"
    )


def split_files(source: Source) -> dict[str, str | os.PathLike[str]]:
    """Returns the file of each split that has one, training first; a source in one place counts as training.

    Raises:
        ValueError: If a split is unknown, named twice or without a file, or training has none.

    Example:
        >>> split_files("test=b.txt,train=a.txt"), split_files("a.txt")
        ({'train': 'a.txt', 'test': 'b.txt'}, {'train': 'a.txt'})
    """
    pairs: list[tuple[str, str | os.PathLike[str]]] = [("train", source)] if not isinstance(source, Mapping) else list(source.items())
    if isinstance(source, str) and re.match(r"\w+=", source) and not Path(source).exists():
        pairs = [(name, file) for name, _, file in (part.partition("=") for part in re.split(r",(?=\w+=)", source))]
    for i, (name, file) in enumerate(pairs):
        if name not in SPLIT_NAMES:
            close = difflib.get_close_matches(name, SPLIT_NAMES, n=1, cutoff=0.4)
            raise ValueError(
                f"Expected files for {', '.join(SPLIT_NAMES)}. Received: {name!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
            )
        if name in (other for other, _ in pairs[:i]):
            raise ValueError(f"Expected one file a split. Received: two for {name!r}.")
        if not str(file):
            raise ValueError(f"Expected a file for {name!r}. Received: an empty name. Write {name}=FILE.")
    files = dict(pairs)
    if "train" not in files:
        raise ValueError(f"Expected a training file. Received: files for {', '.join(files) or 'no split'} only. Add train=FILE.")
    _refuse_same_file(files)
    return {name: files[name] for name in SPLIT_NAMES if name in files}


def _refuse_same_file(files: Mapping[str, str | os.PathLike[str]]) -> None:
    real: dict[str, str] = {}
    for name, file in files.items():
        # A hard link has another path but the same file number.
        key = "{0.st_dev}-{0.st_ino}".format(os.stat(file)) if os.path.exists(file) else os.path.realpath(file)
        if key in real:
            raise ValueError(
                f"Expected a file of its own for each split. Received: {str(file)!r} for {real[key]} and {name}, so that the model "
                f"would be judged on what it has learnt. Leave {name} out to take it from the training file."
            )
        real[key] = name
