"""Documents to one long row of token ids, in a file that is mapped into memory and used again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import mmap
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kerasbig.data.documents import Documents
from kerasbig.data.samples import user_cache
from kerasbig.data.text_files import whole_words
from kerasbig.data.token_workers import MOST_WORKERS, Encoded, Workers, encode_all, number_of_cores
from kerasbig.data.word_tokens import WordTokenizer, hugging_face_encoder, smallest_dtype, word_tokenizer
from kerasbig.files import replacing_file

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
# Text of fewer bytes is tokenized anew each time, in memory; of fewer than the other, by this process alone.
SMALL, FOR_ONE_PROCESS = 4 << 20, 8 << 20
GROUP_CHARACTERS = 1 << 18


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of documents in one row: a border token, a document, a border token, the next document, and so on.

    A border token is the tokenizer's end token. Where documents begin with a start token of its own, it follows the end
    token, and stands alone before the first document.

    Attributes:
        ids: uint16 or uint32 (L,), mapped into memory where a file holds them.
        borders: int64 (N + 1,): document i is predicted from `ids[borders[i]]` on.
        overlap: 1 where the end token of a document is also the border token of the next, else 0.

    Example:
        >>> tokens = Tokens(np.array([9, 1, 2, 9, 3, 9], "uint16"), np.array([0, 3, 5]), 1)
        >>> [tokens.ids[start : end + tokens.overlap].tolist() for start, end in zip(tokens.borders, tokens.borders[1:])]
        [[9, 1, 2, 9], [9, 3, 9]]
    """

    ids: np.ndarray
    borders: np.ndarray
    overlap: int

    def release(self) -> None:
        """Lets the system take back the memory of what was read; it is read again when it is needed."""
        if isinstance(self.ids.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.ids.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class Scheme:
    """How a model's tokenizer makes one row of documents.

    Attributes:
        own: The KerasHub tokenizer.
        words: The same for GPT-2's way to cut texts, only faster; else None.
        first: The token that the first document is predicted from.
        between: The tokens after each document.
        dtype: uint16 or uint32.
    """

    own: Any
    words: WordTokenizer | None
    first: int
    between: tuple[int, ...]
    dtype: np.dtype

    @property
    def overlap(self) -> int:
        """See `Tokens`."""
        return int(len(self.between) == 1)

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of all that decides the token ids."""
        digest = hashlib.sha256(repr((FORMAT_VERSION, self.first, self.between, str(self.dtype))).encode())
        if self.words is not None:
            digest.update(self.words.to_json().encode())
            return digest.hexdigest()
        encoder = hugging_face_encoder(self.own)
        config = {name: value for name, value in self.own.get_config().items() if name not in ("name", "proto")}
        proto = getattr(self.own, "proto", None)
        digest.update(repr((type(self.own).__name__, config, proto, metadata.version("keras-hub"))).encode())
        digest.update(encoder.to_str().encode() if encoder is not None else repr(list(self.own.get_vocabulary())).encode())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenizes texts in this process."""
        if self.words is not None:
            return encode_all(self.words.encode, texts)
        rows = [np.asarray(row, "int64").astype(self.dtype) for row in self.own(list(texts))]
        return np.array([len(row) for row in rows], "int64"), np.concatenate(rows)


def scheme_of(model: keras.Model) -> Scheme:
    """Returns how a model's tokenizer makes one row of documents.

    Raises:
        TypeError: If the model has no tokenizer that ends texts.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> scheme = scheme_of(model)
        >>> scheme.first == model.preprocessor.tokenizer.end_token_id, scheme.overlap
        (True, 1)
    """
    preprocessor = getattr(model, "preprocessor", None)
    own: Any = getattr(preprocessor, "tokenizer", None)
    end = getattr(own, "end_token_id", None)
    if end is None or not hasattr(model, "generate"):
        raise TypeError(
            f"Expected a model that writes text, with its tokenizer. Received: {type(model).__name__} with preprocessor={preprocessor!r}. "
            "Build it with kerasbig.text.gpt_generator, which keeps its tokenizer."
        )
    start = own.start_token_id if getattr(preprocessor, "add_start_token", True) else None
    first = end if start is None else start
    words = word_tokenizer(own)
    dtype = smallest_dtype(own.vocabulary_size()) if words is None else words.dtype
    return Scheme(own, words, first, (end,) if first == end else (end, first), dtype)


def tokenize_documents(
    documents: Documents, model: keras.Model, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> Tokens:
    """Tokenizes documents with the model's tokenizer, on all cores.

    What is more than a few megabytes goes to a file, piece by piece, so that it need not fit into memory. The file is kept:
    when the same documents and tokenizer come again, it is used.

    Args:
        documents: What to tokenize.
        model: A model from `kerasbig.text.gpt_generator`, or another text generator of KerasHub.
        cache_dir: Where token files are kept; by default the folder `tokens` in the user's cache folder of this system.
        progress: Whether to show on standard error how far it is, where it takes longer.

    Returns:
        `Tokens`. The ids are those of the tokenizer's own call outside of a graph.

    Raises:
        TypeError: If the model has no tokenizer.
        ValueError: If a file has changed since it was loaded.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> tokens = tokenize_documents(Documents.from_texts(["a film", "a"]), model)
        >>> len(tokens.ids), tokens.borders.tolist()
        (6, [0, 3, 5])
    """
    scheme = scheme_of(model)
    if documents.bytes < SMALL:
        stream = io.BytesIO()
        borders, length = _write(documents, scheme, stream, lambda done: None)
        return Tokens(np.frombuffer(stream.getbuffer(), scheme.dtype, length), borders, scheme.overlap)
    folder = Path(cache_dir) if cache_dir is not None else user_cache() / "tokens"
    name = hashlib.sha256(f"{documents.sha256} {scheme.sha256}".encode()).hexdigest()[:32]
    ids, borders_file = folder / f"{name}.npy", folder / f"{name}.borders.npy"
    found = _open(ids, borders_file, scheme)
    if found is None:
        _make(documents, scheme, ids, borders_file, progress=progress)
        found = _open(ids, borders_file, scheme)
    if found is None:
        raise OSError(f"Expected {str(ids)!r} to be whole after it was written. Received: another file. Use another cache_dir.")
    return found


def _make(documents: Documents, scheme: Scheme, ids: Path, borders_file: Path, *, progress: bool) -> None:
    """Writes a token file and, last, the file of its borders, which tells that both are whole."""
    started = time.perf_counter()
    with replacing_file(borders_file) as borders_temporary:
        with replacing_file(ids) as temporary, open(temporary, "wb") as stream, _bar(documents, progress) as advance:
            _write_header(stream, scheme.dtype, 0)
            borders, length = _write(documents, scheme, stream, advance)
            stream.seek(0)
            _write_header(stream, scheme.dtype, length)
        with open(borders_temporary, "wb") as stream:
            np.save(stream, borders)
    seconds = time.perf_counter() - started
    logger.info("%s (%s): %s tokens are kept in %s.", documents.source, documents.role, f"{length:,}", ids)
    if progress:
        _console().print(
            f"Tokenized {documents.bytes / 1e6:,.1f} MB ({documents.role}) to {length:,} tokens in {seconds:.0f} s, "
            f"{documents.bytes / 1e6 / seconds:.1f} MB/s; kept for the next time",
            soft_wrap=True,
        )


def _write(documents: Documents, scheme: Scheme, stream: IO[bytes], advance: Callable[[int], None]) -> tuple[np.ndarray, int]:
    """Writes the token ids of documents and returns their borders and the length of the row."""
    borders = array("q", [0])
    length = stream.write(np.array([scheme.first], scheme.dtype).tobytes()) // scheme.dtype.itemsize
    count = len(scheme.between)
    ends_read: list[list[bool]] = []
    with contextlib.ExitStack() as stack:
        groups = _groups(documents, scheme.words is not None, ends_read, advance)
        encoded: Iterable[Encoded] = map(scheme.encode, groups)
        if scheme.words is not None and documents.bytes >= FOR_ONE_PROCESS:
            encoded = stack.enter_context(Workers(scheme.words, min(number_of_cores(), MOST_WORKERS))).encode(groups)
        for counts, ids in encoded:
            ends = np.cumsum(counts)[ends_read.pop(0)]
            row = np.insert(ids, np.repeat(ends, count), np.tile(np.array(scheme.between, ids.dtype), len(ends)))
            borders.frombytes((length - 1 + ends + count * np.arange(1, len(ends) + 1)).astype("int64").tobytes())
            stream.write(row.tobytes())
            length += len(row)
    # The start token after the last document begins none.
    return np.frombuffer(borders, "int64"), length + scheme.overlap - 1


def _groups(documents: Documents, cut: bool, ends_read: list[list[bool]], advance: Callable[[int], None]) -> Iterator[list[str]]:
    """Yields texts to tokenize at once; appends which of them end a document to `ends_read`."""
    texts: list[str] = []
    ends: list[bool] = []
    size = 0
    for text, last in whole_words(documents.pieces()) if cut else ((text, True) for text in documents):
        texts.append(text)
        ends.append(last)
        size += len(text)
        if size >= GROUP_CHARACTERS:
            ends_read.append(ends)
            yield texts
            advance(sum(len(each.encode()) for each in texts))
            texts, ends, size = [], [], 0
    if texts:
        ends_read.append(ends)
        yield texts
        advance(sum(len(each.encode()) for each in texts))


def _write_header(stream: IO[bytes], dtype: np.dtype, length: int) -> None:
    """Writes the head of a .npy file, which NumPy pads so that the length can be put in later."""
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype.str, "fortran_order": False, "shape": (length,)})


def _open(ids: Path, borders_file: Path, scheme: Scheme) -> Tokens | None:
    """Maps a token file; returns None where there is none, or not the whole of it."""
    try:
        borders = np.load(borders_file, allow_pickle=False)
        tokens = np.load(ids, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not len(borders) or len(tokens) != borders[-1] + scheme.overlap or tokens.dtype != scheme.dtype:
        return None
    return Tokens(tokens, borders, scheme.overlap)


@contextlib.contextmanager
def _bar(documents: Documents, progress: bool) -> Iterator[Callable[[int], None]]:
    """Shows a bar with the time left on standard error; yields what moves it on by so many bytes."""
    if not progress:
        yield lambda done: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, TransferSpeedColumn

    text, console = TextColumn("{task.description}"), _console()
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task(f"tokenizing {documents.role}", total=documents.bytes)
        yield lambda done: bar.update(row, advance=done)


def _console() -> Any:
    # rich takes longer to import than a small text to tokenize.
    from rich.console import Console

    return Console(stderr=True, highlight=False)
