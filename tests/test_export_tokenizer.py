"""tokenizer.json gives KerasHub's own token ids, on every character and under every setting."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from kerasbig.export.parity import DEFAULT_EXAMPLES
from kerasbig.export.text_encoder import TextEncoder
from kerasbig.export.tokenizer_json import hugging_face_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzABCé0123456789!.,-'…电影한국ßσςиβ❤①ı"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "film", "##ing", "ss", "...", "x" * 100, "é" * 50, "é" * 51]


def both(
    texts: list[str], folder: Path, *, lowercase: bool = True, strip_accents: bool = True, **options: object
) -> list[tuple[str, list[int], list[int]]]:
    """Returns (text, KerasHub's ids, those of `tokenizer.json`) wherever they differ, read by `tokenizers` and by `TextEncoder`."""
    own = keras_hub.tokenizers.BertTokenizer(VOCABULARY, lowercase=lowercase, strip_accents=strip_accents, **options)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(own, sequence_length=24)
    hugging_face_tokenizer(preprocessor).save(str(folder / "tokenizer.json"))
    read_back = Tokenizer.from_file(str(folder / "tokenizer.json"))
    features = tf.function(preprocessor)(tf.constant(texts))
    rows = zip(features["token_ids"].numpy(), features["padding_mask"].numpy(), strict=True)
    wanted = [row[: np.flatnonzero(mask)[-1] + 1].tolist() for row, mask in rows]
    received = [encoding.ids for encoding in read_back.encode_batch(texts)]
    differ = [(text, a, b) for text, a, b in zip(texts, wanted, received, strict=True) if a != b]
    plain = [place for place, text in enumerate(texts) if text.isascii()]
    shorter = TextEncoder((folder / "tokenizer.json").read_text(encoding="utf-8"))([texts[place] for place in plain])
    return differ + [(texts[place], wanted[place], ids) for place, ids in zip(plain, shorter, strict=True) if ids != wanted[place]]


SETTINGS = [{"lowercase": lower, "strip_accents": strip} for lower, strip in itertools.product((True, False), repeat=2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_character(setting: dict[str, bool], tmp_path: Path) -> None:
    characters = (chr(code) for code in itertools.chain(range(0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE0200)))
    assert both([f"x{character}a" for character in characters], tmp_path, **setting) == []


@pytest.mark.parametrize("setting", [*SETTINGS, {"split_on_cjk": False}, {"special_tokens_in_strings": True}])
def test_hard_texts(setting: dict[str, bool], tmp_path: Path) -> None:
    lengths = ["x" * n for n in (99, 100, 101)] + ["é" * n for n in (49, 50, 51)] + ["电" * 40, "❤" * 33, "❤" * 34, "x" * 98 + "é"]
    short = ["", " ", "\x00", "a\x00b", "!", "!!", "…", "film…ing", "##ing", "[CLS] film [SEP]", "ẞ", "ΣΑΣ", "İI", "①film", "한국e\u0301"]
    assert both([*DEFAULT_EXAMPLES, *lengths, *short], tmp_path, **setting) == []


def test_random_texts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pools = [
        [*range(0x250)],
        [*range(0x300, 0x600)],
        [*range(0x1100, 0x1200), *range(0xAC00, 0xAC80)],
        [*range(0x1F00, 0x2100), *range(0x4E00, 0x4E20)],
        [*range(0x1F600, 0x1F640), 0xFE0F, 0x200D, 0x2764],
        [ord(letter) for letter in LETTERS],
    ]
    texts = []
    for _ in range(3000):
        pool = pools[random.integers(len(pools))] + pools[random.integers(len(pools))]
        texts.append("".join(chr(pool[i]) for i in random.integers(len(pool), size=random.integers(1, 30))))
    for setting in SETTINGS:
        assert both(texts, tmp_path, **setting) == []


def test_random_texts_of_ascii(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = ["".join(map(chr, random.integers(0x80, size=random.integers(1, 30)))) for _ in range(3000)]
    texts += ["".join(random.choice([*"aAfilm []!.'"], size=30)) for _ in range(500)]
    for setting in [*SETTINGS, {"split_on_cjk": False}, {"special_tokens_in_strings": True}]:
        assert both(texts, tmp_path, **setting) == []


def test_ascii_takes_fewer_steps_and_other_texts_all(tmp_path: Path) -> None:
    own = keras_hub.tokenizers.BertTokenizer(VOCABULARY, lowercase=True)
    tokenizer = hugging_face_tokenizer(keras_hub.models.BertTextClassifierPreprocessor(own, sequence_length=24))
    encoder = TextEncoder(tokenizer.to_str())
    steps = [json.loads(which.normalizer.__getstate__())["normalizers"] for which in (encoder._whole, encoder._ascii)]
    # Seven steps and the five of a word's length may change ASCII; accents and the rare foldings of case cannot.
    assert len(steps[0]) > 20
    assert len(steps[1]) < 13
    assert encoder.longest == 24
    # One text beyond ASCII is enough for the whole batch.
    texts = ["a film", "\u1e9e \U0001ccd6"]
    assert encoder(texts) == [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def test_a_special_token_in_a_text_is_plain_text(tmp_path: Path) -> None:
    own = keras_hub.tokenizers.BertTokenizer(VOCABULARY, lowercase=True)
    tokenizer = hugging_face_tokenizer(keras_hub.models.BertTextClassifierPreprocessor(own, sequence_length=24))
    assert tokenizer.encode("[SEP]").ids.count(VOCABULARY.index("[SEP]")) == 1


def test_words_that_are_split_already_are_refused() -> None:
    own = keras_hub.tokenizers.BertTokenizer(VOCABULARY, split=False)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(own, sequence_length=24)
    with pytest.raises(ValueError, match=r"Expected a tokenizer that splits raw texts .* Received: split=False"):
        hugging_face_tokenizer(preprocessor)
