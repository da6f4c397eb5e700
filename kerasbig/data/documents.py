"""Documents to learn a language from: where they are, read anew each time, so that they need not fit into memory."""

from __future__ import annotations

import codecs
import glob
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kerasbig.data import columns
from kerasbig.data.examples import Examples
from kerasbig.data.samples import fetch
from kerasbig.data.sources import SPLIT_NAMES, find_sample, missing
from kerasbig.data.tables import TABLE_ENDINGS, read_table, read_text
from kerasbig.data.text_files import TextFile, in_memory, next_border, scan_json_lines, scan_text, separator_pattern, whole_words
from kerasbig.remote import fetch as fetch_remote
from kerasbig.remote import is_remote

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Documents:
    """Texts in their order, read from their files as they are asked for.

    Iterating gives each document as a whole; `lines` and `pieces` give them in parts, which fit into memory.

    Attributes:
        files: Where the texts are.
        spans: int64 (N, 4), a row a document: number of its file, first byte, byte after the last, UTF-8 bytes of its text.
        source: The file, folder, pattern, address or sample that was read.
        role: "train", "validation", "test", or "all" where nothing was split.
        classes: None: what comes next is the target.

    Example:
        >>> documents = Documents.from_texts(["a fine film", "ein schöner Film"])
        >>> len(documents), list(documents), documents.bytes
        (2, ['a fine film', 'ein schöner Film'], 28)
    """

    files: tuple[TextFile, ...]
    spans: np.ndarray
    source: str
    role: str
    classes: None = field(default=None, init=False)

    @classmethod
    def from_texts(cls, texts: Sequence[str], *, source: str = "memory", role: str = "all") -> Documents:
        """Makes documents of texts in memory.

        Raises:
            TypeError: If `texts` is one string.
            ValueError: If there is none.
        """
        if isinstance(texts, str):
            raise TypeError("Expected texts to be a list of texts. Received: one string. Pass [text] for a single document.")
        return _joined([in_memory(texts, source)], source, role)

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[str]:
        parts: list[str] = []
        for text, last in self.pieces():
            parts.append(text)
            if last:
                yield "".join(parts)
                parts.clear()

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """Yields the texts in pieces of about 64 KiB, and whether a piece is the last one of its document.

        Raises:
            ValueError: If a file has changed since it was loaded.

        Example:
            >>> list(Documents.from_texts(["a film", "another"]).pieces())
            [('a film', True), ('another', True)]
        """
        cuts = np.flatnonzero(np.diff(self.spans[:, 0])) + 1
        for begin, end in zip([0, *cuts], [*cuts, len(self.spans)], strict=True):
            file = self.files[self.spans[begin, 0]]
            with file.opened() as stream:
                for first in range(begin, end, ROWS_AT_ONCE):
                    for row in self.spans[first : min(first + ROWS_AT_ONCE, end), 1:3].tolist():
                        before = ""
                        for number, text in enumerate(file.texts(stream, *row)):
                            if number:
                                yield before, False
                            before = text
                        yield before, True

    def lines(self) -> Iterator[str]:
        """Yields the texts in parts of about 64 KiB that end between words: what a vocabulary is learnt from.

        Raises:
            ValueError: If a file has changed since it was loaded.

        Example:
            >>> list(Documents.from_texts(["a film", "another"]).lines())
            ['a film', 'another']
        """
        return (text for text, _ in whole_words(self.pieces()))

    @property
    def sha256(self) -> str:
        """The hash of what the documents are: the same files, cut in the same way, have the same one."""
        digest = hashlib.sha256(repr([(file.sha256, file.column) for file in self.files]).encode())
        digest.update(np.ascontiguousarray(self.spans).data)
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return int(self.spans[:, 3].sum())


