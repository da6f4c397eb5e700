"""A source to training, validation and test examples."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kerasbig.data import columns
from kerasbig.data.examples import Examples, Splits
from kerasbig.data.folders import read_folder
from kerasbig.data.samples import fetch, samples
from kerasbig.data.tables import Table, read_table

Source = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]

TASKS = ("text-classifier",)
SPLIT_NAMES = ("train", "validation", "test")


def load(
    source: Source,
    task: str = "text-classifier",
    *,
    text: str | None = None,
    label: str | None = None,
    regression: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    encoding: str = "utf-8",
    classes: Sequence[str] | None = None,
) -> Splits:
    r"""Reads a source and splits it into training, validation and test examples.

    The split is drawn by `seed` alone and keeps the share of each class; the examples of each split are shuffled.

    Args:
        source: A .csv, .tsv, .jsonl, .json (one object a line) or .parquet file; a folder with one sub-folder a class,
            each .txt file one text; a sample's name (`kerasbig.data.samples`); or your own files for the splits as a
            dict or as "train=FILE,validation=FILE,test=FILE". A split without a file is taken from the training file.
        task: "text-classifier".
        text: The column of texts; by default text, sentence, review, content or comment.
        label: The column of labels; by default label, class, sentiment or category, for a regression rating, score,
            value or label.
        regression: Whether labels are real values. `Splits.classes` is then None.
        validation: The fraction of all examples for validation, between 0 and 1.
        test: The fraction of all examples for the test, between 0 and 1.
        seed: Decides the split.
        encoding: How the text files are encoded.
        classes: Names of the classes in the order of their ids; by default those found in the training examples,
            numbers by their size, else by the alphabet.

    Returns:
        `Splits`.

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
    _require_options(task, regression, classes)
    _require_fractions(validation, test, seed)
    files = _split_files(source)
    fractions = {role: fraction for role, fraction in (("test", test), ("validation", validation)) if role not in files}
    parts: dict[str, Examples] = {}
    for role, file in files.items():
        table = _read_source(file, encoding)
        parts[role] = _examples(table, role, text, label, regression, classes)
        classes = parts["train"].classes
    parts |= _divide(parts["train"], fractions, seed)
    return Splits(**parts)


