"""Tokenizing on all cores: processes of our own, since words are looked up in Python, which runs on one core a process.

`python -m kerasbig.data.token_workers` is one of them. They are started as programs, not forked or spawned by
`multiprocessing`, so a script needs no `if __name__ == "__main__"`, and TensorFlow's threads do not matter.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import numpy as np

from kerasbig.data.word_tokens import WordTokenizer

# One process reads the texts and writes the ids of all; it keeps about this many busy.
MOST_WORKERS = 16
# int64 (N,) tokens of each text, and the ids of all of them, end to end.
Encoded = tuple[np.ndarray, np.ndarray]


def encode_all(encode: Callable[[str], np.ndarray], texts: Sequence[str]) -> Encoded:
    """Tokenizes texts here.

    Example:
        >>> [part.tolist() for part in encode_all(lambda text: np.arange(len(text)), ["ab", "c"])]
        [[2, 1], [0, 1, 0]]
    """
    ids = [encode(text) for text in texts]
    return np.array([len(each) for each in ids], "int64"), np.concatenate(ids)


def number_of_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that tokenize at the same time; to be used in a `with` block.

    Args:
        tokenizer: What they tokenize with.
        count: How many.

    Example:
        >>> import tokenizers
        >>> letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        >>> tokenizer = WordTokenizer({token: i for i, token in enumerate(letters)}, [], [])
        >>> with Workers(tokenizer, 1) as workers:
        ...     [[part.tolist() for part in encoded] for encoded in workers.encode([["a", "b"], ["c"]])]
        [[[1, 1], [64, 65]], [[1], [66]]]
    """

    def __init__(self, tokenizer: WordTokenizer, count: int):
        self._dtype, self._count = tokenizer.dtype, count
        # A package that was found by a changed sys.path must be found by the processes, too.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "kerasbig.data.token_workers"]
        self._processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(count)]
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(count)
        for process in self._processes:
            _send(process.stdin, tokenizer.to_json().encode())
            self._idle.put(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def encode(self, groups: Iterable[Sequence[str]]) -> Iterator[Encoded]:
        """Yields the token ids of groups of texts in their order; a few groups are read ahead.

        Raises:
            RuntimeError: If a process ends.
        """
        ahead: deque[Future[Encoded]] = deque()
        for group in groups:
            ahead.append(self._threads.submit(self._encode, group))
            if len(ahead) > 2 * self._count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _encode(self, texts: Sequence[str]) -> Encoded:
        process = self._idle.get()
        encoded = [text.encode() for text in texts]
        try:
            _send(process.stdin, np.array([len(encoded), *map(len, encoded)], "int64").tobytes() + b"".join(encoded))
            reply = _receive(process.stdout)
        except BrokenPipeError:
            reply = None
        finally:
            # Dead ones too: a group that waits for the only process is to fail as well, not to wait on.
            self._idle.put(process)
        if reply is None:
            raise RuntimeError(
                f"Expected the process that tokenizes to go on. Received: its end with exit code {process.wait()}. "
                "Its own words are above; -9 is a lack of memory."
            )
        counts = np.frombuffer(reply, "int64", len(texts))
        return counts, np.frombuffer(reply, self._dtype, offset=counts.nbytes)


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answers each group of texts with its token ids until the source ends: what a process of `Workers` does."""
    description = _receive(source)
    tokenizer = WordTokenizer.from_json((description or b"").decode())
    while (message := _receive(source)) is not None:
        (count,) = np.frombuffer(message, "int64", 1)
        ends = 8 * (count + 1) + np.cumsum(np.frombuffer(message, "int64", count, offset=8))
        starts = [8 * (count + 1), *ends[:-1]]
        texts = [message[start:end].decode() for start, end in zip(starts, ends, strict=True)]
        counts, ids = encode_all(tokenizer.encode, texts)
        _send(sink, counts.tobytes() + ids.tobytes())


def _send(stream: Any, message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def _receive(stream: Any) -> bytes | None:
    """Returns the next message; None where there is none, or not the whole of it."""
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    message = stream.read(length) if len(head) == 8 else b""
    return message if len(head) == 8 and len(message) == length else None


if __name__ == "__main__":
    # Ctrl-C is for the process that asks; without it the source ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
