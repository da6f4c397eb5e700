"""Byte-level vocabularies of GPT-2's kind: learning, reading and checking one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import tokenizers

END_OF_TEXT = "<|endoftext|>"
# In bytes. Learning takes the square of a word's length: one of a million letters, as DNA is written, took over 10 minutes.
LONGEST_WORD = 256


@dataclass(frozen=True)
class BytePair:
    """A byte-level vocabulary, as GPT-2's `vocab.json` and `merges.txt` hold it.

    Each byte is written as one printable character (a space as "Ġ"), so that every text can be written and read back.

    Attributes:
        vocabulary: Tokens and their ids: the 256 bytes, what they are joined to, and `<|endoftext|>` as the last.
        merges: Pairs of tokens to join, such as "Ġ t", the first ones first.

    Example:
        >>> pairs = learn_bpe(["low lower lowest", "low low"], 262)
        >>> pairs
        BytePair(261 tokens)
        >>> pairs.merges[:2], pairs.vocabulary["<|endoftext|>"]
        (['l o', 'lo w'], 260)
    """

    vocabulary: dict[str, int]
    merges: list[str]

    def __repr__(self) -> str:
        return f"BytePair({len(self.vocabulary)} tokens)"


def learn_bpe(lines: Iterable[str], vocabulary_size: int = 8000, *, min_frequency: int = 2) -> BytePair:
    """Learns a byte-level vocabulary for `gpt_generator`.

    All 256 bytes are tokens, so every script, every emoji and every other character survives. Texts are cut into words
    as GPT-2 cuts them. The learning is done by the library `tokenizers`; the same lines give the same vocabulary.

    Args:
        lines: Texts to learn from, read once: the training split only, never the test. What is kept in memory is the
            different words, not the texts.
        vocabulary_size: Most tokens to keep, the 256 bytes and `<|endoftext|>` included. A small text gives fewer.
        min_frequency: Times a pair of tokens must occur to be joined.

    Returns:
        A `BytePair`; `<|endoftext|>` has the last id, since KerasHub fills up with id 0.

    Raises:
        TypeError: If `lines` is one string.
        ValueError: If `vocabulary_size` leaves no room for a pair, or no pair occurs `min_frequency` times.

    Example:
        >>> pairs = learn_bpe(["the cat, the hat", "das Café 🎉"], 300)
        >>> pairs.merges, list(pairs.vocabulary)[-2:]
        (['a t', 'h e', 't he'], ['the', '<|endoftext|>'])

    Source: Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.2;
    https://github.com/huggingface/tokenizers.
    """
    if isinstance(lines, str):
        raise TypeError("Expected lines to be an iterable of texts. Received one string. Pass [text] for a single text.")
    if vocabulary_size < 258:
        raise ValueError(
            f"Expected vocabulary_size of at least 258: 256 bytes, one pair and {END_OF_TEXT}. Received: vocabulary_size={vocabulary_size}"
        )
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([words, tokenizers.pre_tokenizers.FixedLength(LONGEST_WORD)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,
        min_frequency=min_frequency,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)
    merges = [" ".join(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    if not merges:
        raise ValueError(
            f"Expected text in which some pair of bytes occurs {min_frequency} times. Received text with none. Pass more text, or a "
            "lower min_frequency."
        )
    ids = learner.get_vocab()
    return BytePair({token: ids[token] for token in sorted(ids, key=ids.__getitem__)} | {END_OF_TEXT: len(ids)}, merges)


def read_tokenizer_json(path: Path) -> BytePair:
    """Reads the vocabulary out of a `tokenizer.json`, the one file of a tokenizer that transformers 5 writes.

    Args:
        path: The file, of a byte-level tokenizer such as GPT-2's.

    Returns:
        A `BytePair`, special tokens included.

    Raises:
        ValueError: If it is no JSON, or holds no byte-level pairs.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "tokenizer.json")
        >>> tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).save(str(path))
        >>> read_tokenizer_json(path)
        BytePair(3 tokens)
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE":
        raise ValueError(f"Expected {str(path)!r} to hold a model of type 'BPE'. Received: {model.get('type')!r}. Name a GPT-2 folder.")
    added = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    return BytePair(model["vocab"] | added, [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])


def require_byte_pair(vocabulary: BytePair) -> None:
    """Raises unless a vocabulary can write and read back every text.

    Raises:
        TypeError: If it is no `BytePair`.
        ValueError: If a byte, `<|endoftext|>` or a part of a pair is missing, no pair is there, or the ids have gaps.

    Example:
        >>> require_byte_pair(learn_bpe(["a film, a film"], 300))
    """
    if not isinstance(vocabulary, BytePair):
        raise TypeError(
            f"Expected vocabulary to be a BytePair. Received: {type(vocabulary).__name__}. Learn one with kerasbig.text.learn_bpe(lines)."
        )
    tokens, merges = vocabulary.vocabulary, vocabulary.merges
    needed = {END_OF_TEXT, *tokenizers.pre_tokenizers.ByteLevel.alphabet(), *chain.from_iterable(pair.split(" ") for pair in merges)}
    missing = sorted(needed - tokens.keys())
    if missing or not merges:
        what = f"{len(missing)} missing, such as {missing[0]!r}" if missing else "no pair at all"
        raise ValueError(
            f"Expected the vocabulary to hold 256 bytes, {END_OF_TEXT} and both parts of each pair. Received: {what}. Use learn_bpe."
        )
    if sorted(tokens.values()) != list(range(len(tokens))):
        raise ValueError(f"Expected the ids of the {len(tokens)} tokens to be 0 to {len(tokens) - 1}. Received others. Use learn_bpe.")
