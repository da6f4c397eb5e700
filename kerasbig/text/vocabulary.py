"""Learning a vocabulary from text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import tokenizers

# In the order of Google's BERT vocabularies: padding is id 0.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_wordpiece(lines: Iterable[str], vocabulary_size: int = 8000, *, lowercase: bool = True, min_frequency: int = 2) -> list[str]:
    """Learns a WordPiece vocabulary for `bert_classifier`.

    Every character of the text is kept as a token where the size allows, so Chinese and emoji are not lost. The
    learning is done by the library `tokenizers`; the same lines give the same vocabulary.

    Args:
        lines: Texts to learn from: the training split only, never the test.
        vocabulary_size: Most tokens to keep, the five special ones included. A small text gives fewer.
        lowercase: Whether to fold case, as the model will.
        min_frequency: Times a pair of pieces must occur to be joined.

    Returns:
        The tokens; the position is the id. `[PAD]` is 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3, `[MASK]` 4.

    Raises:
        TypeError: If `lines` is one string.
        ValueError: If `vocabulary_size` leaves no room beside the special tokens, or there is no text.

    Example:
        >>> vocabulary = learn_wordpiece(["low lower lowest", "low low lower"], 40)
        >>> vocabulary[:5], "low" in vocabulary
        (['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'], True)

    Source: Schuster and Nakajima, 2012, "Japanese and Korean voice search"; https://github.com/huggingface/tokenizers.
    """
    if isinstance(lines, str):
        raise TypeError("Expected lines to be an iterable of texts. Received one string. Pass [text] for a single text.")
    if vocabulary_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"Expected vocabulary_size above {len(SPECIAL_TOKENS)}, the special tokens. Received: vocabulary_size={vocabulary_size}"
        )
    # KerasHub's BERT tokenizer folds case and splits Chinese characters, but keeps accents unless told otherwise.
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    if not counts:
        raise ValueError("Expected some text to learn a vocabulary from. Received: no line with a character in it.")
    learner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        # Named here, pieces of one character get their ids in our order; the trainer's own order changes from run to run.
        special_tokens=[*SPECIAL_TOKENS, *_alphabet(counts)],
        show_progress=False,
    )
    learner.train_from_iterator((word for word in sorted(counts) for _ in range(counts[word])), trainer)
    ids = learner.get_vocab()
    return sorted(ids, key=ids.__getitem__)[:vocabulary_size]


def _alphabet(counts: Counter[str]) -> list[str]:
    """Returns the pieces of one character, at the start of a word or inside (`##`), the most frequent first."""
    pieces: Counter[str] = Counter()
    for word, count in counts.items():
        for place, character in enumerate(word):
            pieces[f"##{character}" if place else character] += count
    return sorted(pieces, key=lambda piece: (-pieces[piece], piece))
