"""What many tests share: tiny texts, a tiny model, and fresh processes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kerasbig.data import Examples

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
