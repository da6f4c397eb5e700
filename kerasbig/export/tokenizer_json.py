"""A KerasHub BERT tokenizer as a Hugging Face `tokenizer.json` with equal token ids.

The usual `BertNormalizer` and `BertPreTokenizer` differ from KerasHub on real text: KerasHub folds case by Unicode's
NFKC_Casefold ("ß" to "ss", "①" to "1", variation selectors to nothing), folds after it has split words, and limits
words to 100 bytes where Hugging Face counts characters. So the same steps are written out here, and the character
classes and the folding come from the operations that KerasHub itself runs (RE2 and ICU).

A Hugging Face tokenizer changes characters first and splits words afterwards. KerasHub does it the other way round:
the places of the splits are therefore marked by a control character, which no later step touches.
"""

from __future__ import annotations

import functools
from collections import defaultdict

import keras_hub
import tensorflow as tf
import tensorflow_text as tf_text
from keras_hub.src.tokenizers import word_piece_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

# Control characters are delimiters for KerasHub, so none is left in a word: these are free.
BREAK, FILLER, TOO_LONG = "\x01", "\x02", "\x03"
MAX_BYTES_PER_WORD = word_piece_tokenizer.MAX_BYTES_PER_WORD


def hugging_face_tokenizer(preprocessor: keras_hub.models.BertTextClassifierPreprocessor) -> Tokenizer:
    """Builds the Hugging Face tokenizer that gives a KerasHub preprocessor's token ids, without padding.

    Args:
        preprocessor: Its tokenizer and sequence length are taken.

    Returns:
        A `tokenizers.Tokenizer` that adds [CLS] and [SEP] and cuts at `sequence_length`.

    Raises:
        ValueError: If the KerasHub tokenizer takes words that are split already (`split=False`).

    Example:
        >>> import kerasbig as kb
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> hugging_face_tokenizer(model.preprocessor).encode("A!").tokens
        ['[CLS]', 'a', '[UNK]', '[SEP]']
    """
    own = preprocessor.tokenizer
    if not own.split:
        raise ValueError("Expected a tokenizer that splits raw texts (split=True). Received: split=False, which has no tokenizer.json.")
    vocabulary = {token: index for index, token in enumerate(own.get_vocabulary())}
    # KerasHub's words of 100 bytes are at most 100 characters: the second limit never acts on its own.
    pieces = models.WordPiece(
        vocabulary, unk_token=own.oov_token, continuing_subword_prefix=own.suffix_indicator, max_input_chars_per_word=MAX_BYTES_PER_WORD
    )
    result = Tokenizer(pieces)
    result.normalizer = normalizers.Sequence(_steps(own))
    result.pre_tokenizer = pre_tokenizers.Split(BREAK, "removed")
    ends = [(token, vocabulary[token]) for token in (own.cls_token, own.sep_token)]
    result.post_processor = processors.TemplateProcessing(single=f"{own.cls_token} $A {own.sep_token}", special_tokens=ends)
    result.enable_truncation(preprocessor.sequence_length)
    if own.special_tokens_in_strings:
        # Only then: a special token typed by a user is otherwise plain text.
        result.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in own.special_tokens])
    return result


def _steps(own: keras_hub.tokenizers.BertTokenizer) -> list[normalizers.Normalizer]:
    """Returns KerasHub's `pretokenize` step by step, in its order."""
    ideographs = _character_class(word_piece_tokenizer.CJK_REGEX) if own.split_on_cjk else ""
    marks = _character_class(word_piece_tokenizer.PUNCTUATION_REGEX)
    # TensorFlow Text splits C strings: a text ends at a NUL.
    steps: list[normalizers.Normalizer] = [_replace(r"\x00[\s\S]*", "")]
    if own.split_on_cjk:
        steps.append(_break_around(ideographs))
    if own.strip_accents:
        steps += [normalizers.NFD(), _replace(f"[{_character_class(chr(92) + 'p{Mn}')}]", "")]
    steps.append(_replace(f"[{_character_class(word_piece_tokenizer.WHITESPACE_REGEX)}]", BREAK))
    steps.append(_break_around(marks + ideographs))
    if own.lowercase:
        letters = frozenset("".join(own.get_vocabulary()))
        steps += [_replace(f"[{found}]", folded) for found, folded in _folding_rules(letters)]
        steps += [normalizers.NFKC(), normalizers.Lowercase()]
    return steps + _unknown_if_long()


def _unknown_if_long() -> list[normalizers.Normalizer]:
    """Makes words of too many bytes unknown: one filler for each further byte of a character, then count characters."""
    return [
        _replace(r"(?<=[\x{80}-\x{7FF}\x{800}-\x{10FFFF}])", FILLER),
        _replace(rf"(?<=[\x{{800}}-\x{{10FFFF}}])(?={FILLER})", FILLER),
        _replace(rf"(?<=[\x{{10000}}-\x{{10FFFF}}])(?={FILLER})", FILLER),
        _replace(f"[^{BREAK}]{{{MAX_BYTES_PER_WORD + 1},}}", TOO_LONG),
        _replace(FILLER, ""),
    ]


def _replace(pattern: str, content: str) -> normalizers.Normalizer:
    return normalizers.Replace(Regex(pattern), content)


def _break_around(characters: str) -> normalizers.Normalizer:
    # Never at the very start: tokenizers (0.23) loses its alignment there, and a later step panics.
    return _replace(rf"(?!\A)(?=[{characters}])|(?<=[{characters}])", BREAK)


@functools.cache
def _characters() -> tuple[str, ...]:
    """Every character of a plane that has any, surrogates left out."""
    return tuple(chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)))


@functools.cache
def _character_class(pattern: str) -> str:
    """Writes the characters that an RE2 pattern matches as ranges, since regex libraries know different Unicode versions."""
    matches = tf.strings.regex_full_match(tf.constant(_characters()), pattern).numpy()
    return _ranges([ord(character) for character, match in zip(_characters(), matches, strict=True) if match])


def _ranges(codes: list[int]) -> str:
    written, start = [], 0
    for i, code in enumerate(codes):
        if i + 1 == len(codes) or codes[i + 1] != code + 1:
            written.append(rf"\x{{{codes[start]:X}}}-\x{{{code:X}}}")
            start = i + 1
    return "".join(written)


@functools.cache
def _folding_differences() -> tuple[tuple[str, str, str], ...]:
    """Finds (character, KerasHub's folding, NFKC and lower case) wherever the two foldings differ."""
    plain = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    folded = tf_text.case_fold_utf8(tf.constant(_characters())).numpy()
    pairs = ((character, fold.decode(), plain.normalize_str(character)) for character, fold in zip(_characters(), folded, strict=True))
    return tuple((character, fold, lower) for character, fold, lower in pairs if fold != lower)


def _folding_rules(letters: frozenset[str]) -> list[tuple[str, str]]:
    """Returns (character class, replacement) for the differences that can show.

    A word with a letter that is in no token is unknown either way, so only foldings into the vocabulary's letters count.
    """
    sources: dict[str, list[int]] = defaultdict(list)
    for character, fold, lower in _folding_differences():
        if letters.issuperset(fold) or letters.issuperset(lower):
            sources[fold].append(ord(character))
    return [(_ranges(codes), fold) for fold, codes in sorted(sources.items())]
