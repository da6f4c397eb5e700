"""Text files of any size, read block by block: what they hold is found once, and they must stay as they were found."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import itertools
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kerasbig.data import columns
from kerasbig.data.tables import Table, binary, json_object, marked_utf16, wrong_byte

# What is read of a file at once, and what is given of a text at once: word by word work takes many times its memory.
BLOCK, PIECE = 1 << 20, 1 << 16
LINES_AT_ONCE = 4096
# Size and time of the last change.
State = tuple[int, int]

_NOT_BLANK = re.compile(rb"\S")
# Between a letter or digit and one of these, GPT-2 always begins a new word, whatever comes before or after.
_WORD_BORDER = re.compile(r"(?<=[^\W_])(?=[\s、。，！？；：])")


@dataclass(frozen=True, eq=False)
class TextFile:
    """A source of texts that is read in parts.

    Attributes:
        name: What messages call it.
        path: Where it lies; None where `content` holds it.
        content: UTF-8 text in memory, where there is no path.
        column: With JSON lines, the key of the text: each part that is read is then a line.
        state: What tells that the file has changed.
        sha256: The hash of all its bytes.
    """

    name: str
    path: Path | None
    content: bytes
    column: str | None
    state: State
    sha256: str

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Yields the file, open for `parts`.

        Raises:
            ValueError: Before or after the block, if the file is no longer what was found.
        """
        if self.path is None:
            yield io.BytesIO(self.content)
            return
        _require_same(self.path, self.name, self.state)
        with open(self.path, "rb") as stream:
            try:
                yield stream
            finally:
                # Whatever went wrong with a file that has changed, the change is what to tell.
                _require_same(self.path, self.name, self.state)

    def texts(self, stream: BinaryIO, start: int, end: int) -> Iterator[str]:
        """Yields the text from one byte to another, in pieces of 64 KiB.

        Args:
            stream: What `opened` gave.
            start: The first byte; the first of a character.
            end: The byte after the last one.
        """
        stream.seek(start)
        if self.column is not None:
            yield json_object(stream.read(end - start).decode(), 0, self.name)[self.column]
        elif end - start <= PIECE:
            yield stream.read(end - start).decode()
        else:
            decoder = codecs.getincrementaldecoder("utf-8")()
            for position in range(start, end, PIECE):
                yield decoder.decode(stream.read(min(PIECE, end - position)), position + PIECE >= end)


def in_memory(texts: Sequence[str], name: str) -> tuple[TextFile, np.ndarray]:
    r"""Keeps texts as UTF-8.

    Returns:
        The texts as a file, and int64 (N, 3): first byte, byte after the last, and UTF-8 bytes of each text.

    Example:
        >>> file, spans = in_memory(["a film", "é"], "a.csv")
        >>> file.content, spans.tolist()
        (b'a film\xc3\xa9', [[0, 6, 6], [6, 8, 2]])
    """
    encoded = [text.encode() for text in texts]
    content = b"".join(encoded)
    sizes = np.array([len(each) for each in encoded], "int64")
    ends = np.cumsum(sizes)
    return TextFile(name, None, content, None, (len(content), 0), hashlib.sha256(content).hexdigest()), np.stack(
        [ends - sizes, ends, sizes], axis=1
    )


def scan_text(path: Path, name: str, separator: str | None) -> tuple[TextFile, np.ndarray]:
    r"""Finds the documents of a UTF-8 text file without keeping it in memory.

    Args:
        path: The file.
        name: What messages call it.
        separator: What stands between documents, as `separator_pattern` reads it; None takes the file as one document.

    Returns:
        The file, and int64 (N, 3): first byte, byte after the last, and bytes of each document that is not blank.

    Raises:
        ValueError: If the file is no UTF-8 text, or changes meanwhile.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_text("one\n\n\ntwo\n")
        >>> scan_text(path, "a.txt", "\n\n")[1].tolist()
        [[0, 3, 3], [6, 10, 4]]
    """
    scan = _Scan(path, name)
    spans = array("q")
    for start, end in _documents(scan.blocks(), separator):
        spans.extend((start, end, end - start))
    return scan.file(None), _rows(spans)


