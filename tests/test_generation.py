"""Generation: every method against a plain version of it, whatever the batch, the cache and the compiler."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import kerasbig as kb
from kerasbig.data.token_text import byte_letters, text_of, token_bytes, whole_characters
from kerasbig.decoding import engine as engine_module
from kerasbig.decoding import forward as forward_module
from kerasbig.decoding.choosing import choose, penalized, weights_of
from kerasbig.decoding.engine import decoder_of
from kerasbig.decoding.forward import CachedForward, Gpt2Forward, WholeForward, forward_of, kind_of_forward, prepare
from kerasbig.decoding.settings import Settings, _threefry, uniform_draws

GOLDEN = Path(__file__).parent / "golden"
PROMPTS = [[1, 2, 3], [5], [*range(40, 60)], [7, 8]]
END = "<|endoftext|>"
SENTENCE = "你好，世界 🎉 the café 👩‍👩‍👧 ends. 你好，世界 🎉 and the film goes on"


def scatter(model: keras.Model, scale: float = 0.3) -> keras.Model:
    """Gives every weight a value that shows: a fresh model writes one token again and again."""
    random = np.random.default_rng(5)
    for weight in model.weights:
        around = 1.0 if "gamma" in weight.path or "layernorm/scale" in weight.path else 0.0
        weight.assign(random.normal(around, scale, weight.shape).astype("float32"))
    return model


@pytest.fixture(scope="module")
def pairs() -> kb.text.BytePair:
    return kb.text.learn_bpe([SENTENCE, "a film, a film", "the quick brown fox"] * 2, 300)


@pytest.fixture(scope="module")
def model(pairs: kb.text.BytePair) -> keras_hub.models.CausalLM:
    return scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=64))


@pytest.fixture(scope="module")
def learned(pairs: kb.text.BytePair) -> keras_hub.models.CausalLM:
    """A model that knows one sentence by heart."""
    keras.utils.set_random_seed(1)
    model = kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=96, dropout=0.0)
    ids = [pairs.vocabulary[END], *map(int, model.preprocessor.tokenizer.tokenize(SENTENCE)), pairs.vocabulary[END]]
    inputs = {"token_ids": np.array([ids[:-1]]), "padding_mask": np.ones((1, len(ids) - 1), "int32")}
    preprocessor, model.preprocessor = model.preprocessor, None
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(70):
        model.train_on_batch(inputs, np.array([ids[1:]]))
    model.preprocessor = preprocessor
    return model


@functools.cache
def whole_model(model: keras.Model, weights: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from tokens (1, T) to logits and hidden states, without any cache. LoRA adds weights."""

    @tf.function(input_signature=[tf.TensorSpec([1, None], tf.int32)])
    def run(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = {"token_ids": ids, "padding_mask": tf.ones_like(ids)}
        return model(features, training=False), model.backbone(features, training=False)

    return run


def logits_of(model: keras.Model, ids: Sequence[int]) -> np.ndarray:
    """Computes (T, V)."""
    return whole_model(model, len(model.weights))(tf.constant([ids]))[0].numpy()[0]


def written(model: keras.Model, prompt: Sequence[int], count: int, choose_next: Callable[[np.ndarray, list[int], int], int]) -> list[int]:
    """A plain loop, the whole text anew for each token."""
    ids = list(prompt)
    for step in range(count):
        token = choose_next(logits_of(model, ids)[-1], ids, step)
        if token in decoder_of(model).stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


def likeliest(logits: np.ndarray, ids: list[int], step: int) -> int:
    return int(logits.argmax())


def run(model: keras.Model, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None, **options: Any) -> list[list[int]]:
    xla = options.pop("xla", False)
    return decoder_of(model, xla=xla).start(prompts, Settings(**options), seeds or [0] * len(prompts)).advance()


# The cache


@pytest.mark.parametrize("xla", [False, True])
def test_cached_equals_uncached(model: keras.Model, xla: bool) -> None:
    assert kind_of_forward(model) is Gpt2Forward
    expected = [written(model, prompt, 12, likeliest) for prompt in PROMPTS]
    assert run(model, PROMPTS, max_tokens=12, xla=xla) == expected
    assert len({tuple(row) for row in expected}) == len(PROMPTS)
    assert len({token for row in expected for token in row}) > 12


def test_the_steps_of_gpt2_are_those_of_kerashub(model: keras.Model) -> None:
    # Should this fail, upstream has changed the parts of its decoder layer that `Gpt2Block` names, or what they compute.
    ids = tf.constant([[*range(30, 50)]])
    forward = forward_of(model, prepare(model), xla=False)
    hidden, cache = forward.fill(ids[:, :15], tf.constant([0]), tf.constant(20))
    own_hidden, own_cache = model._build_cache(tf.pad(ids[:, :15], [[0, 0], [0, 5]]))
    np.testing.assert_allclose(hidden, own_hidden[:, :15], atol=2e-4)
    for slot in range(15, 20):
        logits, hidden, cache = forward.step(ids, tf.constant(slot), tf.constant([0]), cache)
        own_logits, own_hidden, own_cache = model.call_with_cache(ids[:, slot : slot + 1], own_cache, slot)
        np.testing.assert_allclose(logits, own_logits[:, 0], atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(hidden, own_hidden[:, 0], atol=2e-4)


def test_greedy_text_is_that_of_transformers() -> None:
    with np.load(GOLDEN / "gpt2.npz") as golden:
        prompts, texts = golden["prompts"].tolist(), golden["greedy_texts"].tolist()
    model = kb.text.gpt_generator(preset=GOLDEN / "gpt2", sequence_length=48)
    assert kb.text.generate(model, prompts, max_tokens=24, compiled=False) == [whole_characters(text.encode()) for text in texts]


def other_families() -> dict[str, keras_hub.models.CausalLM]:
    """Tiny models of other families: learned positions, rotary ones, a cache in parts with pictures left out."""
    hub = keras_hub.models
    pairs = kb.text.learn_bpe(["a film, a film, the film"], 270)

    def ids(*special: str) -> dict[str, int]:
        tokens = [token for token in pairs.vocabulary if token != END]
        return {token: place for place, token in enumerate([*special, *tokens])}

    def sizes(count: int) -> dict[str, int]:
        return {"vocabulary_size": count, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}

    opt, llama = ids("</s>", "<pad>"), ids("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    opt_backbone = hub.OPTBackbone(num_heads=2, max_sequence_length=48, **sizes(len(opt)))
    llama_backbone = hub.Llama3Backbone(num_query_heads=4, num_key_value_heads=2, **sizes(len(llama)))
    gemma_backbone = hub.Gemma3Backbone(image_size=16, num_query_heads=2, num_key_value_heads=1, head_dim=8, **sizes(len(llama)))
    opt_tokenizer, llama_tokenizer = (
        keras_hub.tokenizers.OPTTokenizer(opt, pairs.merges),
        keras_hub.tokenizers.Llama3Tokenizer(llama, pairs.merges),
    )
    return {
        "opt": hub.OPTCausalLM(opt_backbone, preprocessor=hub.OPTCausalLMPreprocessor(opt_tokenizer, sequence_length=48)),
        "llama3": hub.Llama3CausalLM(llama_backbone, preprocessor=hub.Llama3CausalLMPreprocessor(llama_tokenizer, sequence_length=48)),
        "gemma3": hub.Gemma3CausalLM(None, gemma_backbone),
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["opt", "llama3"])
def test_other_families(family: str) -> None:
    model = scatter(other_families()[family], 0.5)
    assert kind_of_forward(model) is CachedForward
    prompts = [[10, 20, 30], [11], [*range(40, 60)]]
    expected = [written(model, prompt, 10, likeliest) for prompt in prompts]
    assert run(model, prompts, max_tokens=10) == expected
    for method in ("sample", "beam", "contrastive"):
        together = run(model, prompts, max_tokens=10, method=method)
        assert together == [run(model, [prompt], max_tokens=10, method=method)[0] for prompt in prompts]
    texts = kb.text.generate(model, ["a film", ""], max_tokens=6, compiled=False)
    assert texts[0] == "".join(kb.text.stream(model, "a film", max_tokens=6, compiled=False))


@pytest.mark.slow
def test_gemma_without_pictures() -> None:
    model = scatter(other_families()["gemma3"], 0.5)
    model.preprocessor = other_families()["llama3"].preprocessor
    assert kind_of_forward(model) is CachedForward
    assert run(model, [[10, 20, 30], [11]], max_tokens=8) == [written(model, prompt, 8, likeliest) for prompt in ([10, 20, 30], [11])]


@pytest.mark.slow
def test_a_model_without_such_a_cache_is_run_whole(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {method: run(model, PROMPTS, max_tokens=6, method=method) for method in ("greedy", "contrastive")}
    for module in (forward_module, engine_module):
        monkeypatch.setattr(module, "kind_of_forward", lambda model: WholeForward)
    decoder = engine_module.Decoder(model, xla=False)
    for method, rows in expected.items():
        assert decoder.start(PROMPTS, Settings(6, method), [0] * 4).advance() == rows


def test_a_sentencepiece_model_streams_what_it_generates(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 20, encoding="utf-8")
    options = {"bos_id": 1, "eos_id": 2, "unk_id": 0, "pad_id": -1, "byte_fallback": True, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spm"), vocab_size=300, **options)
    tokenizer = keras_hub.tokenizers.LlamaTokenizer(str(tmp_path / "spm.model"))
    backbone = keras_hub.models.LlamaBackbone(tokenizer.vocabulary_size(), 2, 2, 16, 24, 2)
    preprocessor = keras_hub.models.LlamaCausalLMPreprocessor(tokenizer, sequence_length=48)
    model = scatter(keras_hub.models.LlamaCausalLM(backbone, preprocessor=preprocessor), 0.5)
    (text,) = kb.text.generate(model, ["the quick"], max_tokens=12, compiled=False)
    assert text == "".join(kb.text.stream(model, "the quick", max_tokens=12, compiled=False))
    assert token_bytes(tokenizer) is None
    fox = [int(token) for token in tokenizer.tokenize("the brown fox")]
    the = len(tokenizer.tokenize("the"))
    assert text_of(tokenizer, None, fox[the - 1], fox[the:]) == " brown fox"


# Batches


@pytest.mark.parametrize("method", ["greedy", "sample", "beam", "contrastive"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_batch_equals_single(model: keras.Model, method: str, penalty: float) -> None:
    options = {
        "max_tokens": 12,
        "method": method,
        "repetition_penalty": penalty,
        "temperature": 0.7,
        "top_k": 5 if method == "sample" else 0,
    }
    together = run(model, PROMPTS, [3, 1, 4, 1], **options)
    assert together == [run(model, [prompt], [seed], **options)[0] for prompt, seed in zip(PROMPTS, [3, 1, 4, 1], strict=True)]


def test_xla_gives_the_same(model: keras.Model) -> None:
    for method in ("sample", "beam", "contrastive"):
        assert run(model, PROMPTS, max_tokens=12, method=method, xla=True) == run(model, PROMPTS, max_tokens=12, method=method), method


def test_many_prompts_in_their_order(model: keras.Model) -> None:
    prompts = ["a" * (1 + i % 7) for i in range(40)]
    texts = kb.text.generate(model, prompts, max_tokens=3, compiled=False)
    first = {prompt: kb.text.generate(model, [prompt], max_tokens=3, compiled=False)[0] for prompt in set(prompts)}
    assert texts == [first[prompt] for prompt in prompts]
    assert kb.text.generate(model, [], compiled=False) == []


# Choosing


def test_random_numbers_are_threefry() -> None:
    # The known answers of the authors' own library, Random123.
    assert _threefry(0, 0, 0, 0) == (0x6B200159, 0x99BA4EFE)
    assert _threefry(0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3) == (0xC4923A9C, 0x483DF7A0)


@pytest.mark.parametrize("seed", [0, 7, -1, 2**40 + 1, -(2**63), 2**63 - 1])
def test_random_numbers_are_equal_everywhere(seed: int) -> None:
    expected = uniform_draws(seed, 6)
    for xla in (False, True):
        found = tf.function(lambda: uniform_draws(tf.constant(seed, tf.int64), 6), jit_compile=xla)()
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(uniform_draws(seed, 3), expected[:3])


def test_random_numbers_are_even() -> None:
    draws = np.concatenate([uniform_draws(seed, 500) for seed in range(20)])
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0] / len(draws), 0.1, atol=0.012)


def plain_weights(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Sorts, as every textbook does."""
    weights = np.exp((logits.astype("float64") - logits.max(axis=-1, keepdims=True)) / temperature)
    for row in weights:
        order = np.argsort(-row)
        row[order[top_k or None :][: len(row) if top_k else 0]] = 0
        if top_p < 1:
            row[order[np.argmax(np.cumsum(row[order]) >= top_p * row.sum()) + 1 :]] = 0
    return weights


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1, 0, 1), (0.5, 5, 1), (2, 0, 0.7), (1, 3, 0.5), (1.3, 1000, 0.01), (0.1, 0, 0.999), (1, 1, 1)]
)
@pytest.mark.parametrize("xla", [False, True])
def test_filters_against_a_sort(temperature: float, top_k: int, top_p: float, xla: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 500)).astype("float32")
    options = {"temperature": tf.constant(float(temperature)), "top_k": tf.constant(top_k), "top_p": tf.constant(float(top_p))}
    found = tf.function(weights_of, jit_compile=xla)(tf.constant(logits), options)
    np.testing.assert_allclose(found, plain_weights(logits, temperature, top_k, top_p), rtol=1e-5, atol=1e-7)


def test_filters_by_hand() -> None:
    logits = tf.math.log([[0.5, 0.3, 0.15, 0.05]])

    def kept(top_k: int, top_p: float) -> list[int]:
        options = {"temperature": tf.constant(1.0), "top_k": tf.constant(top_k), "top_p": tf.constant(top_p)}
        return np.flatnonzero(weights_of(logits, options)[0]).tolist()

    assert [kept(2, 1.0), kept(9, 1.0), kept(0, 0.5), kept(0, 0.51), kept(0, 0.9), kept(0, 1e-6)] == [
        [0, 1],
        [0, 1, 2, 3],
        [0],
        [0, 1],
        [0, 1, 2],
        [0],
    ]
    # Of the three that top-k leaves, two have 0.8 / 0.95 of what they weigh.
    assert [kept(3, 0.84), kept(3, 0.85)] == [[0, 1], [0, 1, 2]]


def test_draws_have_the_model_s_own_chances() -> None:
    chances = np.array([0.5, 0.3, 0.15, 0.05, 0.0], "float32")
    logits = np.log(np.maximum(chances, 1e-30))
    draws = (np.arange(1000, dtype="float32") + 0.5) / 1000
    options = {"temperature": tf.constant(1.0), "top_k": tf.constant(0), "top_p": tf.constant(1.0)}
    chosen = choose(tf.tile(logits[None], [1000, 1]), tf.constant(draws), options)
    np.testing.assert_allclose(np.bincount(chosen, minlength=5) / 1000, chances, atol=0.002)
    last = choose(logits[None], tf.constant([1 - 2.0**-23]), options)
    assert int(last[0]) == 3


def test_top_k_of_one_is_greedy(model: keras.Model) -> None:
    assert run(model, PROMPTS, [1, 2, 3, 4], max_tokens=12, method="sample", top_k=1) == run(model, PROMPTS, max_tokens=12)
    assert run(model, PROMPTS, [1, 2, 3, 4], max_tokens=12, method="sample", temperature=1e-30) == run(model, PROMPTS, max_tokens=12)


def test_sampling_is_the_plain_loop(model: keras.Model) -> None:
    def draw(logits: np.ndarray, ids: list[int], step: int) -> int:
        sums = np.cumsum(plain_weights(logits[None], 0.8, 20, 0.9)[0])
        return int(np.argmax(sums > uniform_draws(11, 12)[step] * sums[-1]))

    options = {"max_tokens": 12, "method": "sample", "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    assert run(model, PROMPTS, [11] * 4, **options) == [written(model, prompt, 12, draw) for prompt in PROMPTS]


def test_seeds(model: keras.Model) -> None:
    def texts(seed: int | Sequence[int]) -> list[str]:
        return kb.text.generate(model, ["a film", "a film"], max_tokens=10, method="sample", seed=seed, compiled=False)

    assert texts(1) == texts(1)
    assert texts(1)[0] == texts(1)[1] == texts([1, 2])[0]
    assert texts(1)[0] != texts(2)[0] == texts([1, 2])[1]


def test_penalty_by_hand() -> None:
    logits, tokens = tf.constant([[2.0, -2.0, 3.0, 1.0]]), tf.constant([[0, 1, 1, 3, 2]])
    found = penalized(logits, tokens, tf.constant([[True, True, True, True, False]]), tf.constant(2.0), [3])
    assert found.numpy().tolist() == [[1.0, -4.0, 3.0, 1.0]]


def test_penalty_in_the_plain_loop(model: keras.Model) -> None:
    end = model.preprocessor.tokenizer.end_token_id

    def unlike(logits: np.ndarray, ids: list[int], step: int) -> int:
        lower = logits.copy()
        for token in set(ids) - {end}:
            lower[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
        return int(lower.argmax())

    found = run(model, PROMPTS, max_tokens=12, repetition_penalty=1.5)
    assert found == [written(model, prompt, 12, unlike) for prompt in PROMPTS]
    assert found != run(model, PROMPTS, max_tokens=12)


# Search


@pytest.fixture(scope="module", params=[4, 9, 10])
def five_tokens(request: pytest.FixtureRequest) -> keras_hub.models.CausalLM:
    """Of the three, the last one's likeliest text is the empty one."""
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer({"a": 0, "b": 1, "ab": 2, "c": 3, END: 4}, ["a b"])
    backbone = keras_hub.models.GPT2Backbone(5, 2, 2, 8, 16, max_sequence_length=16)
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, 16))
    random = np.random.default_rng(request.param)
    for weight in model.weights:
        weight.assign(random.normal(0.0, 0.7, weight.shape).astype("float32"))
    return model


def log_likelihood(model: keras.Model, prompt: list[int], rest: Sequence[int]) -> float:
    logits = logits_of(model, [*prompt, *rest])[len(prompt) - 1 : -1].astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return float(logits[np.arange(len(rest)), list(rest)].sum())


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [[0], [1, 2], [3, 3, 1]])
def test_beam_finds_what_trying_all_finds(five_tokens: keras.Model, prompt: list[int]) -> None:
    whole = [list(text) for text in itertools.product(range(4), repeat=3)]
    ended = [[*text, 4] for length in range(3) for text in itertools.product(range(4), repeat=length)]
    best = max(whole + ended, key=lambda text: log_likelihood(five_tokens, prompt, text))
    # No more than 16 texts of two tokens go on, and 5 have ended.
    (found,) = run(five_tokens, [prompt], max_tokens=3, method="beam", num_beams=21)
    assert found == [token for token in best if token != 4]


@pytest.mark.slow
def test_beams(five_tokens: keras.Model) -> None:
    prompts = [[0], [1, 2], [3, 3, 1], [2]]
    greedy, two = (run(five_tokens, prompts, max_tokens=6, method="beam", num_beams=count) for count in (1, 2))
    assert greedy == run(five_tokens, prompts, max_tokens=6)
    for prompt, one, other in zip(prompts, greedy, two, strict=True):
        ends = [[] if len(text) == 6 else [4] for text in (one, other)]
        assert log_likelihood(five_tokens, prompt, other + ends[1]) >= log_likelihood(five_tokens, prompt, one + ends[0]) - 1e-5
    assert greedy != two


def contrastive(model: keras.Model, prompt: list[int], count: int, candidates: int, alpha: float) -> list[int]:
    """Su et al., 2022, equation 5, in NumPy."""

    def units(ids: list[int]) -> np.ndarray:
        hidden = whole_model(model, len(model.weights))(tf.constant([ids]))[1].numpy()[0]
        return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)

    ids = list(prompt)
    for _ in range(count):
        logits = logits_of(model, ids)[-1].astype("float64")
        chances = np.exp(logits) / np.exp(logits).sum()
        scores = {}
        for token in np.argsort(-chances)[:candidates].tolist():
            found = units([*ids, token])
            scores[token] = (1 - alpha) * chances[token] - alpha * (found[:-1] @ found[-1]).max()
        ids.append(max(scores, key=scores.__getitem__))
        if ids[-1] in decoder_of(model).stops:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.slow
def test_contrastive_against_numpy(model: keras.Model) -> None:
    expected = [contrastive(model, prompt, 10, 5, 0.7) for prompt in PROMPTS]
    assert run(model, PROMPTS, max_tokens=10, method="contrastive", top_k=5, penalty_alpha=0.7) == expected
    greedy = run(model, PROMPTS, max_tokens=10)
    assert greedy != expected
    assert run(model, PROMPTS, max_tokens=10, method="contrastive", top_k=1) == greedy
    assert run(model, PROMPTS, max_tokens=10, method="contrastive", top_k=5, penalty_alpha=0.0) == greedy


# The end of a text


def test_rows_that_have_ended_stop_the_loop(model: keras.Model, learned: keras.Model) -> None:
    prompt = [int(token) for token in learned.preprocessor.tokenizer.tokenize(END + SENTENCE)]
    decoder = decoder_of(learned, xla=False)
    session = decoder.start([prompt, prompt[:-2]], Settings(max_tokens=20), [0, 0])
    assert session.advance() == [[], prompt[-2:]]
    assert session.finished
    assert int(session._state["slot"]) - session._ends[0] == 3


def test_limit_of_a_call_changes_nothing(model: keras.Model) -> None:
    for method in ("greedy", "sample", "beam", "contrastive"):
        session = decoder_of(model, xla=False).start(PROMPTS, Settings(9, method), [5] * 4)
        while not session.finished:
            rows = session.advance(2)
        assert rows == run(model, PROMPTS, [5] * 4, max_tokens=9, method=method), method


def test_stop_strings(learned: keras.Model) -> None:
    assert kb.text.generate(learned, [""], max_tokens=90, compiled=False) == [SENTENCE]
    for stop, expected in ((" café", "你好，世界 🎉 the"), ("世", "你好，"), (["界", "，"], "你好"), ("你", "")):
        assert kb.text.generate(learned, [""], max_tokens=60, stop=stop, compiled=False) == [expected]
        assert "".join(kb.text.stream(learned, "", max_tokens=60, stop=stop, compiled=False)) == expected
    prompts = ["", f"{END}你好，世界 🎉 the"]
    for method in ("greedy", "beam"):
        beside = kb.text.generate(learned, prompts, max_tokens=60, stop="café", method=method, compiled=False)
        assert beside == ["你好，世界 🎉 the ", " "]


def test_a_stop_string_ends_the_work(learned: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    advance = engine_module.Session.advance
    monkeypatch.setattr(engine_module.Session, "advance", lambda self, limit=None: calls.append(limit) or advance(self, limit))
    kb.text.generate(learned, [""], max_tokens=60, stop="好", compiled=False)
    assert calls == [16]


@pytest.mark.parametrize("method", ["greedy", "sample", "beam", "contrastive"])
def test_stream_is_generate(model: keras.Model, method: str) -> None:
    options = {"max_tokens": 24, "method": method, "seed": 3, "compiled": False}
    pieces = list(kb.text.stream(model, "a film", **options))
    assert "".join(pieces) == kb.text.generate(model, ["a film"], **options)[0]
    assert all(pieces)
    assert len(pieces) == 1 if method == "beam" else len(pieces) > 2


def test_no_character_is_split(learned: keras.Model) -> None:
    lengths = set()
    for count in range(1, 60, 3):
        (text,) = kb.text.generate(learned, [""], max_tokens=count, compiled=False)
        assert SENTENCE.startswith(text)
        lengths.add(len(text))
    assert len(lengths) > 10
    pieces = list(kb.text.stream(learned, "", max_tokens=90, compiled=False))
    assert "".join(pieces) == SENTENCE
    assert len(pieces) > 5


def test_whole_characters() -> None:
    raw = "a é 电 🎉".encode()
    for end in range(len(raw) + 1):
        assert "a é 电 🎉".startswith(whole_characters(raw[:end]))
    random = np.random.default_rng(0)
    for _ in range(500):
        raw = bytes(random.choice([0x41, 0x80, 0xA0, 0xBF, 0xC3, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xFF], 8).tolist())
        texts = [whole_characters(raw[:end]) for end in range(9)]
        assert all(later.startswith(text) for text, later in itertools.pairwise(texts)), raw
        assert texts[-1] == raw.decode(errors="replace") or raw.decode(errors="replace") == texts[-1] + "\ufffd"


def test_bytes_of_tokens(model: keras.Model) -> None:
    assert sorted(byte_letters().values()) == list(range(256))
    table = token_bytes(model.preprocessor.tokenizer)
    assert b"".join(table[token] for token in model.preprocessor.tokenizer.tokenize(SENTENCE)).decode() == SENTENCE
    assert table[model.preprocessor.tokenizer.end_token_id] == b""


# The context


def test_long_prompt_is_cut_from_its_left(model: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    prompt = "".join("abcdefgh"[i % 8] for i in range(100))
    with caplog.at_level(logging.WARNING, "kerasbig.text"):
        cut = kb.text.generate(model, [prompt], max_tokens=10, compiled=False)
    assert "Prompt 1 has 100 tokens, and 54 fit in the context of 64 beside those to write: it is cut from its left." in caplog.text
    assert cut == kb.text.generate(model, [prompt[-54:]], max_tokens=10, compiled=False)
    caplog.clear()
    kb.text.generate(model, [prompt[-54:]], max_tokens=10, compiled=False)
    assert not caplog.records


def test_more_tokens_than_the_context_has(model: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    prompts = ["a" * 5, "b" * 30, "c" * 40]
    together = kb.text.generate(model, prompts, max_tokens=100, compiled=False)
    assert "Prompt 3 has 40 tokens, and 32 fit" in caplog.text
    assert together == [kb.text.generate(model, [prompt], max_tokens=100, compiled=False)[0] for prompt in prompts]
    rows = run(model, [[5] * 5, [6] * 30], max_tokens=100)
    assert [len(row) for row in rows] == [59, 34]
    assert rows == [written(model, [5] * 5, 59, likeliest), written(model, [6] * 30, 34, likeliest)]


def test_the_whole_context_is_used(model: keras.Model) -> None:
    prompt = [*range(30, 71)]
    assert run(model, [prompt], max_tokens=23) == [written(model, prompt, 23, likeliest)]


def test_empty_prompt_begins_a_document(learned: keras.Model) -> None:
    end = learned.preprocessor.tokenizer.end_token_id
    expected = written(learned, [end], 5, likeliest)
    table = token_bytes(learned.preprocessor.tokenizer)
    assert kb.text.generate(learned, [""], max_tokens=5, compiled=False) == [whole_characters(b"".join(table[i] for i in expected))]


# Models that change


def test_new_weights_are_seen(pairs: kb.text.BytePair) -> None:
    model = scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32))
    before, decoder = run(model, [[5]], max_tokens=8), decoder_of(model, xla=False)
    scatter(model, 0.6)
    assert decoder_of(model, xla=False) is decoder
    assert run(model, [[5]], max_tokens=8) == [written(model, [5], 8, likeliest)] != before


def test_new_layers_are_seen(pairs: kb.text.BytePair) -> None:
    model = scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32))
    before = run(model, [[5]], max_tokens=8)
    model.backbone.enable_lora(4)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(np.random.default_rng(2).normal(0, 0.5, weight.shape).astype("float32"))
    assert kind_of_forward(model) is Gpt2Forward
    assert run(model, [[5]], max_tokens=8) == [written(model, [5], 8, likeliest)] != before


@pytest.mark.slow
def test_a_quantized_model_runs_its_own_layers(pairs: kb.text.BytePair) -> None:
    model = scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32))
    model.quantize("int8")
    assert kind_of_forward(model) is CachedForward
    assert run(model, [[5]], max_tokens=6) == [written(model, [5], 6, likeliest)]


