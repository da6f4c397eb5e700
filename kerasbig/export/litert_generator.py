"""Writes text from `model.tflite` and `tokenizer.json`: a file of its own that needs ai_edge_litert, tokenizers and numpy.

    python litert_generator.py FOLDER "a prompt"

Copy it beside the two files and nothing of KerasBig is needed. One call of the model reads T tokens at once and gives
the logits after the last, and each layer's keys and values of these tokens. The runner writes them into the model's
input tensors, where they stay for the next call: nothing else is ever copied.

Shapes: T tokens, S slots for keys and values, H heads, V tokens in the vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer

END = "<|endoftext|>"
# Tokens of a prompt that are read at once; slots are counted in powers of two, from this one on.
CHUNK, FEWEST_SLOTS = 32, 64
# Interpreters that are kept ready: each holds its own packed copy of the weights.
MOST_FREE = 4
_HIDDEN = np.float32(-1e9)
_32_BITS = 0xFFFFFFFF


class LiteRTGenerator:
    """A generator in LiteRT. Several texts may be written at once: each has interpreters of its own while it lasts.

    Args:
        folder: Where `model.tflite` and `tokenizer.json` lie.
        threads: Threads of one run; by default 2, or 1 where there is one core.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If `tokenizer.json` is not that of a generator.
    """

    format = "litert"

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path, self._file = Path(folder) / "model.tflite", Path(folder) / "tokenizer.json"
        for path in (self.path, self._file):
            if not path.is_file():
                raise FileNotFoundError(f"Expected {path.name} in {str(folder)!r}. Export the Bundle again.")
        tokenizer = Tokenizer.from_file(str(self._file))
        end, truncation = tokenizer.token_to_id(END), tokenizer.truncation
        if end is None or truncation is None:
            raise ValueError(
                f"Expected {str(self._file)!r} to hold {END} and the length of the context. It is altered: export the Bundle again."
            )
        tokenizer.no_truncation()
        self._tokenizer, self._end, self.longest = tokenizer, int(end), int(truncation["max_length"])
        self._bytes = _token_bytes(json.loads(self._file.read_bytes())["model"]["vocab"], self._end)
        self._threads = threads or min(2, os.cpu_count() or 1)
        self._free: list[_Step] = []
        self._lock = threading.Lock()

    def generate(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Returns what comes after each text.

        Args:
            texts: Prompts; one that does not fit in the context beside `max_tokens`, or beside half of the context, is
                cut from its left.
            max_tokens: Most tokens to write.
            temperature: 0 takes the likeliest token each time; otherwise logits are divided by it before a draw.
            top_k: Draws from this many likeliest tokens, 0 for all.
            top_p: Draws from the fewest likeliest tokens that have this probability together.
            repetition_penalty: Above 1, tokens that stand in the text get less likely.
            seed: What chance depends on, a whole number of 32 bits.

        Raises:
            ValueError: If a setting is out of range or `texts` is one text.
        """
        options = (max_tokens, temperature, top_k, top_p, repetition_penalty, seed)
        written = []
        for text in _checked(texts):
            raw = b""
            for raw in self._write(text, *options):  # noqa: B007
                pass
            written.append(whole_characters(raw))
        return written

    def stream(
        self,
        text: str,
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields what comes after a text as it is written, in whole characters; the settings are those of `generate`."""
        shown = 0
        for raw in self._write(text, max_tokens, temperature, top_k, top_p, repetition_penalty, seed):
            whole = whole_characters(raw)
            if len(whole) > shown:
                yield whole[shown:]
                shown = len(whole)

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Returns the log-likelihood in nats of each text as a document from its beginning, and how many tokens it has."""
        scores = []
        for text in _checked(texts):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids[: self.longest]
            likelihood = 0.0
            with self._context(max(1, len(ids))) as context:
                for before, token in zip([self._end, *ids], ids, strict=False):
                    logits = context.read([before]).astype("float64")
                    likelihood += float(logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
            scores.append((likelihood, len(ids)))
        return scores

    def bytes_on_disk(self) -> int:
        """Returns the size of the model and the tokenizer."""
        return sum(path.stat().st_size for path in (self.path, self._file))

    def _write(
        self, text: str, max_tokens: int, temperature: float, top_k: int, top_p: float, penalty: float, seed: int
    ) -> Iterator[bytes]:
        """Yields all bytes written so far, after each token."""
        _check_settings(max_tokens, temperature, top_k, top_p, penalty, seed)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids or [self._end]
        ids = ids[-(self.longest - min(max_tokens, self.longest // 2)) :]
        count = min(max_tokens, self.longest - len(ids))
        draws = uniform_draws(seed, count).astype("float32")
        raw = b""
        with self._context(len(ids) + count) as context:
            logits = context.read(ids)
            for place in range(count):
                token = choose(penalized(logits, ids, penalty, self._end), temperature, top_k, top_p, draws[place])
                if token == self._end:
                    break
                raw += self._bytes.get(token, b"")
                ids.append(token)
                yield raw
                if place + 1 < count:
                    logits = context.read([token])

    @contextlib.contextmanager
    def _context(self, tokens: int) -> Iterator[_Context]:
        """Lends interpreters to a text, and takes them back."""
        slots = max(FEWEST_SLOTS, 1 << (tokens - 1).bit_length())
        taken: list[_Step] = []

        def step(count: int) -> _Step:
            with self._lock:
                found = next((each for each in self._free if each.size == (count, slots)), None)
                if found is not None:
                    self._free.remove(found)
            taken.append(found or _Step(str(self.path), count, slots, self.longest, self._threads))
            return taken[-1]

        try:
            yield _Context(step)
        finally:
            with self._lock:
                self._free = [*taken, *self._free][:MOST_FREE]


class _Context:
    """A text that is being read: which slots are full, in its interpreters."""

    def __init__(self, step: Callable[[int], _Step]) -> None:
        self._step, self._one, self._full = step, step(1), 0
        self._many: _Step | None = None

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Reads tokens and returns the logits (V,) after the last."""
        ids = list(ids)
        # All but the last in chunks; what fills up the last chunk is read too, and written over.
        while len(ids) > 1:
            self._many = self._many or self._step(CHUNK)
            chunk, ids = ids[: min(CHUNK, len(ids) - 1)], ids[min(CHUNK, len(ids) - 1) :]
            _, rows = self._many.run(chunk, self._full)
            for step in (self._one, self._many):
                step.keep(rows, self._full, len(chunk))
            self._full += len(chunk)
        logits, rows = self._one.run(ids, self._full)
        self._one.keep(rows, self._full, 1)
        self._full += 1
        return logits


class _Step:
    """An interpreter for T tokens and S slots."""

    def __init__(self, model: str, count: int, slots: int, longest: int, threads: int) -> None:
        self.size = self._count, self._slots = count, slots
        self._longest = longest
        self._interpreter = Interpreter(model, num_threads=threads)
        details = {each["name"]: each for each in self._interpreter.get_input_details()}
        for name, each in details.items():
            sizes = {"mask": (1, 1, count, slots + count)}.get(name) or (1, count)
            shape = (1, int(each["shape"][1]), slots, int(each["shape"][3])) if name[:4] in ("keys", "valu") else sizes
            self._interpreter.resize_tensor_input(each["index"], shape)
        self._interpreter.allocate_tensors()
        self._inputs = {name: self._interpreter.tensor(each["index"]) for name, each in details.items()}
        self._cache = sorted(name for name in details if name[:4] in ("keys", "valu"))
        self._outputs = [each["index"] for each in self._interpreter.get_output_details()]
        for name in self._cache:
            self._inputs[name]()[...] = 0

    def run(self, ids: Sequence[int], full: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the logits (V,) after the last of T tokens, and the new keys and values, each (1, H, T, ...)."""
        row = np.zeros(self._count, "int32")
        row[: len(ids)] = ids
        mask = np.full((self._count, self._slots + self._count), _HIDDEN)
        mask[:, :full] = 0
        mask[:, self._slots :][np.tri(self._count, dtype=bool)] = 0
        # Views of the tensors' own memory: none may be alive when the interpreter runs.
        self._inputs["tokens"]()[...] = row
        self._inputs["positions"]()[...] = np.minimum(np.arange(full, full + self._count), self._longest - 1)
        self._inputs["mask"]()[...] = mask
        self._interpreter.invoke()
        logits, *rows = (self._interpreter.get_tensor(index) for index in self._outputs)
        return logits[0], rows

    def keep(self, rows: Sequence[np.ndarray], full: int, count: int) -> None:
        """Writes the first keys and values of a run into slots."""
        for name, row in zip(self._cache, rows, strict=True):
            self._inputs[name]()[:, :, full : full + count] = row[:, :, :count]


def choose(logits: np.ndarray, temperature: float, top_k: int, top_p: float, draw: float) -> int:
    """Returns a token of (V,) logits: the likeliest at temperature 0, else the one that a number from 0 to 1 stands for.

    Example:
        >>> choose(np.float32([3, 1, 3.1]), 0.0, 0, 1.0, 0.0), choose(np.float32([3, 1, 3.1]), 1.0, 2, 1.0, 0.1)
        (2, 0)
    """
    if temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / np.float32(temperature))
    if 0 < top_k < len(weights):
        weights = np.where(weights >= np.partition(weights, -top_k)[-top_k], weights, 0)
    if top_p < 1:
        ordered = np.sort(weights)[::-1]
        least = ordered[np.argmax(np.cumsum(ordered) >= np.float32(top_p) * weights.sum())]
        weights = np.where(weights >= least, weights, 0)
    sums = np.cumsum(weights)
    return int(np.argmax(sums > draw * sums[-1]))


def penalized(logits: np.ndarray, ids: Sequence[int], penalty: float, end: int) -> np.ndarray:
    """Makes tokens that stand in a text less likely to come again, but for the one that ends it.

    Example:
        >>> penalized(np.float32([2, -2, 2]), [0, 1], 2.0, 9).tolist()
        [1.0, -4.0, 2.0]
    """
    if penalty == 1:
        return logits
    found = np.array(sorted(set(ids) - {end}), "int64")
    lower = logits.copy()
    lower[found] = np.where(lower[found] > 0, lower[found] / np.float32(penalty), lower[found] * np.float32(penalty))
    return lower


def uniform_draws(seed: int, count: int) -> np.ndarray:
    """Returns a number from 0 to below 1 for each step: Threefry-2x32, as everywhere in KerasBig.

    Example:
        >>> uniform_draws(7, 3).round(4).tolist()
        [0.9085, 0.6903, 0.095]
    """
    keys = [seed & _32_BITS, (seed // 2**32) & _32_BITS]
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    x, y = (np.arange(count) + keys[0]) & _32_BITS, np.full(count, keys[1])
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = (x + y) & _32_BITS
            y = (((y << bits) & _32_BITS) | (y >> (32 - bits))) ^ x
        x = (x + keys[(group + 1) % 3]) & _32_BITS
        y = (y + keys[(group + 2) % 3] + group + 1) & _32_BITS
    return (x >> 9) / 2**23


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"Expected texts to be a list of texts. Received: {texts!r:.40}. Put one text in a list.")
    return list(texts)


def _check_settings(max_tokens: int, temperature: float, top_k: int, top_p: float, repetition_penalty: float, seed: int) -> None:
    """Raises a ValueError unless the settings are in range."""
    for name, value, good, words in (
        ("max_tokens", max_tokens, max_tokens >= 1, "to be a whole number from 1"),
        ("temperature", temperature, 0 <= temperature < math.inf, "from 0, which takes the likeliest token"),
        ("top_k", top_k, top_k >= 0, "to be a whole number from 0, which is all"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", repetition_penalty, 0 < repetition_penalty < math.inf, "above 0; 1 is none"),
        ("seed", seed, -(2**31) <= seed < 2**31, "to be a whole number of 32 bits"),
    ):
        if not good or (name in ("max_tokens", "top_k", "seed") and int(value) != value):
            raise ValueError(f"Expected {name} {words}. Received: {name}={value!r}")


def whole_characters(raw: bytes) -> str:
    r"""Decodes UTF-8 without a character at the end that is not whole yet; bytes that are no UTF-8 become U+FFFD.

    Example:
        >>> whole_characters("电影".encode()[:5])
        '电'
    """
    for count in range(1, min(3, len(raw)) + 1):
        try:
            raw[-count:].decode()
        except UnicodeDecodeError as error:
            if error.start == 0 and error.reason == "unexpected end of data":
                return raw[:-count].decode(errors="replace")
    return raw.decode(errors="replace")


def _token_bytes(vocabulary: dict[str, int], end: int) -> dict[int, bytes]:
    """Returns the bytes of each token: a byte that does not print is written as a character from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}
    known = {place: token for token, place in vocabulary.items() if place != end and letters.keys() >= set(token)}
    return {place: bytes(letters[letter] for letter in token) for place, token in known.items()}


if __name__ == "__main__":
    for piece in LiteRTGenerator(sys.argv[1]).stream(sys.argv[2]):
        print(piece, end="", flush=True)
    print()