def passages(documents: Documents, *, count: int = 32, most_bytes: int = 256) -> Examples:
    """Takes short texts out of documents, evenly spread: what exported generators are measured and timed on.

    Args:
        documents: What to take them from.
        count: How many passages; fewer where the documents are shorter than that.
        most_bytes: The most UTF-8 bytes of a passage; it has no more tokens than that. It begins where a word does.

    Returns:
        `Examples` without classes; the targets are 0, since what comes next is the target.

    Raises:
        ValueError: If `count` or `most_bytes` is below 1, or a file has changed since it was loaded.

    Example:
        >>> passages(Documents.from_texts(["a fine film", "a dull one"]), most_bytes=6).inputs
        ['a fine', 'film', 'dull o']
    """
    for name, value in (("count", count), ("most_bytes", most_bytes)):
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1. Received: {name}={value}")
    count = min(count, max(1, documents.bytes // most_bytes))
    starts = [int(start) for start in np.linspace(0, max(0, documents.bytes - most_bytes), count)]
    found: dict[tuple[int, int], str] = {}
    before = 0
    for number, (piece, _) in enumerate(documents.pieces()):
        size = len(piece.encode())
        while starts and starts[0] < before + size:
            place = (starts.pop(0) - before) * len(piece) // size
            place = piece.rfind(" ", 0, place) + 1
            found[number, place] = piece[place : place + most_bytes].encode()[:most_bytes].decode(errors="ignore").strip()
        before += size
    texts = [text for text in found.values() if text]
    return Examples(texts, np.zeros(len(texts), "int32"), None, list(range(1, len(texts) + 1)), documents.source, documents.role)


def read_documents(
    source: str | os.PathLike[str], *, role: str = "all", text: str | None = None, separator: str | None = None, encoding: str = "utf-8"
) -> Documents:
    r"""Finds the documents of a source.

    UTF-8 text and JSON lines are read block by block; other tables, and other encodings, are kept in memory.

    Args:
        source: A text file; a table (.csv, .tsv, .jsonl, .json, .parquet), a document a row; a folder, with all its .txt
            files and tables; a pattern such as "books/**/*.md"; an address (gs://, s3:// …) of a file or folder; or a sample.
        role: What the documents are for.
        text: The column of the text in tables; by default text, sentence, review, content or comment.
        separator: What stands between the documents of a text file, such as "\n\n" for a blank line. By default each
            file is one document. Documents without text are passed over.
        encoding: How the files are encoded.

    Returns:
        `Documents` in the order of the files' names.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If a file is empty, binary, wrongly encoded, malformed or changes meanwhile, or there is no document.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "two.txt"
        >>> _ = file.write_text("one film\n\nanother film\n")
        >>> list(read_documents(file, separator="\n\n"))
        ['one film', 'another film\n']
    """
    name = os.fspath(source)
    files = _files_of(source)
    tables = [path for path in files if path.suffix.lower() in TABLE_ENDINGS]
    _require_options(name, text if not tables else None, separator if len(tables) == len(files) else None)
    found = [_scan(path, name if len(files) == 1 else str(path), text, separator, encoding) for path in files]
    return _joined(found, name, role)


def divide(documents: Documents, fractions: Mapping[str, float], seed: int) -> dict[str, Documents]:
    """Takes documents away for validation and test; what remains is for training.

    Each split keeps the order of the files. Where there are fewer documents than splits (a book in one file), the splits are
    parts of the text in its order, training first, each ending at a line end.

    Args:
        documents: All documents.
        fractions: The share of the documents, or of the bytes of few ones, for "validation" and "test".
        seed: Decides which documents.

    Returns:
        Documents of "train" and of each split named.

    Raises:
        ValueError: If there is too little text for each split to have some.

    Example:
        >>> parts = divide(Documents.from_texts(["one", "two", "three", "four"]), {"test": 0.5}, seed=0)
        >>> {role: list(part) for role, part in parts.items()}
        {'test': ['one', 'three'], 'train': ['two', 'four']}
    """
    if fractions and len(documents) <= len(fractions):
        return _contiguous(documents, fractions)
    left = np.random.default_rng(seed).permutation(len(documents))
    chosen: dict[str, np.ndarray] = {}
    for place, (role, fraction) in enumerate(fractions.items()):
        most = len(left) - (len(fractions) - place)
        count = min(max(round(len(documents) * fraction), 1), most)
        chosen[role], left = left[:count], left[count:]
    chosen["train"] = left
    return {role: Documents(documents.files, documents.spans[np.sort(rows)], documents.source, role) for role, rows in chosen.items()}


def _contiguous(documents: Documents, fractions: Mapping[str, float]) -> dict[str, Documents]:
    """Cuts few documents into parts at line ends."""
    roles = [role for role in SPLIT_NAMES if role == "train" or role in fractions]
    if any(documents.files[number].column is not None for number in documents.spans[:, 0]):
        raise ValueError(f"Expected at least {len(roles)} documents, one for each split. Received: {len(documents)} in {documents.source}.")
    total, before, spans, parts = documents.bytes, 0, documents.spans, {}
    shares = [fractions.get(role, 1 - sum(fractions.values())) for role in roles]
    for role, border in zip(roles[:-1], np.cumsum(shares)[:-1] * total, strict=True):
        first, spans = _cut(documents, spans, round(border) - before)
        before += int(first[:, 3].sum())
        parts[role] = first
    parts[roles[-1]] = spans
    empty = next((role for role in reversed(roles) if not len(parts[role])), None)
    if empty is not None:
        raise ValueError(
            f"Expected text for {', '.join(roles)}. Received: {documents.source} with {total} bytes, which leave none for {empty}. "
            "Add text, or give each split a file of its own: train=FILE,validation=FILE,test=FILE."
        )
    logger.info("%s: training, validation and test are parts of the text in its order.", documents.source)
    return {role: Documents(documents.files, rows, documents.source, role) for role, rows in parts.items()}


def _cut(documents: Documents, spans: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts spans after so many bytes, or a little later, at a line end."""
    ends = np.cumsum(spans[:, 3])
    place = int(np.searchsorted(ends, position, side="right"))
    if place == len(spans):
        return spans, spans[:0]
    file, start, end, size = spans[place].tolist()
    inside = start + max(position - int(ends[place] - size), 0)
    border = next_border(documents.files[file], inside, end)
    halves = [[file, start, border, border - start], [file, border, end, end - border]]
    first, second = (np.array([half] if half[3] else [], "int64").reshape(-1, 4) for half in halves)
    return np.concatenate([spans[:place], first]), np.concatenate([second, spans[place + 1 :]])


def _scan(path: Path, name: str, text: str | None, separator: str | None, encoding: str) -> tuple[TextFile, np.ndarray]:
    """Finds the documents of one file."""
    ending, streamed = path.suffix.lower(), _is_utf8(encoding)
    if streamed and ending in (".jsonl", ".json"):
        return scan_json_lines(path, name, text)
    if ending in TABLE_ENDINGS:
        table = read_table(path, encoding=encoding, source=name)
        return in_memory(columns.read_inputs(table, columns.find_column(table, text, columns.TEXT_COLUMNS, "text")), name)
    if streamed:
        return scan_text(path, name, separator)
    whole = read_text(path, name, encoding)
    parts = [whole.encode()] if separator is None else separator_pattern(separator).split(whole.encode())
    return in_memory([part.decode() for part in parts if part.strip()], name)


def _joined(found: Sequence[tuple[TextFile, np.ndarray]], source: str, role: str) -> Documents:
    """Puts the documents of several files in one row."""
    rows = [np.insert(spans, 0, number, axis=1) for number, (_, spans) in enumerate(found) if len(spans)]
    if not rows:
        what = "nothing but blanks and line ends" if any(file.state[0] for file, _ in found) else "no byte in it: it is empty"
        raise ValueError(f"Expected at least one document. Received: {source} with {what}. Check the source.")
    empty = [file.name for file, spans in found if not len(spans)]
    if empty:
        logger.warning("%s: %d files hold no text, such as %s.", source, len(empty), empty[0])
    return Documents(tuple(file for file, _ in found), np.concatenate(rows), source, role)


def _files_of(source: str | os.PathLike[str]) -> list[Path]:
    """Returns the files of a sample, an address, a folder, a pattern or a path."""
    sample = find_sample(source)
    if sample is not None:
        return [fetch(sample.name)]
    path = fetch_remote(str(source)) if is_remote(source) else Path(source)
    if path.is_dir():
        return _files_in(path, str(source))
    if path.exists():
        return [path]
    if not re.search(r"[*?\[]", os.fspath(source)):
        raise missing(path)
    matches = [Path(match) for match in sorted(glob.glob(os.fspath(source), recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise FileNotFoundError(f"Expected files that match {os.fspath(source)!r}. Received: none. Check the pattern.")
    return files


def _files_in(folder: Path, name: str) -> list[Path]:
    """Returns the text files and tables of a folder and those inside of it, hidden ones passed over."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(folder)))
    taken = [file for file in files if file.suffix.lower() in (".txt", *TABLE_ENDINGS)]
    others = Counter(file.suffix or "no ending" for file in files if file not in set(taken))
    listed = ", ".join(f"{ending} {count}" for ending, count in others.most_common(5)) or "nothing"
    if not taken:
        raise ValueError(
            f"Expected a folder with .txt files or tables. Received: {name}, which holds {listed}. "
            f"Name other text files by a pattern, such as '{name}/**/*.md'."
        )
    if others:
        logger.warning("%s: read %d files, passed over others (%s).", name, len(taken), listed)
    return taken


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        return False  # `read_text` tells


def _require_options(source: str, text: str | None, separator: str | None) -> None:
    if text is not None:
        raise ValueError(f"Expected no text column for plain text. Received: text={text!r} for {source}. Leave it out.")
    if separator is not None:
        raise ValueError(
            f"Expected no separator for a table, whose rows are documents. Received: separator={separator!r} for {source}. Leave it out."
        )
