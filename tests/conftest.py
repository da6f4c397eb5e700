"""What many tests share: tiny texts, a tiny model, and fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from kerasbig.data import Examples

# What `train` is: callbacks in, weights out, in at least four steps.
Train = Callable[..., list[np.ndarray]]


def whole_and_resumed(train: Train, folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Trains once as a whole, and once cut after three steps and gone on with; returns both weights."""
    import keras

    from kerasbig.distribute import Resume

    class Cut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(Resume(folder, every_seconds=0), Cut())
    return whole, train(Resume(folder, every_seconds=0))


GOOD, BAD = ("fine", "great", "lovely", "superb"), ("dull", "awful", "boring", "weak")


def review_lines(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Makes reviews of 3 to 20 words whose label is which kind of word they hold."""
    random = np.random.default_rng(seed)
    targets = (np.arange(count) % 2).astype("int32")
    lines = []
    for target in targets:
        words = list(random.choice(["the", "film", "story", "is", "was", "a", "and", "of"], random.integers(2, 18)))
        words.insert(int(random.integers(len(words))), str(random.choice(GOOD if target else BAD)))
        lines.append(" ".join(words))
    return lines, targets


@pytest.fixture(scope="session")
def review_examples() -> Examples:
    lines, targets = review_lines(64)
    return Examples(lines, targets, ("negative", "positive"), list(range(2, 66)), "made.csv", "train")


@pytest.fixture(scope="session")
def review_vocabulary(review_examples: Examples) -> list[str]:
    from kerasbig.text import learn_wordpiece

    return learn_wordpiece(review_examples.inputs, 120)


@pytest.fixture
def tiny_bert(review_vocabulary: list[str]):
    """A new tiny classifier with seeded weights, at sequence length 32."""
    import keras

    from kerasbig.text import bert_classifier

    keras.utils.set_random_seed(7)
    return bert_classifier(("negative", "positive"), size="tiny", vocabulary=review_vocabulary, sequence_length=32)


@pytest.fixture(scope="session")
def run_python():  # a function from code to what it prints
    """Runs code in a fresh Python process and returns its standard output."""

    def run(code: str) -> str:
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


@pytest.fixture(scope="session", autouse=True)
def traced_once() -> Iterator[None]:
    """Makes the variables of optimizers before the first step, as `Resume` does: tracing it twice is most of what small fits take."""
    import keras

    from kerasbig.distribute.optimizer_state import build_optimizer

    stock = keras.Model.make_train_function

    def make(self: keras.Model, force: bool = False) -> None:
        if self.built:
            build_optimizer(self)
        stock(self, force)

    keras.Model.make_train_function = make
    yield
    keras.Model.make_train_function = stock


class Forked:
    """A check that runs in a fork of `warm_checks.py`, with what `subprocess.Popen` offers of it."""

    def __init__(self, status: Path):
        self.status = status

    def poll(self) -> int | None:
        return int(self.status.read_text(encoding="utf-8")) if self.status.exists() else None

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.status), timeout)
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        """Leaves it: it ends by itself, and nobody waits for it any more."""


@pytest.fixture(scope="session", autouse=True)
def warm_checks() -> Iterator[None]:
    """Lets exported files be checked in forks of one process without KerasBig; those for LiteRT know no TensorFlow and start anew."""
    from kerasbig.export import parity

    fresh, script = parity.start, Path(__file__).with_name("warm_checks.py")
    running: list[subprocess.Popen[str]] = []

    def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | Forked:
        if command[3] == "litert":
            return fresh(command, log, environment)
        if not running:
            running.append(subprocess.Popen([sys.executable, "-P", script], stdin=subprocess.PIPE, text=True, env=environment))
        status = log.with_suffix(".status")
        job = {"command": command[2:], "folder": str(log.parent), "log": str(log), "status": str(status)}
        running[0].stdin.write(json.dumps(job) + "\n")
        running[0].stdin.flush()
        return Forked(status)

    parity.start = start
    yield
    parity.start = fresh
    for process in running:
        process.stdin.close()
        process.wait(60)
