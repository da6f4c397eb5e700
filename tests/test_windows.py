"""Windows: every token predicted once, borders respected where asked, a new order each epoch, and right measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from conftest import whole_and_resumed

import kerasbig as kb
from kerasbig.data import Documents, windows
from kerasbig.data.token_files import Tokens, tokenize_documents
from kerasbig.data.windows import bordered_windows, packed_windows

T = 16
TEXTS = [f"the film {i} is {'fine, ' * (i % 9)}don't you think? 电影" for i in range(40)]


@pytest.fixture(scope="module")
def vocabulary() -> kb.text.BytePair:
    return kb.text.learn_bpe(TEXTS, 290)


@pytest.fixture
def model(vocabulary: kb.text.BytePair) -> keras_hub.models.CausalLM:
    return build(vocabulary)


def build(vocabulary: kb.text.BytePair) -> keras_hub.models.CausalLM:
    """A model of one layer: what is tested here is what it is fed with."""
    keras.utils.set_random_seed(7)
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary.vocabulary, vocabulary.merges)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=T)
    backbone = keras_hub.models.GPT2Backbone(len(vocabulary.vocabulary), 1, 2, 16, 32, dropout=0.0, max_sequence_length=T)
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    kb.text.compile_generator(model, keras.optimizers.AdamW(1e-3))
    return model


def documents(role: str = "train", texts: list[str] = TEXTS) -> Documents:
    return Documents.from_texts(texts, role=role)


def all_windows(dataset: Any) -> list[tuple[list[int], list[int]]]:
    """Returns what each window reads and predicts, without padding, in order."""
    found = []
    for inputs, targets, weights in dataset.as_numpy_iterator():
        for ids, mask, row, weight in zip(inputs["token_ids"], inputs["padding_mask"], targets, weights, strict=True):
            assert ((weight > 0) == (mask == 1)).all()
            assert not row[mask == 0].any()
            found.append((ids[mask == 1].tolist(), row[mask == 1].tolist()))
    return found


def rows_of(model: Any) -> list[list[int]]:
    """Returns the token ids of each document between two end tokens."""
    own = model.preprocessor.tokenizer
    return [[own.end_token_id, *map(int, ids), own.end_token_id] for ids in own(TEXTS)]


# What is predicted


def test_packed_windows_predict_each_token_of_the_row_once(model: Any) -> None:
    dataset = kb.data.batches(documents(), model, shuffle=False, batch_size=3)
    found = all_windows(dataset)
    row = [rows_of(model)[0][0], *(token for ids in rows_of(model) for token in ids[1:])]
    assert [token for _, targets in found for token in targets] == row[1:]
    assert [token for ids, _ in found for token in ids] == row[:-1]
    assert [len(ids) for ids, _ in found] == [T] * ((len(row) - 1) // T) + [(len(row) - 1) % T]
    assert dataset.element_spec[0]["token_ids"].shape == (None, T)
    assert len(dataset) == -(-len(found) // 3)


def test_a_row_of_whole_windows_has_no_padding() -> None:
    tokens = Tokens(np.arange(2 * T + 1, dtype="uint16"), np.array([0, 2 * T]), 1)
    assert packed_windows(tokens, T).lengths.tolist() == [T, T]
    assert bordered_windows(tokens, T).lengths.tolist() == [T, T]


@pytest.mark.parametrize("overlap", [0, 1])
def test_bordered_windows_predict_each_token_once_and_read_one_document(overlap: int) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(2, 60, 30)  # tokens of each document with both of its border tokens
    borders = np.cumsum([0, *(sizes - overlap)])
    tokens = Tokens(np.arange(borders[-1] + overlap, dtype="uint16"), borders, overlap)
    cut = bordered_windows(tokens, T)
    predicted = [start + 1 + i for start, length in zip(cut.starts, cut.lengths, strict=True) for i in range(length)]
    first = [int(border) for border in borders[:-1]] if not overlap else [0]
    assert predicted == [i for i in range(len(tokens.ids)) if i not in first]
    for start, length in zip(cut.starts, cut.lengths, strict=True):
        document = np.searchsorted(borders, start, side="right") - 1
        assert borders[document] <= start
        assert start + length < borders[document + 1] + overlap


def test_no_window_reads_over_a_border(model: Any) -> None:
    dataset = kb.data.batches(documents(), model, batch_size=4, respect_borders=True, lengths=[4, 8, T])
    end = model.preprocessor.tokenizer.end_token_id
    found = all_windows(dataset)
    assert all(end not in ids[1:] for ids, _ in found)
    expected = [(row[i : i + T], row[i + 1 : i + T + 1]) for row in rows_of(model) for i in range(0, len(row) - 1, T)]
    assert sorted(found) == sorted((ids[: len(targets)], targets) for ids, targets in expected)
    assert {inputs["token_ids"].shape[1] for inputs, _, _ in dataset.as_numpy_iterator()} <= {4, 8, T}


def test_a_prediction_sees_nothing_of_the_future_nor_of_padding(model: Any) -> None:
    inputs, _, _ = next(iter(kb.data.batches(documents(), model, shuffle=False)))
    logits = model.predict_on_batch(inputs)
    changed = {name: np.array(value) for name, value in inputs.items()}
    changed["token_ids"][:, 9:] = 5
    np.testing.assert_allclose(model.predict_on_batch(changed)[:, :9], logits[:, :9], atol=1e-5)
    changed["padding_mask"][:, 9:] = 0
    np.testing.assert_allclose(model.predict_on_batch(changed)[:, :9], logits[:, :9], atol=1e-5)


# Weights and loss


def by_hand(model: Any, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Computes nats and hits of all tokens of rows, window by window, with NumPy."""
    cut = [row[start : start + T + 1] for row in rows for start in range(0, len(row) - 1, T)]
    ids = np.array([window[:-1] + [0] * (T + 1 - len(window)) for window in cut])
    all_logits = model.predict_on_batch({"token_ids": ids, "padding_mask": np.ones_like(ids)}).astype("float64")
    nats, hits = [], []
    for logits, window in zip(all_logits, cut, strict=True):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
        nats += [-np.log(chances[i, token]) for i, token in enumerate(window[1:])]
        hits += [int(logits[i].argmax() == token) for i, token in enumerate(window[1:])]
    return np.array(nats), np.array(hits)