def scan_json_lines(path: Path, name: str, column: str | None) -> tuple[TextFile, np.ndarray]:
    r"""Finds the texts of a UTF-8 file of JSON lines without keeping it in memory.

    Args:
        path: The file.
        name: What messages call it.
        column: The key of the text; None looks for an obvious one in the first lines.

    Returns:
        The file, and int64 (N, 3): first byte, byte after the last of each line, and UTF-8 bytes of its text.

    Raises:
        ValueError: If a line is malformed or has no text, or the file changes meanwhile.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.jsonl"
        >>> _ = path.write_text('{"text": "one"}\n{"text": "two"}\n')
        >>> scan_json_lines(path, "a.jsonl", None)[1].tolist()
        [[0, 16, 3], [16, 32, 3]]
    """
    scan = _Scan(path, name)
    spans = array("q")
    lines = ((row, *line) for row, line in enumerate(_lines(scan.blocks()), start=1) if line[2].strip())
    while batch := list(itertools.islice(lines, LINES_AT_ONCE)):
        records = [json_object(line.decode(), row, name) for row, _, _, line in batch]
        keys = dict.fromkeys(key for record in records for key in record)
        table = Table(name, {key: [record.get(key) for record in records] for key in keys}, [row for row, *_ in batch])
        column = columns.find_column(table, column, columns.TEXT_COLUMNS, "text")
        for (_, start, end, _), text in zip(batch, columns.read_inputs(table, column), strict=True):
            spans.extend((start, end, len(text.encode())))
    return scan.file(column), _rows(spans)


def separator_pattern(separator: str) -> re.Pattern[bytes]:
    r"""Returns what finds a separator in UTF-8 bytes.

    Args:
        separator: Any text, taken as it is; n line ends stand for n or more of them, written \n or \r\n, with blanks on
            the empty lines or without: "\n\n" is a blank line.

    Raises:
        ValueError: If it is empty.

    Example:
        >>> separator_pattern("\n\n").split(b"one\r\n \r\n\r\ntwo")
        [b'one', b'two']
    """
    plain = separator.replace("\r\n", "\n")
    if not plain:
        raise ValueError(r"Expected a separator of documents. Received: an empty one. Name one, such as separator='\n\n' for a blank line.")
    if plain.strip("\n"):
        return re.compile(re.escape(separator.encode()))
    return re.compile(rb"\r?\n(?:[ \t]*\r?\n){%d,}" % (len(plain) - 1))


def next_border(file: TextFile, position: int, end: int) -> int:
    """Returns where a text can be cut at or after a byte: after the next line end, else at a blank, else between characters.

    Args:
        file: The file.
        position: A byte of it.
        end: The end of the part that is to be cut, which is no place to cut it.
    """
    with file.opened() as stream:
        stream.seek(position)
        ahead = stream.read(min(BLOCK, end - position))
    for mark in (b"\n", b" "):
        if 0 < (after := ahead.find(mark) + 1) < end - position:
            return position + after
    inside = next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))
    return position + inside


