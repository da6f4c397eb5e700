"""Table files to columns in memory: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one source, in memory.

    Attributes:
        source: The file, folder or sample, as the user named it.
        columns: One list of values a column, all of one length. A value that is not there is None.
        rows: Where each value stands, from 1: the line of a text file (the header counts), else the number of the row.
        files: The file of each value where the source is a folder, else None.

    Example:
        >>> table = Table("a.csv", {"text": ["fine", "dull"]}, [2, 3])
        >>> len(table), table.place(1)
        (2, 'row 3 of a.csv')
    """

    source: str
    columns: dict[str, list[Any]]
    rows: list[int]
    files: list[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> str:
        """Names the place of a value for a message."""
        return self.files[index] if self.files is not None else f"row {self.rows[index]} of {self.source}"


def read_table(path: str | os.PathLike[str], *, encoding: str = "utf-8", source: str | None = None) -> Table:
    r"""Reads a whole table file; its ending says what it is.

    Args:
        path: A .csv, .tsv, .jsonl, .json (one object a line) or .parquet file.
        encoding: How the text files are encoded. A UTF-8 byte order mark is accepted. Parquet carries its own.
        source: The name for messages; by default the path.

    Returns:
        A `Table` with at least one row.

    Raises:
        ValueError: If the ending is unknown, the file is empty, is not text in `encoding`, or a row is malformed.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = file.write_text("text,label\na fine film,good\n")
        >>> read_table(file).columns
        {'text': ['a fine film'], 'label': ['good']}
    """
    path = Path(path)
    source = str(path) if source is None else source
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"Expected a file that ends in {', '.join(_READERS)}. Received: {source!r}. "
            "Save the table in one of these forms (a spreadsheet program exports CSV)."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a table with at least one row. Received: {source}, an empty file.")
    table = reader(path, source, encoding)
    if not len(table):
        raise ValueError(f"Expected a table with at least one row. Received: {source}, which holds none below its column names.")
    return table


def read_text(path: Path, source: str, encoding: str) -> str:
    r"""Decodes a text file and refuses what is not text.

    Args:
        path: The file.
        source: The name for messages.
        encoding: How it is encoded. With UTF-8, a byte order mark is dropped.

    Returns:
        The text, its line ends unchanged.

    Raises:
        ValueError: If the encoding is unknown or wrong for the file, or the file holds NUL characters.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = file.write_bytes(b"caf\xe9")
        >>> read_text(file, "a.txt", "latin-1")
        'café'
    """
    content = path.read_bytes()
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    if not wide and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise marked_utf16(source, encoding)
    if not wide and b"\0" in content:
        raise binary(source, content.count(b"\n", 0, content.index(b"\0")) + 1)
    try:
        name = codecs.lookup(encoding).name
        text = content.decode("utf-8-sig" if name == "utf-8" else name)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise wrong_byte(source, encoding, content[start], content.count(b"\n", 0, start) + 1) from error
    except LookupError as error:
        raise ValueError(
            f"Expected the name of a text encoding that Python knows, such as utf-8, cp1252 or gb18030. Received: encoding={encoding!r}"
        ) from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"Expected a text file. Received: {source}, which holds a NUL character in row {row}. Remove it.")
    return text


def marked_utf16(source: str, encoding: str) -> ValueError:
    """Returns the error for a file that starts with the mark of UTF-16."""
    return ValueError(
        f"Expected {encoding} text. Received: {source}, which starts with the mark of UTF-16. Pass encoding='utf-16' (--encoding utf-16)."
    )


def binary(source: str, row: int) -> ValueError:
    """Returns the error for a file with a NUL byte."""
    return ValueError(
        f"Expected a text file. Received: {source}, which holds a NUL byte in row {row}, as binary files do. "
        "Give its true ending, or export it as text."
    )


def wrong_byte(source: str, encoding: str, byte: int, row: int) -> ValueError:
    """Returns the error for a byte that is not text in an encoding."""
    return ValueError(
        f"Expected {encoding} text. Received: byte 0x{byte:02x} in row {row} of {source}, which is not {encoding}. "
        "Name the file's encoding, such as encoding='cp1252' (--encoding cp1252; gb18030, shift_jis, utf-16, …), or save it as UTF-8."
    )