def test_evaluate_is_the_mean_over_tokens_though_the_last_window_has_padding(model: Any) -> None:
    dataset = kb.data.batches(documents(), model, shuffle=False, batch_size=1000)
    row = [rows_of(model)[0][0], *(token for ids in rows_of(model) for token in ids[1:])]
    nats, hits = by_hand(model, [row])
    assert len(nats) % T
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(nats.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits.mean(), rel=1e-5)


def test_measures_are_those_by_hand(model: Any) -> None:
    model.fit(kb.data.batches(documents(), model), epochs=2, verbose=0)
    nats, hits = by_hand(model, rows_of(model))
    found = kb.data.measure_documents(model, documents("test"), batch_size=3)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["loss"] == pytest.approx(nats.mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats.sum() / np.log(2) / size, rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits.mean(), rel=1e-5)
    assert found == kb.data.measure_documents(model, documents("test", TEXTS), batch_size=3)
    turned = kb.data.measure_documents(model, documents("test", TEXTS[::-1]), batch_size=7)
    assert turned == pytest.approx(found, rel=1e-5)
    assert json.loads(json.dumps(found)) == found


def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary(model: Any) -> None:
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape, "float32"))
    size = model.backbone.vocabulary_size
    found = kb.data.measure_documents(model, documents("all"))
    assert found["perplexity"] == pytest.approx(size, rel=1e-5)
    tokens = sum(len(row) - 1 for row in rows_of(model))
    assert found["bits_per_byte"] == pytest.approx(np.log2(size) * tokens / documents().bytes, rel=1e-5)


# Epochs


@pytest.mark.parametrize("respect_borders", [False, True])
def test_epochs_differ_and_a_seed_repeats_them(model: Any, respect_borders: bool) -> None:
    one, two, other = (kb.data.batches(documents(), model, seed=seed, respect_borders=respect_borders) for seed in (3, 3, 4))
    first, second = all_windows(one), all_windows(one)
    assert first != second
    assert sorted(first) == sorted(second)
    assert [all_windows(two), all_windows(two)] == [first, second]
    assert all_windows(other) != first
    other_model_order = model.epoch_order
    kb.data.batches(documents("validation"), model)
    assert model.epoch_order is other_model_order


def test_other_splits_keep_their_order(model: Any) -> None:
    dataset = kb.data.batches(documents("test"), model)
    assert all_windows(dataset) == all_windows(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("respect_borders", [False, True])
def test_resumed_training_equals_a_whole_one(vocabulary: Any, tmp_path: Path, respect_borders: bool) -> None:
    def train(*callbacks: keras.callbacks.Callback) -> list[np.ndarray]:
        model = build(vocabulary)
        dataset = kb.data.batches(documents(), model, batch_size=12, respect_borders=respect_borders)
        model.fit(dataset, epochs=2, verbose=0, callbacks=list(callbacks))
        return [np.array(weight) for weight in model.get_weights()]

    whole, resumed = whole_and_resumed(train, tmp_path)
    for one, two in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, two)


