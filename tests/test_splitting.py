"""Words of byte-pair tokenizers, outside graphs and inside: those of Hugging Face's."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from kerasbig.data.graph_tokens import graph_token_ids, words_in
from kerasbig.data.splitting import GPT2_FAMILY, PATTERNS, mend_splitting
from kerasbig.text import BytePair, gpt_generator, learn_bpe
from kerasbig.text.byte_pairs import END_OF_TEXT

GOLDEN = Path(__file__).parent / "golden"
LETTERS = ["a", "B", "é", "语", "1", "²", "'", "s", "t", "re", "ll", "ve", "m", "d", " ", " ", "\n", "\t", "\r", "\u00a0", "\u3000", "."]
LETTERS += ["!", "\x00", "६", "🎉", "\u200b", "\u0301", "ĴA", "\x85", "\u2028"]


@pytest.fixture(scope="module")
def pairs() -> BytePair:
    return learn_bpe([*made_texts(400), "Hello world!\n\n  there 12345 \r\n" * 2, "aaaa aaaaa"], 420)


@pytest.fixture(scope="module")
def tokenizer(pairs: BytePair) -> Any:
    return gpt_generator(size="tiny", vocabulary=pairs, sequence_length=8).preprocessor.tokenizer


def made_texts(count: int) -> list[str]:
    made = random.Random(0)
    return ["".join(made.choices(LETTERS, k=made.randint(0, 12))) for _ in range(count)]


def hugging_face_words(text: str) -> list[str]:
    splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)]


def outside(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer.tokenize(text)]


def inside(tokenizer: Any, texts: list[Any]) -> list[list[int]]:
    """What a graph gives, as an exported model runs it."""
    return tf.function(tokenizer.tokenize)(tf.constant(texts)).to_list()


# In a graph


def test_words_in_a_graph_equal_hugging_face() -> None:
    texts = made_texts(5000)
    found = tf.function(words_in)(tf.constant(texts)).to_list()
    for text, words in zip(texts, found, strict=True):
        assert [word.decode() for word in words] == hugging_face_words(text), repr(text)


def test_every_character_is_of_hugging_faces_kind() -> None:
    codes = [*range(0xD800), *range(0xE000, 0xFDD0), *range(0xFDF0, 0x32400), *range(0xE0000, 0xE0200), 0x10FFFD, 0x10FFFF]
    texts = [f"a{chr(code)}{chr(code)}1" for code in codes]
    found = words_in(tf.constant(texts)).to_list()
    wrong = [
        hex(code) for code, text, words in zip(codes, texts, found, strict=True) if [w.decode() for w in words] != hugging_face_words(text)
    ]
    assert wrong == []


def test_token_ids_in_a_graph_equal_those_outside(tokenizer: Any) -> None:
    texts = [*made_texts(300), "", f"one{END_OF_TEXT}  \n{END_OF_TEXT}'s", "aaaaaaa aaa", "x" * 500, "Hello  world!\n\n\n  there"]
    for text, ids in zip(texts, inside(tokenizer, texts), strict=True):
        assert ids == outside(tokenizer, text), repr(text)


def test_token_ids_in_a_graph_equal_hugging_face() -> None:
    own = gpt_generator(preset=GOLDEN / "gpt2", sequence_length=8).preprocessor.tokenizer
    with np.load(GOLDEN / "gpt2.npz") as golden:
        for ids, row in zip(inside(own, golden["texts"].tolist()), golden["text_ids"], strict=True):
            assert ids == row[row >= 0].tolist()


def test_one_string_no_string_and_no_utf8(tokenizer: Any) -> None:
    assert tf.function(tokenizer.tokenize)(tf.constant("Hello world")).numpy().tolist() == outside(tokenizer, "Hello world")
    assert tf.function(tokenizer.tokenize)(tf.constant("")).shape == (0,)
    assert words_in(tf.constant([], tf.string)).to_list() == []
    assert inside(tokenizer, [b"a\xff\xfeb", "\ufdd0"]) == [outside(tokenizer, "a\ufffd\ufffdb"), outside(tokenizer, "\ufffd")]


def test_a_graph_keeps_no_state_and_is_saved(tokenizer: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.tokenize = tf.function(lambda texts: tokenizer.tokenize(texts).to_tensor(-1), input_signature=[tf.TensorSpec([None], tf.string)])
    operations = {operation.type for operation in module.tokenize.get_concrete_function().graph.get_operations()}
    assert not any("Table" in name for name in operations)
    tf.saved_model.save(module, str(tmp_path))
    texts = ["Hello world!\n\nthere", "'s"]
    found = tf.saved_model.load(str(tmp_path)).tokenize(tf.constant(texts)).numpy()
    assert [row[row >= 0].tolist() for row in found] == [outside(tokenizer, text) for text in texts]


def test_a_preprocessor_in_a_pipeline_gives_the_same(pairs: BytePair) -> None:
    preprocessor = gpt_generator(size="tiny", vocabulary=pairs, sequence_length=12).preprocessor
    texts = ["Hello\n\n  world", "12345"]
    piped = next(iter(tf.data.Dataset.from_tensors(texts).map(preprocessor)))
    for one, other in zip(tf.nest.flatten(piped), tf.nest.flatten(preprocessor(texts)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_endless_word_ends_in_time(tokenizer: Any) -> None:
    tokenize = tf.function(tokenizer.tokenize)
    tokenize(tf.constant(["a"]))
    start = time.perf_counter()
    assert tokenize(tf.constant(["ab1" * 10_000])).to_list()[0] == outside(tokenizer, "ab1" * 10_000)
    assert tokenize(tf.constant(["语" * 10_000])).to_list()[0] == outside(tokenizer, "语" * 10_000)
    assert time.perf_counter() - start < 10


def test_more_special_tokens_than_marks() -> None:
    with pytest.raises(ValueError, match=r"at most 32 special tokens\. Received: 33\."):
        words_in(tf.constant(["a"]), [f"<{number}>" for number in range(33)])


# Outside


def test_kerashub_alone_cuts_no_words(pairs: BytePair) -> None:
    # Should this fail, upstream cuts words: see whether it cuts the right ones, and whether `mend_splitting` can go.
    for kind in (keras_hub.tokenizers.GPT2Tokenizer, keras_hub.tokenizers.QwenTokenizer):
        stock = kind(dict(pairs.vocabulary), pairs.merges)
        assert len(stock._tokenizer.pre_tokenizer.pre_tokenize_str("Hello world")) == 1
        mend_splitting(stock)
        assert len(stock._tokenizer.pre_tokenizer.pre_tokenize_str("Hello world")) == 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GPT2Tokenizer", ["a", "Ġ12345", "!", "Ċ", "Ċ", "b"]),
        ("OPTTokenizer", ["a", "Ġ12345", "!", "Ċ", "Ċ", "b"]),
        ("Llama3Tokenizer", ["a", "Ġ", "123", "45", "!ĊĊ", "b"]),
        ("QwenTokenizer", ["a", "Ġ", "1", "2", "3", "4", "5", "!ĊĊ", "b"]),
    ],
)
def test_each_family_cuts_as_it_was_trained(kind: str, words: list[str], pairs: BytePair) -> None:
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "</s>", "<pad>")
    tokens = dict(pairs.vocabulary) | {token: len(pairs.vocabulary) + number for number, token in enumerate(special)}
    own = getattr(keras_hub.tokenizers, kind)(tokens, pairs.merges)
    mend_splitting(own)
    assert [word for word, _ in own._tokenizer.pre_tokenizer.pre_tokenize_str("a 12345!\n\nb")] == words
    text = "a 12345!\n\nb é 语"
    assert own.detokenize(outside(own, text)) == text


def test_qwen_composes_accents_first(pairs: BytePair) -> None:
    own = keras_hub.tokenizers.QwenTokenizer(dict(pairs.vocabulary), pairs.merges)
    mend_splitting(own)
    assert outside(own, "e\u0301") == outside(own, "é")


def test_families_that_are_listed_are_there() -> None:
    assert all(hasattr(keras_hub.tokenizers, name) for name in (*GPT2_FAMILY, *PATTERNS))


def test_a_family_that_is_not_listed_is_named(pairs: BytePair, caplog: pytest.LogCaptureFixture) -> None:
    own = keras_hub.tokenizers.BytePairTokenizer(dict(pairs.vocabulary), pairs.merges)
    before = own._tokenizer.to_str()
    with caplog.at_level(logging.WARNING):
        mend_splitting(own)
    assert "BytePairTokenizer: keras-hub cuts no words for this family" in caplog.text
    assert own._tokenizer.to_str() == before


def test_what_is_no_byte_pair_tokenizer_is_left_alone() -> None:
    mend_splitting(None)
    mend_splitting(keras_hub.tokenizers.GPT2Tokenizer())
    mend_splitting(keras_hub.tokenizers.BertTokenizer(vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))


def test_a_vocabulary_without_every_byte_keeps_kerashubs_graph() -> None:
    own = keras_hub.tokenizers.GPT2Tokenizer({"a": 0, "b": 1, "ab": 2, END_OF_TEXT: 3}, ["a b"])
    mend_splitting(own)
    assert not isinstance(own._tokenize_tf, type(graph_token_ids))
    assert inside(own, ["ab"]) == [[2]]
