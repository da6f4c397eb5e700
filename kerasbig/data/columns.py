"""The columns of a table to texts, class ids and values, each row checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from kerasbig.data.tables import Table

TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment")
LABEL_COLUMNS = ("label", "class", "sentiment", "category")
VALUE_COLUMNS = ("rating", "score", "value", "label")

FLOAT32_MAX = float(np.finfo("float32").max)

# Beyond this many labels that all are numbers, they are taken for measured values.
MOST_NUMERIC_CLASSES = 100


def find_column(table: Table, name: str | None, defaults: Sequence[str], parameter: str) -> str:
    """Returns the name of a column: the one asked for, or the first obvious one.

    Args:
        table: The table.
        name: The name that the user gave, to be met exactly; None looks for `defaults`, whatever their case.
        defaults: Obvious names, the likeliest first.
        parameter: The name of the user's parameter, for the message.

    Returns:
        A key of `table.columns`.

    Raises:
        ValueError: If the column is not there.

    Example:
        >>> find_column(Table("a.csv", {"id": [1], "Review": ["a"]}, [2]), None, TEXT_COLUMNS, "text")
        'Review'
    """
    if name in table.columns:
        return name
    by_case = {column.casefold(): column for column in reversed(table.columns)}
    if name is None:
        for default in defaults:
            if default in by_case:
                return by_case[default]
    wanted = [name] if name is not None else list(defaults)
    close = [by_case[match] for word in wanted for match in difflib.get_close_matches(word.casefold(), by_case, n=1)]
    expected = f"a column {name!r}" if name is not None else f"a {parameter} column named {', '.join(defaults[:-1])} or {defaults[-1]}"
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"Expected {expected} in {table.source}. Received: columns {', '.join(map(repr, table.columns))}.{suggestion}"
        f"{_separator_hint(table)} Name the column with {parameter}=… (--{parameter} …)."
    )


def read_inputs(table: Table, column: str) -> list[str]:
    """Returns the texts of a column as they are, after checking each.

    Raises:
        ValueError: If a text is empty, is not a string or not valid Unicode, or if all texts are numbers.

    Example:
        >>> read_inputs(Table("a.csv", {"text": [" a film "]}, [2]), "text")
        [' a film ']
    """
    values = table.columns[column]
    _refuse_empty(table, column, "text")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"Expected text in column {column!r}. Received: {_shown(value)} ({type(value).__name__}) in {table.place(i)}. "
                "Write it as a string, or name the text column with text=… (--text …)."
            )
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"Expected valid Unicode in column {column!r}. Received: {value[error.start]!r}, half of a surrogate pair, "
                    f"in {table.place(i)}. Write the character whole."
                ) from error
    if all(is_number(value) for value in values):
        raise ValueError(
            f"Expected text in column {column!r}. Received: only numbers, such as {_shown(values[0])} in {table.place(0)}. "
            f"Name the text column with text=… (--text …); the columns are {', '.join(map(repr, table.columns))}."
        )
    return values


def read_labels(table: Table, column: str) -> list[str]:
    """Returns the labels of a column as names: `1` becomes "1", and blanks around a name are dropped.

    Raises:
        ValueError: If a label is empty, or is not a string, a number or a boolean.

    Example:
        >>> read_labels(Table("a.jsonl", {"label": [1, " 0"]}, [1, 2]), "label")
        ['1', '0']
    """
    _refuse_empty(table, column, "label")
    for i, value in enumerate(table.columns[column]):
        if not isinstance(value, str | int | float | Decimal):
            raise ValueError(
                f"Expected a name or a number as label in column {column!r}. Received: {_shown(value)} ({type(value).__name__}) "
                f"in {table.place(i)}. Name the label column with label=… (--label …)."
            )
    return [str(value).strip() for value in table.columns[column]]


def read_values(table: Table, column: str) -> np.ndarray:
    """Returns the values of a regression column.

    Returns:
        float32 (N,).

    Raises:
        ValueError: If a value is empty or not a finite number.

    Example:
        >>> read_values(Table("a.csv", {"rating": ["2.5", "-1"]}, [2, 3]), "rating").tolist()
        [2.5, -1.0]
    """
    _refuse_empty(table, column, "value")
    for i, value in enumerate(table.columns[column]):
        if not is_number(value) or not abs(float(value)) <= FLOAT32_MAX:
            raise ValueError(
                f"Expected a finite number as label in column {column!r}, since this is a regression. Received: {_shown(value)} "
                f"in {table.place(i)}. Correct it, name the column with label=… (--label …), or leave --regression out for classes."
            )
    return np.array([float(value) for value in table.columns[column]], "float32")


def class_names(table: Table, column: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes that labels name, in order: numbers by their size, else by the alphabet.

    Raises:
        ValueError: If there is one class only, or so many numbers that they look like measured values.

    Example:
        >>> class_names(Table("a.csv", {}, [2, 3, 4, 5]), "label", ["10", "9", "10", "9"])
        ('9', '10')
    """
    names = set(labels)
    if len(names) == 1:
        raise ValueError(
            f"Expected at least two classes in column {column!r}. Received: one, {labels[0]!r}, in all {len(labels)} rows "
            f"of {table.source}. Add examples of another class, or name the label column with label=… (--label …)."
        )
    all_numbers = all(is_number(name) for name in names)
    if all_numbers and (len(names) > MOST_NUMERIC_CLASSES or len(names) > len(labels) / 2):
        raise ValueError(
            f"Expected classes in column {column!r}. Received: {len(names)} different numbers in {len(labels)} rows of {table.source}, "
            "which look like measured values. Pass regression=True (--regression), or name another column with label=… (--label …)."
        )
    return in_order(names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names in order: numbers by their size, else by the alphabet.

    Example:
        >>> in_order(["10", "9"]), in_order(["10", "nine"])
        (('9', '10'), ('10', 'nine'))
    """
    names = list(names)
    if all(is_number(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def class_ids(table: Table, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns the place of each label in `classes`.

    Returns:
        int32 (N,).

    Raises:
        ValueError: If a label is not among the classes.

    Example:
        >>> class_ids(Table("a.csv", {}, [2, 3]), ["good", "bad"], ("bad", "good")).tolist()
        [1, 0]
    """
    ids = {name: i for i, name in enumerate(classes)}
    unseen = [i for i, label in enumerate(labels) if label not in ids]
    if unseen:
        label = labels[unseen[0]]
        close = difflib.get_close_matches(label, classes, n=1)
        raise ValueError(
            f"Expected one of the classes known from training: {_listed(classes)}. Received: {label!r} in {table.place(unseen[0])} "
            f"({_counted(len(unseen), 'row')} in all).{f' Did you mean {close[0]!r}?' if close else ''} "
            "Correct or remove these rows, or train with examples of the new class."
        )
    return np.array([ids[label] for label in labels], "int32")


def is_number(value: Any) -> bool:
    """Tells whether a value is, or spells, a finite number; a boolean is none.

    Example:
        >>> is_number("-2.5"), is_number(3), is_number("nan"), is_number(True)
        (True, True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _refuse_empty(table: Table, column: str, what: str) -> None:
    empty = [i for i, value in enumerate(table.columns[column]) if value is None or (isinstance(value, str) and not value.strip())]
    if empty:
        many = f"{len(empty)} are empty, the first in" if len(empty) > 1 else "1 is empty, in"
        raise ValueError(
            f"Expected a {what} in each row of column {column!r}. Received: {len(table)} rows, of which {many} {table.place(empty[0])}. "
            "Fill or remove them."
        )


def _separator_hint(table: Table) -> str:
    """Tells of a table whose fields seem to be separated by something else than a comma."""
    if len(table.columns) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in next(iter(table.columns)):
                fix = "name it .tsv" if separator == "\t" else "save it with commas"
                return f" The fields look separated by {name}: {fix}."
    return ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown}, … ({len(names)} in all)"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
