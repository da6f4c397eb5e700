"""A source to training, validation and test examples."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kerasbig.data import columns
from kerasbig.data.dividing import divide_examples
from kerasbig.data.documents import divide, read_documents
from kerasbig.data.examples import Examples, Splits
from kerasbig.data.folders import read_folder
from kerasbig.data.image_examples import CLASSIFIERS, IMAGE_TASKS, ImageOptions, Reader, image_parts, joined, without_small_classes
from kerasbig.data.people import set_people_aside
from kerasbig.data.samples import fetch
from kerasbig.data.sources import Source, find_sample, missing, split_files
from kerasbig.data.tables import Table, read_table
from kerasbig.remote import fetch as fetch_remote
from kerasbig.remote import is_remote

TASKS = ("text-classifier", "text-generator", *IMAGE_TASKS)
# The options that not every task has.
_OPTIONS = {
    "text-classifier": ("text", "label", "regression", "classes"),
    "text-generator": ("text", "separator"),
    "image-classifier": ("image", "label", "images", "skip_bad", "classes"),
    "face-classifier": ("image", "label", "images", "skip_bad", "classes", "unseen"),
    "object-detector": ("images", "skip_bad", "classes"),
}


def load(
    source: Source,
    task: str = "text-classifier",
    *,
    text: str | None = None,
    label: str | None = None,
    regression: bool = False,
    separator: str | None = None,
    image: str | None = None,
    images: str | None = None,
    skip_bad: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
    unseen: float = 0.0,
    seed: int = 0,
    encoding: str = "utf-8",
    classes: Sequence[str] | None = None,
) -> Splits[Any]:
    r"""Reads a source and splits it into training, validation and test examples.

    The split is drawn by `seed` alone. For a classifier it keeps the share of each class, and the examples of each split are
    shuffled. A text generator gets whole documents, in the order of the files; fewer documents than splits, such as a book in
    one file, are cut into parts in their order, training first, each ending at a line end. Images with boxes are divided by the
    rarest class on each.

    Args:
        source: A .csv, .tsv, .jsonl, .json (one object a line) or .parquet file; a folder with one sub-folder a class,
            each .txt file one text; an address of such a file or folder (gs://, s3:// …); a sample's name
            (`kerasbig.data.samples`); or your own files for the splits as a dict or as
            "train=FILE,validation=FILE,test=FILE". A split without a file is taken from the training file. For a text
            generator also a plain text file, a folder of .txt files and tables, or a pattern such as "books/**/*.md".
            For images: a folder with one sub-folder of images a class or person, or such folders under train/, val/, test/;
            or a table of paths and labels. For an object detector: a COCO .json file or a folder with one or one a split;
            or a folder of Pascal VOC, whose ImageSets/Main are its splits.
        task: "text-classifier", "text-generator", "image-classifier", "face-classifier" or "object-detector".
        text: The column of texts; by default text, sentence, review, content or comment.
        label: The column of labels; by default label, class, sentiment or category, for a regression rating, score,
            value or label, for images label, class, person, identity, name or category.
        regression: Whether labels are real values. `Splits.classes` is then None.
        separator: For a text generator: what stands between the documents of a plain text file, such as "\n\n" for a blank
            line. By default each file is one document.
        image: For a table of images: the column of paths; by default image, path, file, filename or file_name.
        images: The folder that the paths of a table, or of a COCO file, start from; by default that of the file.
        skip_bad: For images: whether to skip what is broken or wrong, and list it as `Examples.skipped`, instead of stopping.
        validation: The fraction of all examples for validation, between 0 and 1.
        test: The fraction of all examples for the test, between 0 and 1.
        unseen: For faces: the fraction of the people to set aside as `Splits.unseen`, from 0 to below 1, so that verification is
            measured, and its threshold chosen, on people that the model has never seen.
        seed: Decides the split.
        encoding: How the text files are encoded.
        classes: Names of the classes in the order of their ids; by default those found in the training examples,
            numbers by their size, else by the alphabet.

    Returns:
        `Splits` of `Examples`, or of `Documents` for a text generator.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If a row, a label or a parameter cannot be used; the message names the place and the fix.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = file.write_text("text,label\n" + "a fine film,good\na dull film,bad\n" * 20)
        >>> splits = load(file)
        >>> splits.classes, len(splits.train), len(splits.validation), len(splits.test)
        (('bad', 'good'), 28, 4, 8)
    """
    given = {"text": text, "label": label, "regression": regression, "separator": separator, "image": image, "images": images}
    _require_options(task, {**given, "skip_bad": skip_bad, "classes": classes, "unseen": unseen or None})
    _require_fractions(validation, test, seed)
    files = split_files(source)
    if task in IMAGE_TASKS:
        options = ImageOptions(image, label, images, encoding, skip_bad)
        splits = _load_images(files, task, options, {"test": test, "validation": validation}, seed, classes)
        return set_people_aside(splits, unseen, seed) if unseen else splits
    fractions = {role: fraction for role, fraction in (("test", test), ("validation", validation)) if role not in files}
    if task == "text-generator":
        found = {role: read_documents(file, role=role, text=text, separator=separator, encoding=encoding) for role, file in files.items()}
        return Splits(**found | divide(found["train"], fractions, seed))
    parts: dict[str, Examples] = {}
    for role, file in files.items():
        table = _read_source(file, encoding)
        parts[role] = _examples(table, role, text, label, regression, classes)
        classes = parts["train"].classes
    parts |= divide_examples(parts["train"], fractions, seed)
    return Splits(**parts)


def read(
    source: str | os.PathLike[str],
    task: str = "text-classifier",
    *,
    text: str | None = None,
    label: str | None = None,
    regression: bool = False,
    separator: str | None = None,
    image: str | None = None,
    images: str | None = None,
    skip_bad: bool = False,
    encoding: str = "utf-8",
    classes: Sequence[str] | None = None,
) -> Any:
    r"""Reads a whole source in its own order, to evaluate or to predict on it.

    Args:
        source: A file, a folder or a sample's name, as for `load`.
        task: A task, as for `load`.
        text: The column of texts, as for `load`.
        label: The column of labels, as for `load`.
        regression: Whether labels are real values.
        separator: What stands between documents, as for `load`.
        image: The column of paths, as for `load`.
        images: The folder that paths start from, as for `load`.
        skip_bad: Whether to skip and list what is wrong, as for `load`.
        encoding: How the text files are encoded.
        classes: The classes of the trained model. By default those found in the source.

    Returns:
        `Examples`, or `Documents` for a text generator, with the role "all".

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If a row, a label or a parameter cannot be used, or `source` names several files.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "new.csv"
        >>> _ = file.write_text("text,label\na fine film,good\n")
        >>> read(file, classes=("bad", "good")).targets
        array([1], dtype=int32)
    """
    given = {"text": text, "label": label, "regression": regression, "separator": separator, "image": image, "images": images}
    _require_options(task, {**given, "skip_bad": skip_bad, "classes": classes})
    files = split_files(source)
    if len(files) > 1:
        raise ValueError(
            f"Expected one file, folder or sample. Received: {source!r}. Pass the one that is meant, such as {list(files.values())[-1]}."
        )
    if task == "text-generator":
        return read_documents(files["train"], text=text, separator=separator, encoding=encoding)
    if task in IMAGE_TASKS:
        options = ImageOptions(image, label, images, encoding, skip_bad)
        return joined(image_parts(files["train"], task, options), classes)
    return _examples(_read_source(files["train"], encoding), "all", text, label, regression, classes)


def _examples(table: Table, role: str, text: str | None, label: str | None, regression: bool, classes: Sequence[str] | None) -> Examples:
    """Takes texts and targets from a table."""
    text_column = columns.find_column(table, text, columns.TEXT_COLUMNS, "text")
    label_column = columns.find_column(table, label, columns.VALUE_COLUMNS if regression else columns.LABEL_COLUMNS, "label")
    if text_column == label_column:
        raise ValueError(
            f"Expected two columns, one of texts and one of labels. Received: text={text_column!r} and label={label_column!r}."
        )
    inputs = columns.read_inputs(table, text_column)
    if regression:
        return Examples(inputs, columns.read_values(table, label_column), None, table.rows, table.source, role)
    labels = columns.read_labels(table, label_column)
    names = columns.class_names(table, label_column, labels) if classes is None else tuple(classes)
    return Examples(inputs, columns.class_ids(table, labels, names), names, table.rows, table.source, role)


def _read_source(source: str | os.PathLike[str], encoding: str) -> Table:
    """Reads a sample, a folder or a file."""
    sample = find_sample(source)
    if sample is not None:
        return read_table(fetch(sample.name), source=sample.name)
    if is_remote(source):
        return replace(_read_source(fetch_remote(str(source)), encoding), source=str(source))
    path = Path(source)
    if path.is_dir():
        return read_folder(path, encoding=encoding)
    if not path.exists():
        raise missing(path)
    return read_table(path, encoding=encoding)


def _load_images(
    files: Mapping[str, str | os.PathLike[str]],
    task: str,
    options: ImageOptions,
    fractions: Mapping[str, float],
    seed: int,
    classes: Sequence[str] | None,
) -> Splits[Examples]:
    """Reads each split that has files or folders of its own, and takes the others from the training images."""
    # A source with splits of its own gives all of them, unless each split was named by itself.
    own = {role: image_parts(file, task, options) for role, file in files.items()}
    readers = own["train"] if len(own) == 1 else {role: partial(_read_as, found) for role, found in own.items()}
    parts: dict[str, Examples] = {}
    for role in sorted(readers, key=("train", "validation", "test").index):
        parts[role] = readers[role](role, classes)
        classes = parts["train"].classes
    left = {role: fraction for role, fraction in fractions.items() if role not in parts}
    if options.skip_bad and task in CLASSIFIERS and left:
        parts["train"] = without_small_classes(parts["train"], len(left) + 1)
    return Splits(**parts | divide_examples(parts["train"], left, seed))


def _read_as(parts: Mapping[str, Reader], role: str, classes: Sequence[str] | None) -> Examples:
    return replace(joined(parts, classes), role=role)


def _require_options(task: str, given: Mapping[str, Any]) -> None:
    if task not in TASKS:
        close = difflib.get_close_matches(str(task), TASKS, n=1)
        raise ValueError(
            f"Expected task to be one of {', '.join(TASKS)}. Received: task={task!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
        )
    wrong = [name for name, value in given.items() if name not in _OPTIONS[task] and value is not None and value is not False]
    if wrong:
        raise ValueError(f"Expected options of task {task!r}. Received: {wrong[0]}={given[wrong[0]]!r}, of another task. Leave it out.")
    classes = given["classes"]
    if classes is None:
        return
    if given["regression"]:
        raise ValueError(
            f"Expected no classes for a regression. Received: regression=True and classes={tuple(classes)}. Leave one of them out."
        )
    fewest = 1 if task == "object-detector" else 2
    if isinstance(classes, str) or len(set(classes)) != len(classes) or len(classes) < fewest:
        raise ValueError(f"Expected at least {('one class name', 'two different class names')[fewest - 1]}. Received: classes={classes!r}")


def _require_fractions(validation: float, test: float, seed: int) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"Expected validation and test to be fractions above 0 that together stay below 1. "
            f"Received: validation={validation}, test={test}"
        )
    if seed < 0:
        raise ValueError(f"Expected a seed of 0 or more. Received: seed={seed}")
