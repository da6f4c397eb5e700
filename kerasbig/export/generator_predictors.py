"""Exported generators as functions from texts to what comes after: one interface over all formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kerasbig.decoding.settings import Settings
from kerasbig.export.manifests import SINGLE_FILES, size_of
from kerasbig.export.predictors import checked_texts

_BATCH = 32


@runtime_checkable
class Generator(Protocol):
    """An exported generator, ready to write.

    Attributes:
        path: The folder or file it was loaded from.
        format: "saved_model", "hdf5" or "litert".
    """

    path: Path
    format: str

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
        """Returns what comes after each text; at temperature 0 the likeliest token is taken each time."""

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Returns the log-likelihood in nats and the number of tokens of each text."""

    def bytes_on_disk(self) -> int:
        """Returns the size of all files that an answer needs."""


class _InGraph:
    """A generator whose texts are made in TensorFlow's graph."""

    path: Path
    _generate: Callable[..., Any]
    _score: Callable[..., Any]

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
        """Returns what comes after each text."""
        import tensorflow as tf

        _check_settings(max_tokens, temperature, top_k, top_p, repetition_penalty, seed)
        settings = {"max_tokens": max_tokens, "temperature": float(temperature), "top_k": top_k, "top_p": float(top_p)}
        settings |= {"repetition_penalty": float(repetition_penalty), "seed": seed}
        tensors = {name: tf.constant(value) for name, value in settings.items()}
        rows, written = checked_texts(texts, "texts"), []
        for start in range(0, len(rows), _BATCH):
            answer = self._generate(text=tf.constant(rows[start : start + _BATCH]), **tensors)["text"]
            written += [text.decode() for text in answer.numpy()]
        return written

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Returns the log-likelihood in nats and the number of tokens of each text."""
        import tensorflow as tf

        rows = checked_texts(texts, "texts")
        if not rows:
            return []
        answer = self._score(text=tf.constant(rows))
        return list(zip(answer["log_likelihood"].numpy().tolist(), answer["tokens"].numpy().tolist(), strict=True))


class SavedModelGenerator(_InGraph):
    """A SavedModel, run by TensorFlow.

    Args:
        path: The version's folder.
        xla: Whether the signature that XLA compiles is used: seconds for each new size, then faster.
    """

    format = "saved_model"

    def __init__(self, path: Path, *, xla: bool = False) -> None:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401

        self.path = path
        # The loaded object owns the variables: without it the signatures stop working.
        self._loaded = tf.saved_model.load(str(path))
        self._generate = self._loaded.signatures["generate_xla" if xla else "serving_default"]
        self._score = self._loaded.signatures["score"]

    def bytes_on_disk(self) -> int:
        """Returns the size of the whole folder."""
        return size_of(self.path)


class HDF5Generator(_InGraph):
    """A Keras model rebuilt from `model.json` and `model.weights.h5`."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        from kerasbig.data.splitting import mend_splitting
        from kerasbig.export.generator_graph import GeneratorGraph
        from kerasbig.export.untrusted import read_model

        weights, config = (path / name for name in SINGLE_FILES["hdf5"])
        self.path = weights
        self.model = read_model(config, weights)
        mend_splitting(self.model.preprocessor.tokenizer)
        graph = GeneratorGraph(self.model)
        self._generate, self._score = graph.generate(xla=False), graph.score()

    def bytes_on_disk(self) -> int:
        """Returns the size of the weights and the configuration."""
        return sum(size_of(self.path.parent / name) for name in SINGLE_FILES["hdf5"])


class KerasGenerator(_InGraph):
    """A Keras model, asked as its SavedModel is, with nothing written.

    Args:
        model: A `GPT2CausalLM` such as from `kerasbig.text.gpt_generator`.

    Raises:
        TypeError: If it is another model.
    """

    format = "keras"

    def __init__(self, model: Any) -> None:
        from kerasbig.export.generator import require
        from kerasbig.export.generator_graph import GeneratorGraph

        require(model, None)
        graph = GeneratorGraph(model)
        self._generate, self._score = graph.generate(xla=False), graph.score()


def bits_per_byte(generator: Any, texts: Sequence[str]) -> float:
    """Measures how well a generator, exported or not, foretells texts, whatever its tokens are.

    Each text counts as a document from its beginning; what is beyond the model's context is left out of the bits, so choose texts
    that fit into it.

    Args:
        generator: A `GPT2CausalLM` such as from `kerasbig.text.gpt_generator`, or an exported one as `load` returns it.
        texts: What is foretold.

    Returns:
        All bits by all UTF-8 bytes.

    Raises:
        TypeError: If the model is no generator that can be exported.
        ValueError: If there is no text.

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300))
        >>> 1 < bits_per_byte(model, ["a film"]) < 9
        True
    """
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise ValueError("Expected at least one text with a character in it. Received: none.")
    scores = (KerasGenerator(generator) if hasattr(generator, "preprocessor") else generator).score(texts)
    return -sum(likelihood for likelihood, _ in scores) / math.log(2) / size


def _check_settings(max_tokens: int, temperature: float, top_k: int, top_p: float, repetition_penalty: float, seed: int) -> None:
    """Raises a ValueError if a setting is out of range; temperature 0 is greedy."""
    Settings(max_tokens, "sample", temperature or 1.0, top_k, top_p, repetition_penalty=repetition_penalty)
    if not -(2**31) <= seed < 2**31:
        raise ValueError(f"Expected seed to be a whole number of 32 bits. Received: seed={seed!r}")