def test_it_learns(model: Any) -> None:
    kb.text.compile_generator(model, keras.optimizers.AdamW(1e-2))
    before = kb.data.measure_documents(model, documents("test"))["bits_per_byte"]
    history = model.fit(kb.data.batches(documents(), model), epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert kb.data.measure_documents(model, documents("test"))["bits_per_byte"] < 0.7 * before


@pytest.mark.slow
def test_two_replicas_train_as_one(run_python: Any) -> None:
    printed = run_python("""
import numpy as np, keras, kerasbig as kb
texts = [f"the film {i} is {'fine, ' * (i % 9)}don't you think?" for i in range(40)]
vocabulary = kb.text.learn_bpe(texts, 280)
found = []
for name, replicas in (("mirrored", 2), ("one", None)):
    with kb.distribute.strategy(name, replicas=replicas).scope():
        keras.utils.set_random_seed(1)
        model = kb.text.gpt_generator(size="tiny", vocabulary=vocabulary, sequence_length=16, dropout=0.0)
        # Adam divides small gradients by themselves: with its usual epsilon, rounding grows to 1e-6 in a few steps.
        entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kb.distribute.AdamW(1e-3, epsilon=1e-4), model.loss, weighted_metrics=[entropy], jit_compile=False)
    documents = kb.data.Documents.from_texts(texts, role="train")
    rows = []
    for borders in (False, True):
        data = kb.data.batches(documents, model, batch_size=6, respect_borders=borders)
        rows += list(model.fit(data, epochs=2, verbose=0).history.values())
    rows.append(list(kb.data.measure_documents(model, documents).values()))
    found.append(([np.array(w) for w in model.get_weights()], rows))
print(max(float(abs(a - b).max()) for a, b in zip(found[0][0], found[1][0])))
print(max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(found[0][1], found[1][1])))
""")
    weights, figures = map(float, printed.split()[-2:])
    assert weights < 1e-6
    assert figures < 1e-5


# Padding


def test_padding_is_counted_as_computed(model: Any) -> None:
    for respect_borders in (False, True):
        dataset = kb.data.batches(documents(), model, batch_size=4, seed=5, respect_borders=respect_borders)
        computed = sum(inputs["token_ids"].size for inputs, _, _ in dataset.as_numpy_iterator())
        real = sum(len(row) - 1 for row in rows_of(model))
        fixed = sum(-(-(len(row) - 1) // T) * T for row in rows_of(model))
        padding = dataset.padding
        assert (padding.examples, padding.real_tokens, padding.computed_tokens) == (len(TEXTS), real, computed)
        assert (padding.fixed_tokens, padding.truncated, padding.sequence_length) == (fixed, 0, T)
    packed = kb.data.batches(documents(), model).padding
    assert packed.computed_tokens - packed.real_tokens < T
    assert str(packed).startswith("40 texts; ")


def test_memory_of_a_mapped_file_is_given_back(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasbig.data import token_files

    monkeypatch.setattr(token_files, "SMALL", 0)
    monkeypatch.setattr(windows, "WINDOWS_KEPT_MAPPED", 8)
    given_back = []
    release = Tokens.release
    monkeypatch.setattr(Tokens, "release", lambda tokens: given_back.append(release(tokens)))
    dataset = kb.data.batches(documents(), model, shuffle=False, cache_dir=tmp_path, progress=False)
    mapped = all_windows(dataset)
    assert len(given_back) == len(mapped) // 8
    monkeypatch.setattr(token_files, "SMALL", 1 << 20)
    assert mapped == all_windows(kb.data.batches(documents(), model, shuffle=False))


# What is refused


def test_less_than_a_window_of_training_text(model: Any) -> None:
    match = r"Expected training text for at least one window of 17 tokens\. Received: \d+ tokens in memory\. Add text, or build the model"
    for respect_borders in (False, True):
        with pytest.raises(ValueError, match=match):
            kb.data.batches(documents("train", ["the film"]), model, respect_borders=respect_borders)
    assert len(all_windows(kb.data.batches(documents("test", ["the film"]), model))) == 1


def test_options_that_cannot_be(model: Any, tiny_bert: Any, review_examples: Any) -> None:
    with pytest.raises(ValueError, match=r"lengths with respect_borders only.*Received: lengths=\[8\]"):
        kb.data.batches(documents(), model, lengths=[8])
    with pytest.raises(ValueError, match=r"`lengths` that reach the model's sequence_length of 16"):
        kb.data.batches(documents(), model, lengths=[8], respect_borders=True)
    with pytest.raises(ValueError, match=r"batch_size of at least 1\. Received: batch_size=0"):
        kb.data.batches(documents(), model, batch_size=0)
    with pytest.raises(ValueError, match=r"respect_borders for documents only\. Received: it beside Examples"):
        kb.data.batches(review_examples, tiny_bert, respect_borders=True)


def test_tokens_of_a_document_are_those_it_is_measured_on(model: Any) -> None:
    tokens = tokenize_documents(documents("test"), model)
    cut = bordered_windows(tokens, T)
    assert int(cut.lengths.sum()) == sum(len(row) - 1 for row in rows_of(model))
