"""Asking a model thousands of times: each different input once, like lengths together, with a progress bar."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kerasbig.explain.subjects import Subject, names_of

TEXTS_AT_ONCE, IMAGES_AT_ONCE = 256, 64


class Scores:
    """The scores of inputs by one model, kept so that no input is computed twice.

    Attributes:
        computed: How many different inputs were computed.
    """

    def __init__(self, of: Subject, bar: Any = None):
        self._of, self._bar = of, bar
        self._known: dict[Any, np.ndarray] = {}
        self.computed = 0

    def __call__(self, inputs: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Returns float64 (N, C): the scores of N texts or images, in their order.

        Raises:
            ValueError: If the model does not return a finite (N, C).
        """
        keys = [given if isinstance(given, str) else hashlib.blake2b(given.tobytes(), digest_size=16).digest() for given in inputs]
        new = {key: given for key, given in zip(keys, inputs, strict=True) if key not in self._known}
        are_texts = isinstance(next(iter(new.values()), None), str)
        order = sorted(new, key=len) if are_texts else list(new)
        step = TEXTS_AT_ONCE if are_texts else IMAGES_AT_ONCE
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            given = [new[key] for key in batch] if are_texts else np.stack([new[key] for key in batch]).astype("float32")
            self._known.update(zip(batch, _checked(self._of.compute(given), len(batch)), strict=True))
            self._advance(len(batch))
        self.computed += len(new)
        self._advance(len(keys) - len(new))
        return np.stack([self._known[key] for key in keys])

    def names(self, example: Any) -> tuple[str, ...]:
        """Returns the names of the outputs."""
        return names_of(self._of, self([example]).shape[1])

    def _advance(self, count: int) -> None:
        if self._bar is not None and count:
            self._bar.advance(self._bar.task_ids[0], count)


def _checked(scores: Any, count: int) -> np.ndarray:
    scores = np.asarray(scores, "float64")
    if scores.ndim != 2 or len(scores) != count:
        raise ValueError(
            f"Expected the model to return scores of shape ({count}, classes), probabilities or one value each. Received: {scores.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "Expected finite scores. Received: NaN or infinity from the model. Its training has diverged, or an input is broken."
        )
    return scores


@contextlib.contextmanager
def scoring(of: Subject, what: str, total: int, *, progress: bool) -> Iterator[Scores]:
    """Yields the `Scores` of a model, with a bar on standard error that goes when it is done.

    Args:
        of: The model.
        what: What is going on.
        total: About how many inputs will be asked for.
        progress: Whether to show the bar.
    """
    if not progress:
        yield Scores(of)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=total)
        yield Scores(of, bar)


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seeds NumPy's global random numbers for a library that draws from them, and puts them back as they were."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