def read(
    source: str | os.PathLike[str],
    task: str = "text-classifier",
    *,
    text: str | None = None,
    label: str | None = None,
    regression: bool = False,
    encoding: str = "utf-8",
    classes: Sequence[str] | None = None,
) -> Examples:
    r"""Reads a whole source in its own order, to evaluate or to predict on it.

    Args:
        source: A file, a folder or a sample's name, as for `load`.
        task: "text-classifier".
        text: The column of texts, as for `load`.
        label: The column of labels, as for `load`.
        regression: Whether labels are real values.
        encoding: How the text files are encoded.
        classes: The classes of the trained model. By default those found in the source.

    Returns:
        `Examples` with the role "all".

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
    _require_options(task, regression, classes)
    files = _split_files(source)
    if len(files) > 1:
        raise ValueError(
            f"Expected one file, folder or sample. Received: {source!r}. Pass the one that is meant, such as {list(files.values())[-1]}."
        )
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
    sample = next((s for s in samples() if s.name == source), None)
    if sample is not None:
        if sample.kind != "data":
            raise ValueError(
                f"Expected a source of examples. Received: {source!r}, which is a pretrained model: pass it as preset (--preset)."
            )
        return read_table(fetch(sample.name), source=sample.name)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, encoding=encoding)
    if not path.exists():
        raise _missing(path)
    return read_table(path, encoding=encoding)


def _missing(path: Path) -> FileNotFoundError:
    names = [sample.name for sample in samples() if sample.kind == "data"]
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    meant = str(path.with_name(close[0])) if close else next(iter(difflib.get_close_matches(str(path), names, n=1)), None)
    return FileNotFoundError(
        f"Expected a file, a folder or a sample's name ({', '.join(names)}). Received: {str(path)!r}, which is not there."
        f"{f' Did you mean {meant!r}?' if meant else ' Check the path.'}"
    )


def _split_files(source: Source) -> dict[str, str | os.PathLike[str]]:
    """Returns the file of each split that has one, training first; a source in one place counts as training."""
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


def _divide(examples: Examples, fractions: Mapping[str, float], seed: int) -> dict[str, Examples]:
    """Takes a fraction of each class away for each named split; what remains is for training.

    Unlike scikit-learn's stratified split, which can leave a rare class out of a small split, it gives each split at
    least one example of each class.

    Args:
        examples: All examples, in any order.
        fractions: The share of the examples for each split other than training.
        seed: Decides which.

    Returns:
        Shuffled examples of "train" and of each split named.
    """
    ids = np.zeros(len(examples), "int32") if examples.classes is None else examples.targets
    counts = np.bincount(ids, minlength=1 if examples.classes is None else len(examples.classes))
    _require_counts(examples, counts, len(fractions) + 1)
    random = np.random.default_rng(seed)
    pools = [random.permutation(np.flatnonzero(ids == i)) for i in range(len(counts))]
    chosen: dict[str, np.ndarray] = {}
    for place, (role, fraction) in enumerate(fractions.items()):
        left = np.array([len(pool) for pool in pools])
        shares = _shares(counts, left - (len(fractions) - place), fraction)
        chosen[role] = np.concatenate([pool[:share] for pool, share in zip(pools, shares, strict=True)])
        pools = [pool[share:] for pool, share in zip(pools, shares, strict=True)]
    chosen["train"] = np.concatenate(pools)
    return {role: _take(examples, random.permutation(indices), role) for role, indices in chosen.items()}


def _shares(counts: np.ndarray, most: np.ndarray, fraction: float) -> np.ndarray:
    """Divides a fraction of all examples among the classes by largest remainder, with 1 to `most` of each."""
    exact = counts * fraction
    shares = np.clip(np.floor(exact).astype(int), 1, most)
    missing = round(counts.sum() * fraction) - shares.sum()
    by_remainder = np.argsort(shares - exact, kind="stable")
    able = by_remainder[(shares < most)[by_remainder]]
    shares[able[: max(missing, 0)]] += 1
    return shares


def _take(examples: Examples, indices: np.ndarray, role: str) -> Examples:
    inputs = [examples.inputs[i] for i in indices]
    rows = [examples.rows[i] for i in indices]
    return Examples(inputs, examples.targets[indices], examples.classes, rows, examples.source, role)


def _require_counts(examples: Examples, counts: np.ndarray, needed: int) -> None:
    """Raises if a class has too few examples for one in each split."""
    if counts.min() >= needed:
        return
    if examples.classes is None:
        raise ValueError(
            f"Expected at least {needed} examples, one for each split. Received: {len(examples)} in {examples.source}. Add examples."
        )
    small = np.flatnonzero(counts < needed)
    name, count = examples.classes[small[0]], counts[small[0]]
    others = f" ({len(small) - 1} other classes are too small, too)" if len(small) > 1 else ""
    wanted = "one for each split" if needed > 1 else "to learn from"
    raise ValueError(
        f"Expected at least {needed} example{'s' if needed > 1 else ''} of each class, {wanted}. "
        f"Received: {count} of class {name!r} in {examples.source}{others}. Add examples of it, or join or remove the class."
    )


def _require_options(task: str, regression: bool, classes: Sequence[str] | None) -> None:
    if task not in TASKS:
        close = difflib.get_close_matches(str(task), TASKS, n=1)
        raise ValueError(
            f"Expected task to be one of {', '.join(TASKS)}. Received: task={task!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
        )
    if classes is None:
        return
    if regression:
        raise ValueError(
            f"Expected no classes for a regression. Received: regression=True and classes={tuple(classes)}. Leave one of them out."
        )
    if isinstance(classes, str) or len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError(f"Expected at least two different class names. Received: classes={classes!r}")


def _require_fractions(validation: float, test: float, seed: int) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"Expected validation and test to be fractions above 0 that together stay below 1. "
            f"Received: validation={validation}, test={test}"
        )
    if seed < 0:
        raise ValueError(f"Expected a seed of 0 or more. Received: seed={seed}")