def test_mixed_precision(pairs: kb.text.BytePair) -> None:
    model = scatter(kb.text.gpt_generator(size="tiny", vocabulary=pairs, sequence_length=32, dtype="mixed_bfloat16"))
    assert prepare(model)["head"].dtype == tf.bfloat16
    (text,) = kb.text.generate(model, ["a film"], max_tokens=8, compiled=False)
    assert text


def test_a_generator_can_still_be_saved(model: keras.Model, tmp_path: Path) -> None:
    run(model, [[5]], max_tokens=2)
    model.save_to_preset(str(tmp_path))
    model.save(tmp_path / "model.keras")


# Wrong use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens to be a whole number from 1. Received: max_tokens=0"),
        ({"max_tokens": 2.5}, "max_tokens to be a whole number"),
        ({"method": "gready"}, "method out of greedy, sample, beam, contrastive. Received: method='gready'"),
        ({"temperature": 0}, "temperature above 0; method='greedy' takes the likeliest token. Received: temperature=0"),
        ({"temperature": float("nan")}, "temperature above 0"),
        ({"top_k": -1}, "top_k to be a whole number from 0. Received: top_k=-1"),
        ({"top_p": 0.0}, "top_p above 0 and at most 1. Received: top_p=0.0"),
        ({"top_p": 1.5}, "top_p above 0 and at most 1"),
        ({"num_beams": 0}, "num_beams to be a whole number from 1"),
        ({"penalty_alpha": 1.5}, "penalty_alpha from 0 to 1. Received: penalty_alpha=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty above 0; 1 is none. Received: repetition_penalty=0.0"),
        ({"stop": [""]}, "stop to be strings with at least one character"),
        ({"seed": 2**63}, "seed to be a whole number of 64 bits"),
        ({"seed": "1"}, "seed to be a whole number of 64 bits"),
    ],
)
def test_settings_out_of_range(model: keras.Model, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {words}"):
        kb.text.generate(model, ["a"], compiled=False, **options)
    with pytest.raises(ValueError, match=f"Expected {words}"):
        next(kb.text.stream(model, "a", compiled=False, **options))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("a", "prompts to be a list of texts. Received one text: put it in a list"),
        ([1], r"prompts to be texts. Received: prompts\[0\] is int"),
        (["a", "\ud800"], r"prompts to be valid Unicode. Received: a lone surrogate in prompts\[1\] at character 0"),
    ],
)
def test_prompts_that_are_none(model: keras.Model, prompts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {words}"):
        kb.text.generate(model, prompts, compiled=False)


def test_seeds_of_other_number(model: keras.Model) -> None:
    with pytest.raises(ValueError, match="or one for each of 1 prompts"):
        kb.text.generate(model, ["a"], seed=[1, 2], compiled=False)


def test_models_that_write_nothing(pairs: kb.text.BytePair) -> None:
    with pytest.raises(TypeError, match=r"Expected model to be a keras_hub.models.CausalLM of text alone. Received: str"):
        kb.text.generate("model", ["a"])
    model = kb.text.gpt_generator(size="tiny", vocabulary=pairs)
    model.preprocessor = None
    with pytest.raises(TypeError, match=r"Expected model to have its preprocessor"):
        kb.text.generate(model, ["a"])
