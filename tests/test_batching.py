"""Batches: right tokens, little padding, a new order each epoch."""

from __future__ import annotations

import dataclasses
import logging

import keras_hub
import numpy as np
import pytest
from conftest import review_lines

from kerasbig.data import Examples, batches, predict_logits
from kerasbig.data.batching import EpochOrder, grouped_by_length
from kerasbig.data.tokenizing import tokenize


def all_rows(dataset) -> list[tuple[tuple[int, ...], float]]:
    rows = []
    for inputs, targets in dataset.as_numpy_iterator():
        for ids, mask, target in zip(inputs["token_ids"], inputs["padding_mask"], targets, strict=True):
            rows.append((tuple(ids[mask == 1].tolist()), float(target)))
    return rows


def test_tokens_equal_the_model_s_own_preprocessor(tiny_bert):
    texts = ["the film is great", "", "  weak  ", "Ünïcode 电影 很好!", "x" * 300, "the story " * 40]
    table = tokenize(tiny_bert, texts)
    expected = tiny_bert.preprocessor(texts)
    for i in range(len(texts)):
        mask = np.asarray(expected["padding_mask"][i]).astype(bool)
        assert table.token_ids[table.starts[i] : table.starts[i + 1]].tolist() == np.asarray(expected["token_ids"][i])[mask].tolist()
    assert table.truncated == 1


def test_an_epoch_sees_each_example_once_and_keeps_its_target(tiny_bert, review_examples):
    dataset = batches(review_examples, tiny_bert, batch_size=7)
    plain = batches(review_examples, tiny_bert, batch_size=64, shuffle=False)
    assert len(dataset) == 10
    assert sorted(all_rows(dataset)) == sorted(all_rows(plain))


def test_epochs_differ_and_a_seed_repeats_them(tiny_bert, review_examples):
    one, two = (batches(review_examples, tiny_bert, batch_size=8, seed=3) for _ in range(2))
    first, second = all_rows(one), all_rows(one)
    assert first != second
    assert [all_rows(two), all_rows(two)] == [first, second]
    assert all_rows(batches(review_examples, tiny_bert, batch_size=8, seed=4)) != first


def test_sorted_input_is_mixed(tiny_bert):
    lines, targets = review_lines(64)
    order = np.argsort(targets, kind="stable")
    examples = Examples([lines[i] for i in order], targets[order], ("n", "p"), list(range(64)), "sorted.csv", "train")
    shares = [targets.mean() for _, targets in batches(examples, tiny_bert, batch_size=16).as_numpy_iterator()]
    assert min(shares) > 0.1
    assert max(shares) < 0.9


def test_test_split_is_not_shuffled(tiny_bert, review_examples):
    examples = dataclasses.replace(review_examples, role="test")
    dataset = batches(examples, tiny_bert)
    assert all_rows(dataset) == all_rows(dataset)


def test_padding_is_counted_as_computed(tiny_bert, review_examples):
    dataset = batches(review_examples, tiny_bert, batch_size=8, lengths=[8, 16, 32], seed=5)
    computed = real = 0
    for inputs, _ in dataset.as_numpy_iterator():
        assert inputs["token_ids"].shape[1] in (8, 16, 32)
        computed += inputs["token_ids"].size
        real += int(inputs["padding_mask"].sum())
    assert (dataset.padding.computed_tokens, dataset.padding.real_tokens) == (computed, real)
    assert dataset.padding.fraction == pytest.approx(1 - real / computed)
    assert dataset.padding.fixed_tokens == 64 * 32
    assert "padding" in str(dataset.padding)


def test_long_texts_are_cut_counted_and_reported(tiny_bert, caplog):
    examples = Examples(["film " * 100, "short film"], np.array([0, 1], "int32"), ("n", "p"), [1, 2], "long.csv", "test")
    with caplog.at_level(logging.WARNING, logger="kerasbig"):
        dataset = batches(examples, tiny_bert)
    assert dataset.padding.truncated == 1
    assert "long.csv (test): 1 of 2 texts are longer than 32 tokens and were cut." in caplog.text


def test_grouped_by_length_sorts_within_pools_only():
    lengths = np.array([5, 1, 4, 2, 3, 0])
    groups = grouped_by_length(np.arange(6), lengths, 2, pool_batches=2)
    assert [group.tolist() for group in groups] == [[1, 3], [2, 0], [5, 4]]


def test_epoch_order_depends_on_the_epoch_alone():
    lengths = np.arange(40) % 7
    order = EpochOrder(lengths, 4, seed=1)
    plans = [np.concatenate(order.next_epoch()).tolist() for _ in range(3)]
    again = EpochOrder(lengths, 4, seed=1)
    again.epoch = 2
    assert np.concatenate(again.next_epoch()).tolist() == plans[2]


def test_fit_and_predict_take_tokens_and_raw_texts(tiny_bert, review_examples):
    tiny_bert.fit(batches(review_examples, tiny_bert, batch_size=16), verbose=0)
    by_batches = predict_logits(tiny_bert, review_examples.inputs, batch_size=16)
    by_hub = tiny_bert.predict(review_examples.inputs, verbose=0)
    np.testing.assert_allclose(by_batches, by_hub, atol=2e-6)


def test_bad_arguments(tiny_bert, review_examples):
    with pytest.raises(ValueError, match=r"batch_size of at least 1. Received: batch_size=0"):
        batches(review_examples, tiny_bert, batch_size=0)
    with pytest.raises(ValueError, match=r"reach the model's sequence_length of 32. Received: lengths=\[8\]"):
        batches(review_examples, tiny_bert, lengths=[8])
    empty = dataclasses.replace(review_examples, inputs=[], targets=np.zeros(0, "int32"), rows=[])
    with pytest.raises(ValueError, match=r"at least one example. Received an empty train split of made.csv"):
        batches(empty, tiny_bert)
    bare = keras_hub.models.BertTextClassifier(tiny_bert.backbone, 2)
    with pytest.raises(TypeError, match="Expected a model with a text preprocessor"):
        batches(review_examples, bare)