def whole_words(pieces: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Cuts documents anew where a word of GPT-2's ends, into pieces that can be tokenized each for itself.

    Args:
        pieces: Parts of documents, and whether each is the last one of its document.

    Example:
        >>> list(whole_words([("a fine fi", False), ("lm and", False), (" so on", True)]))
        [('a fine', False), (' film', False), (' and so on', True)]
    """
    held: list[str] = []
    for text, last in pieces:
        cut = len(text) if last else _last_border(text)
        if last or cut:
            yield "".join([*held, text[:cut]]), last
            held = [text[cut:]] if cut < len(text) else []
        else:
            held.append(text)


def _last_border(text: str) -> int:
    """Returns where the last word that surely ends in a text ends; 0 if there is none."""
    for begin in (max(len(text) - 4096, 0), 0):  # it nearly always is near the end
        borders = [match.start() for match in _WORD_BORDER.finditer(text, begin)]
        if borders:
            return borders[-1]
    return 0


class _Scan:
    """One reading of a file from end to end, which checks that it is UTF-8 text and takes its hash."""

    def __init__(self, path: Path, name: str):
        self._path, self._name = path, name
        self._digest = hashlib.sha256()
        self._state: State = (0, 0)

    def blocks(self) -> Iterator[bytes]:
        """Yields the bytes in order, a byte order mark included."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        row = 1
        with open(self._path, "rb") as stream:
            self._state = _state(os.fstat(stream.fileno()))
            while block := stream.read(BLOCK):
                self._refuse_binary(block, row)
                self._decode(decoder, block, row, final=False)
                self._digest.update(block)
                row += block.count(b"\n")
                yield block
            self._decode(decoder, b"", row, final=True)
        _require_same(self._path, self._name, self._state)

    def file(self, column: str | None) -> TextFile:
        """Returns the file after all its blocks were taken."""
        return TextFile(self._name, self._path, b"", column, self._state, self._digest.hexdigest())

    def _refuse_binary(self, block: bytes, row: int) -> None:
        if row == 1 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise marked_utf16(self._name, "utf-8")
        if b"\0" in block:
            raise binary(self._name, row + block.count(b"\n", 0, block.index(b"\0")))

    def _decode(self, decoder: codecs.IncrementalDecoder, block: bytes, row: int, *, final: bool) -> None:
        try:
            decoder.decode(block, final)
        except UnicodeDecodeError as error:
            rows_before = error.object.count(b"\n", 0, error.start)
            raise wrong_byte(self._name, "utf-8", error.object[error.start], row + rows_before) from error


def _documents(blocks: Iterable[bytes], separator: str | None) -> Iterator[tuple[int, int]]:
    """Yields first byte and byte after the last of each document that is not blank."""
    pattern = None if separator is None else separator_pattern(separator)
    of_lines = separator is not None and not separator.strip("\r\n")
    held = b""  # what may be the beginning of a separator
    base = start = 0  # where `held` and the document begin
    blank = True
    for block in itertools.chain(blocks, [b""]):
        if not base and not held and block.startswith(codecs.BOM_UTF8):
            block, base, start = block[3:], 3, 3
        text, done = held + block, 0
        whole = len(text.rstrip(b" \t\r\n")) if of_lines and block else len(text)
        for match in pattern.finditer(text) if pattern else ():
            if match.end() > whole:
                break  # more empty lines may follow in the next block
            if not blank or _NOT_BLANK.search(text, done, match.start()):
                yield start, base + match.start()
            done, blank = match.end(), True
            start = base + done
        if separator is not None and block and not of_lines:
            whole = len(text) - len(separator.encode()) + 1
        kept = max(done, whole)
        blank = blank and not _NOT_BLANK.search(text, done, kept)
        held, base = text[kept:], base + kept
    if not blank:
        yield start, base


def _lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yields first byte, byte after the last, and the bytes of each line, its end included."""
    held: list[bytes] = []
    position = 0
    for block in blocks:
        if not position and not held and block.startswith(codecs.BOM_UTF8):
            block, position = block[3:], 3
        *whole, rest = block.split(b"\n")
        for line in whole:
            line = b"".join([*held, line, b"\n"])
            held.clear()
            yield position, position + len(line), line
            position += len(line)
        held.append(rest)
    if line := b"".join(held):
        yield position, position + len(line), line


def _rows(spans: array[int]) -> np.ndarray:
    return np.frombuffer(spans, "int64").reshape(-1, 3)


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns


def _require_same(path: Path, name: str, before: State) -> None:
    try:
        now = _state(path.stat())
    except OSError:
        now = (-1, 0)
    if now != before:
        what = "it is gone" if now[0] < 0 else f"it had {before[0]:,} bytes and has {now[0]:,}, written to since"
        raise ValueError(
            f"Expected {name} to stay as it is while it is read. Received: another file: {what}. "
            "Let what writes to it finish, or copy it, and load the copy."
        )