def _read_delimited(path: Path, source: str, encoding: str, dialect: type[csv.Dialect]) -> Table:
    """Reads CSV or TSV; a quoted field may hold line ends."""
    # newline="" keeps line ends inside quoted fields as they are.
    reader = csv.reader(io.StringIO(read_text(path, source, encoding), newline=""), dialect, strict=True)
    header: list[str] | None = None
    records: list[list[str]] = []
    rows: list[int] = []
    line = 1
    try:
        for record in reader:
            if not record:  # a blank line
                pass
            elif header is None:
                header = _header(record, source)
            elif len(record) != len(header):
                raise _ragged(len(header), len(record), line, source, dialect)
            else:
                records.append(record)
                rows.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"Expected {_FORMS[dialect]} fields. Received: row {line} of {source}, where {error}. "
            'Close each quoted field with ", write a " inside it as "", and keep texts of over 131,072 characters in JSON lines or Parquet.'
        ) from error
    columns = list(zip(*records, strict=True)) if records else [()] * len(header or ())
    return Table(source, {name: list(column) for name, column in zip(header or (), columns, strict=True)}, rows)


def _header(record: list[str], source: str) -> list[str]:
    header = [name.strip() for name in record]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"Expected each column to have its own name. Received: {twice[0]!r} more than once in the first row of {source}.")
    return header


def _ragged(expected: int, received: int, line: int, source: str, dialect: type[csv.Dialect]) -> ValueError:
    separator = "tab" if dialect is csv.excel_tab else "comma"
    return ValueError(
        f"Expected {expected} fields, as the first row has. Received: {received} in row {line} of {source}. "
        f'Put a field that holds a {separator} in quotes ("…"), or complete the row.'
    )


def _read_csv(path: Path, source: str, encoding: str) -> Table:
    return _read_delimited(path, source, encoding, csv.excel)


def _read_tsv(path: Path, source: str, encoding: str) -> Table:
    return _read_delimited(path, source, encoding, csv.excel_tab)


def _read_json_lines(path: Path, source: str, encoding: str) -> Table:
    """Reads one JSON object a line; a key that a line lacks is None there."""
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for line, text in enumerate(read_text(path, source, encoding).split("\n"), start=1):
        if not text.strip():
            continue
        records.append(json_object(text, line, source))
        rows.append(line)
    names = dict.fromkeys(name for record in records for name in record)
    return Table(source, {name: [record.get(name) for record in records] for name in names}, rows)


def json_object(text: str, line: int, source: str) -> dict[str, Any]:
    """Reads one line of JSON.

    Raises:
        ValueError: If it is no JSON, or no object.

    Example:
        >>> json_object('{"text": "a film"}', 1, "a.jsonl")
        {'text': 'a film'}
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " The file looks like one JSON array." if line == 1 and text.lstrip().startswith("[") else ""
        raise ValueError(
            f'Expected one JSON object a line, such as {{"text": "…", "label": "…"}}. Received: row {line} of {source}, '
            f"which is malformed: {error}.{hint} Write each object on a line of its own."
        ) from error
    if not isinstance(record, dict):
        raise ValueError(
            f'Expected one JSON object a line, such as {{"text": "…", "label": "…"}}. Received: row {line} of {source}, '
            f"which is a {type(record).__name__}. Write each object on a line of its own."
        )
    return record


def _read_parquet(path: Path, source: str, encoding: str) -> Table:
    # pyarrow takes longer to import than to read a small CSV, so only Parquet pays for it.
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = _header(file.schema_arrow.names, source)
            table = file.read()
        columns = {name: column.to_pylist() for name, column in zip(names, table.columns, strict=True)}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a Parquet file. Received: {source}, which cannot be read: {_first_line(error)}") from error
    return Table(source, columns, list(range(1, table.num_rows + 1)))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS: dict[str, Callable[[Path, str, str], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
TABLE_ENDINGS = tuple(_READERS)
_FORMS: dict[type[csv.Dialect], str] = {csv.excel: "comma-separated", csv.excel_tab: "tab-separated"}
