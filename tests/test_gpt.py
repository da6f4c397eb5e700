"""The GPT generator and its byte-level vocabulary."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from kerasbig.data.presets import BERT, GENERATOR, resolve_preset
from kerasbig.data.token_text import byte_letters
from kerasbig.text import GPT_SIZES, SIZES, BytePair, compile_generator, gpt_generator, learn_bpe
from kerasbig.text.byte_pairs import END_OF_TEXT

GOLDEN = Path(__file__).parent / "golden"
LINES = [
    "The quick brown fox didn't jump.",
    "Das Café ist schön, Größe 42",
    "这部电影很好看。电影",
    "हिन्दी भाषा",
    "great film 🎉👩‍👩‍👧",
] * 3


@pytest.fixture(scope="module")
def vocabulary() -> BytePair:
    return learn_bpe(LINES, 330)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "gpt2.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def from_hugging_face() -> keras_hub.models.CausalLM:
    return gpt_generator(preset=GOLDEN / "gpt2", sequence_length=48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the Hugging Face folder to spoil."""
    return Path(shutil.copytree(GOLDEN / "gpt2", tmp_path / "gpt2"))


def tiny(vocabulary: BytePair, **options: Any) -> keras_hub.models.CausalLM:
    keras.utils.set_random_seed(7)
    return gpt_generator(**{"size": "tiny", "vocabulary": vocabulary, "sequence_length": 24, **options})


def inputs_of(token_ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}


def logits_of(model: keras.Model, token_ids: np.ndarray) -> np.ndarray:
    return np.asarray(model(inputs_of(token_ids), training=False), "float32")


def encode(model: keras.Model, text: str) -> list[int]:
    return [int(token) for token in model.preprocessor.tokenizer.tokenize(text)]


def fit(model: keras.Model, epochs: int = 1) -> list[float]:
    """Fits on token ids, as `kerasbig.data.batches` gives them, and returns the losses."""
    preprocessor, model.preprocessor = model.preprocessor, None
    inputs, targets, weights = preprocessor(LINES)
    history = model.fit(inputs, targets, sample_weight=weights, epochs=epochs, verbose=0)
    model.preprocessor = preprocessor
    return history.history["loss"]


# The vocabulary


def test_vocabulary_is_deterministic_and_complete(vocabulary: BytePair, run_python: Any) -> None:
    again = f"from kerasbig.text import learn_bpe; p = learn_bpe({LINES!r}, 330); print(list(p.vocabulary.items()), p.merges)"
    assert run_python(again).strip() == f"{list(vocabulary.vocabulary.items())} {vocabulary.merges}"
    tokens = vocabulary.vocabulary
    assert list(tokens.values()) == list(range(len(tokens)))
    assert len(tokens) == 330
    assert tokens[END_OF_TEXT] == 329
    assert tokens["!"] == 0
    assert len(vocabulary.merges) == 330 - 257
    assert "çĶµå½±" in tokens  # 电影


def test_vocabulary_takes_lines_from_a_generator_and_stops_at_a_small_text() -> None:
    pairs = learn_bpe((line for line in ["ab ab"]), 8000)
    assert pairs.merges == ["a b"]
    assert repr(pairs) == "BytePair(258 tokens)"


def test_a_pair_must_occur_min_frequency_times() -> None:
    lines = ["ab ab ab cd cd"]
    assert "c d" in learn_bpe(lines, 300).merges
    assert "c d" not in learn_bpe(lines, 300, min_frequency=3).merges


def test_one_endless_word_is_learnt_from_in_time() -> None:
    word = "".join(np.random.default_rng(0).choice(list("ACGT"), 200_000))
    start = time.perf_counter()
    assert len(learn_bpe([word], 400).merges) == 143
    assert time.perf_counter() - start < 20  # 1 second; a minute if it were one word


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        ("one text", {}, TypeError, r"iterable of texts\. Received one string"),
        (["a"], {"vocabulary_size": 257}, ValueError, r"at least 258.*vocabulary_size=257"),
        (["ab"], {}, ValueError, r"some pair of bytes occurs 2 times"),
        ([], {}, ValueError, r"some pair of bytes occurs 2 times"),
    ],
)
def test_vocabulary_errors(lines: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        learn_bpe(lines, **options)


# Every text survives

TEXTS = {
    "every script": "Ελληνικά русский עברית العربية हिन्दी ไทย 한국어 日本語 中文 አማርኛ ქართული",
    "emoji": "🎉👩‍👩‍👧🏳️‍🌈🇺🇳",
    "blanks": "  two  spaces\ttab \r\n\r\n end  \u00a0\u3000\u2028\x85 ",
    "control characters": "".join(map(chr, range(32))) + "\x7f\ufeff\u200b",
    "not characters": "\ufffd\ufffe\uffff\U0010ffff",
    "what KerasHub marks with": "६ १२३६ ĴA Ġ ## \x01\x02",
    "numbers": "1234567 ½ ² Ⅷ 1,234.5",
    "a long word": "xyz" * 400,
    "nothing": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_survives(name: str, vocabulary: BytePair) -> None:
    model = tiny(vocabulary)
    ids = encode(model, TEXTS[name])
    assert model.preprocessor.tokenizer.detokenize(ids) == TEXTS[name]
    assert all(0 <= token < model.backbone.vocabulary_size for token in ids)


def test_every_byte_has_its_token(vocabulary: BytePair) -> None:
    # Alone most of them are no text: only a graph gives back bytes.
    tokenizer = tiny(vocabulary).preprocessor.tokenizer
    ids = [[vocabulary.vocabulary[letter]] for letter in byte_letters()]
    found = tf.function(tokenizer.detokenize)(tf.ragged.constant(ids, dtype=tf.int32))
    assert found.numpy().tolist() == [bytes([byte]) for byte in byte_letters().values()]


# Equality with Hugging Face


def test_logits_equal_hugging_face(from_hugging_face: keras.Model, golden: dict[str, np.ndarray]) -> None:
    found = logits_of(from_hugging_face, golden["token_ids"])
    assert np.abs(golden["logits"]).max() > 1
    np.testing.assert_allclose(found, golden["logits"], atol=1e-4, rtol=0)


def test_token_ids_equal_hugging_face(from_hugging_face: keras.Model, golden: dict[str, np.ndarray]) -> None:
    for text, row in zip(golden["texts"].tolist(), golden["text_ids"], strict=True):
        assert encode(from_hugging_face, text) == row[row >= 0].tolist(), text


def greedy(model: keras.Model, ids: list[int], count: int) -> list[int]:
    """Takes the largest logit, token by token, computing all of the text anew each time."""
    length = len(ids)
    for _ in range(count):
        ids = [*ids, int(logits_of(model, np.array([ids], "int32"))[0, -1].argmax())]
    return ids[length:]


def test_greedy_text_equals_hugging_face(from_hugging_face: keras.Model, golden: dict[str, np.ndarray]) -> None:
    for prompt, ids, text in zip(golden["prompts"].tolist(), golden["greedy_ids"].tolist(), golden["greedy_texts"].tolist(), strict=True):
        found = greedy(from_hugging_face, encode(from_hugging_face, prompt), len(ids))
        assert found == ids
        assert from_hugging_face.preprocessor.tokenizer.detokenize(found) == text


# Training


def test_new_weights_have_gpt2s_sizes_and_a_presets_stay(vocabulary: BytePair, tmp_path: Path) -> None:
    model = tiny(vocabulary)
    deviations = {
        weight.path: float(np.std(weight.numpy())) for weight in model.backbone.weights if weight.path.endswith(("kernel", "ings"))
    }
    assert len(deviations) == 2 + 2 * 6
    for path, deviation in deviations.items():
        added = path.endswith(("attention_output/kernel", "feedforward_output_dense/kernel"))
        assert deviation == pytest.approx(0.02 / (np.sqrt(2 * 2) if added else 1), rel=0.03), path
    model.save_to_preset(str(tmp_path))
    again = gpt_generator(preset=tmp_path, sequence_length=24)
    for weight, kept in zip(again.backbone.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept.numpy())


def test_a_position_does_not_see_the_future(vocabulary: BytePair) -> None:
    model = tiny(vocabulary)
    random = np.random.default_rng(0)
    token_ids = random.integers(0, 330, (2, 24)).astype("int32")
    targets = np.roll(token_ids, -1, axis=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    changed = token_ids.copy()
    changed[:, 12:] = random.integers(0, 330, (2, 12))
    before, after = (np.asarray(loss(targets, logits_of(model, ids))) for ids in (token_ids, changed))
    np.testing.assert_allclose(before[:, :12], after[:, :12], atol=1e-5)
    assert np.abs(before[:, 12:] - after[:, 12:]).max() > 1e-3


@pytest.mark.slow
def test_learns_a_text_by_heart(vocabulary: BytePair) -> None:
    model = tiny(vocabulary)
    assert model.class_names is None
    compile_generator(model, keras.optimizers.AdamW(3e-3))
    losses = fit(model, 60)
    assert losses[0] < np.log(330) + 1
    assert losses[-1] < 0.3
    scores = model.evaluate(np.array(LINES[:5]), verbose=0, return_dict=True)  # raw texts
    assert set(scores) == {"loss", "accuracy"}
    assert scores["loss"] < 0.1
    assert scores["accuracy"] > 0.9
    ids = [vocabulary.vocabulary[END_OF_TEXT], *encode(model, LINES[0])]
    assert greedy(model, ids[:4], len(ids) - 4) == ids[4:]


def test_weights_of_zero_count_nowhere(vocabulary: BytePair) -> None:
    model = tiny(vocabulary)
    token_ids = np.random.default_rng(0).integers(0, 330, (2, 24)).astype("int32")
    logits = logits_of(model, token_ids).astype("float64")
    weights = np.zeros((2, 24), "float32")
    weights[:, :10] = 1
    model.preprocessor = None
    scores = model.evaluate(inputs_of(token_ids), token_ids, sample_weight=weights, verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx((logits.argmax(-1) == token_ids)[:, :10].mean(), abs=1e-6)


@pytest.mark.slow
def test_mixed_bfloat16_trains(vocabulary: BytePair) -> None:
    model = tiny(vocabulary, dtype="mixed_bfloat16")
    assert model.backbone.get_layer("transformer_layer_0").compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    token_ids = np.arange(24, dtype="int32")[None]
    np.testing.assert_allclose(logits_of(model, token_ids), logits_of(tiny(vocabulary), token_ids), atol=0.02)
    before = [weight.numpy() for weight in model.trainable_weights]
    assert np.isfinite(fit(model)).all()
    assert all((old != new.numpy()).any() for old, new in zip(before, model.trainable_weights, strict=True))


# Presets


def test_preset_folder_round_trip(vocabulary: BytePair, tmp_path: Path) -> None:
    model = tiny(vocabulary)
    fit(model)
    model.save_to_preset(str(tmp_path / "preset"))
    again = gpt_generator(preset=tmp_path / "preset", sequence_length=24)
    token_ids = np.arange(24, dtype="int32")[None]
    np.testing.assert_array_equal(logits_of(again, token_ids), logits_of(model, token_ids))
    assert again.preprocessor.sequence_length == 24
    for text in TEXTS.values():
        assert encode(again, text) == encode(model, text)
    assert gpt_generator(preset=tmp_path / "preset", sequence_length=8).preprocessor(["a film"])[0]["token_ids"].shape == (1, 8)
    half = gpt_generator(preset=tmp_path / "preset", sequence_length=24, dtype="mixed_bfloat16")
    assert half.backbone.get_layer("transformer_layer_0").compute_dtype == "bfloat16"


@pytest.mark.filterwarnings("ignore:`compile()")
def test_keras_file_round_trip(vocabulary: BytePair, tmp_path: Path) -> None:
    model = tiny(vocabulary)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    token_ids = np.arange(24, dtype="int32")[None]
    again = keras.saving.load_model(tmp_path / "model.keras")
    compile_generator(again)  # it also gives back the splitting, which no file of KerasHub holds
    other = tiny(vocabulary)
    keras.utils.set_random_seed(1)
    other.set_weights([np.random.normal(size=weight.shape) for weight in other.weights])
    other.load_weights(tmp_path / "model.weights.h5")
    for loaded in (again, other):
        np.testing.assert_array_equal(logits_of(loaded, token_ids), logits_of(model, token_ids))
        assert encode(loaded, TEXTS["numbers"]) == encode(model, TEXTS["numbers"])


def test_other_decoders_go_through_the_same_door(vocabulary: BytePair, tmp_path: Path) -> None:
    tokenizer = keras_hub.tokenizers.QwenTokenizer(vocabulary.vocabulary, vocabulary.merges)
    backbone = keras_hub.models.QwenBackbone(
        vocabulary_size=330, num_layers=1, num_query_heads=2, num_key_value_heads=1, hidden_dim=16, intermediate_dim=32
    )
    preprocessor = keras_hub.models.QwenCausalLMPreprocessor(tokenizer, sequence_length=16)
    keras_hub.models.QwenCausalLM(backbone, preprocessor).save_to_preset(str(tmp_path / "qwen"))
    model = gpt_generator(preset=tmp_path / "qwen", sequence_length=16, lora_rank=2)
    assert type(model).__name__ == "QwenCausalLM"
    fit(model)
    assert model.preprocessor.tokenizer.detokenize(encode(model, TEXTS["emoji"])) == TEXTS["emoji"]


def test_lora_trains_little_and_is_saved_with_the_weights(tmp_path: Path) -> None:
    model = gpt_generator(preset=GOLDEN / "gpt2", sequence_length=48, lora_rank=2)
    plain = gpt_generator(preset=GOLDEN / "gpt2", sequence_length=48)
    token_ids = np.arange(20, dtype="int32")[None]
    np.testing.assert_array_equal(logits_of(model, token_ids), logits_of(plain, token_ids))
    names = {weight.path.split("/")[-2] for weight in model.trainable_weights}
    assert names == {"query", "value"}
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trained == 2 * 2 * (32 * 4 * 2 + 2 * 8 + 32)  # layers × (query, value) × (A of each head, B, bias)
    frozen = [weight.numpy() for weight in model.non_trainable_weights]
    compile_generator(model, keras.optimizers.AdamW(1e-2))
    losses = fit(model, 5)
    assert losses[-1] < losses[0]
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(frozen, model.non_trainable_weights, strict=True))
    model.save_to_preset(str(tmp_path / "preset"))
    again = gpt_generator(preset=tmp_path / "preset", sequence_length=48)
    assert len(again.weights) == len(plain.weights)
    np.testing.assert_allclose(logits_of(again, token_ids), logits_of(model, token_ids), atol=1e-5)
    assert np.abs(logits_of(again, token_ids) - logits_of(plain, token_ids)).max() > 1e-2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json", "merges.txt"])
def test_hugging_face_folder_that_lacks_a_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"to hold .*{name}"):
        gpt_generator(preset=folder)


def test_hugging_face_folder_with_only_a_tokenizer_json(
    folder: Path, from_hugging_face: keras.Model, golden: dict[str, np.ndarray]
) -> None:
    # As transformers 5 writes it: by the library `tokenizers`, without vocab.json and merges.txt.
    pairs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    pairs.add_special_tokens([END_OF_TEXT])
    pairs.save(str(folder / "tokenizer.json"))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    model = gpt_generator(preset=folder, sequence_length=48)
    assert model.preprocessor.sequence_length == 48
    np.testing.assert_array_equal(logits_of(model, golden["token_ids"]), logits_of(from_hugging_face, golden["token_ids"]))
    for text, row in zip(golden["texts"].tolist(), golden["text_ids"], strict=True):
        assert encode(model, text) == row[row >= 0].tolist(), text
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content | {"model": {"type": "WordPiece"}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model of type 'BPE'. Received: 'WordPiece'"):
        gpt_generator(preset=folder, sequence_length=48)


@pytest.mark.parametrize("name", ["vocabulary.json", "merges.txt"])
def test_keras_folder_that_lacks_a_file(name: str, vocabulary: BytePair, tmp_path: Path) -> None:
    tiny(vocabulary).save_to_preset(str(tmp_path))
    (tmp_path / "assets/tokenizer" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"to hold assets/tokenizer/{name}, which is missing"):
        gpt_generator(preset=tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation_function": "relu"}, r"activation_function to be 'gelu_new' .*activation_function='relu'"),
        ({"layer_norm_epsilon": 1e-6}, r"layer_norm_epsilon to be 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx to be False"),
        ({"tie_word_embeddings": False}, r"tie_word_embeddings to be True"),
        ({"n_inner": 100}, r"n_inner to be 4 × n_embd .*n_inner=100"),
        ({"vocab_size": 383}, r"Expected preset .* to load as a text generator"),
    ],
)
def test_hugging_face_settings_that_kerashub_does_not_compute(setting: dict[str, Any], message: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | setting), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        gpt_generator(preset=folder, sequence_length=48)


def test_weights_that_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"to load as a text generator. Received:"):
        gpt_generator(preset=folder, sequence_length=48)


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    tokens = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(tokens | {"more": len(tokens)}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"token ids below 384, the rows of the embedding.*ids up to 384.*not of one model"):
        gpt_generator(preset=folder, sequence_length=48)


def test_preset_errors(vocabulary: BytePair, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preset='gpt2_base_em', which is neither\. Did you mean 'gpt2_base_en'\?"):
        gpt_generator(preset="gpt2_base_em")
    for name in ("bert_tiny_en_uncased", "bart_base_en", "minilm-l6"):  # no decoder of text
        with pytest.raises(ValueError, match="known text generator preset"):
            resolve_preset(name, GENERATOR)
    assert resolve_preset("llama3_8b_en", GENERATOR) == "llama3_8b_en"
    assert resolve_preset("hf://someone/model", GENERATOR) == "hf://someone/model"
    (tmp_path / "config.json").write_text('{"registered_name": "keras_hub>BertBackbone"}')
    with pytest.raises(ValueError, match=r"Expected a text generator preset.*kind 'keras_hub>BertBackbone'.*Name a text generator folder"):
        gpt_generator(preset=tmp_path)
    with pytest.raises(ValueError, match=r"Expected a BERT preset.*kind 'gpt2'"):
        resolve_preset(GOLDEN / "gpt2", BERT)
    tiny(vocabulary).save_to_preset(str(tmp_path / "long"))
    with pytest.raises(ValueError, match=r"sequence_length of at most 24 for preset .*sequence_length=25"):
        gpt_generator(preset=tmp_path / "long", sequence_length=25)


def test_a_preset_that_reads_more_than_text(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {name: keras.Input((8,), name=name) for name in ("images", "token_ids")}
    other = keras.Model(inputs, keras.layers.add(list(inputs.values())))
    monkeypatch.setattr(keras_hub.models.CausalLM, "from_preset", lambda source: other)
    with pytest.raises(ValueError, match=r"write text from text alone\. Received: .* images, token_ids\. Name a decoder"):
        gpt_generator(preset="pali_gemma_3b_mix_224")


def test_a_preset_in_which_lora_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_hub.models.GPT2Backbone, "default_lora_layer_names", lambda backbone: [])
    with pytest.raises(ValueError, match=r"enable_lora finds\. Received: lora_rank=2 and a GPT2CausalLM"):
        gpt_generator(preset=GOLDEN / "gpt2", sequence_length=48, lora_rank=2)


def test_kerashub_converts_the_families_that_are_listed() -> None:
    # Should this fail, upstream dropped a converter or made another class of it.
    from keras_hub.src.utils.preset_utils import find_subclass
    from keras_hub.src.utils.transformers.preset_loader import TransformersPresetLoader

    for model_type in GENERATOR.hugging_face:
        backbone = TransformersPresetLoader("", {"model_type": model_type}).check_backbone_class()
        task = find_subclass("", keras_hub.models.CausalLM, backbone)
        assert GENERATOR.keras_files(f"keras_hub>{backbone.__name__}") is not None, task


# Arguments


@pytest.mark.parametrize("size", list(GPT_SIZES))
def test_sizes_are_the_papers(size: str) -> None:
    # Layers and width of Radford et al., 2019, table 2, and of arXiv:1908.08962, table 1.
    paper = {"base": (12, 768), "gpt2-medium": (24, 1024), "gpt2-large": (36, 1280), "gpt2-xl": (48, 1600)}
    row = GPT_SIZES[size]
    assert (row["num_layers"], row["hidden_dim"]) == (paper.get(size) or (SIZES[size]["num_layers"], SIZES[size]["hidden_dim"]))
    assert row["hidden_dim"] == 64 * row["num_heads"]
    assert row["intermediate_dim"] == 4 * row["hidden_dim"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "gpt2_base_en"}, r"exactly one of preset and size"),
        ({"size": None}, r"exactly one of preset and size"),
        ({"size": "tinny"}, r"one of tiny, mini, small, medium, base, .*size='tinny'. Did you mean 'tiny'\?"),
        ({"vocabulary": None}, r"Expected a vocabulary for size='tiny'.*learn_bpe"),
        ({"size": None, "preset": "gpt2_base_en"}, r"no vocabulary beside a preset"),
        ({"sequence_length": 1}, r"sequence_length of at least 2.*sequence_length=1"),
        ({"dropout": 1.0}, r"dropout from 0 to below 1.*dropout=1.0"),
        ({"lora_rank": 4}, r"lora_rank of at least 1, beside a preset .*lora_rank=4, preset=None"),
        ({"size": None, "vocabulary": None, "preset": "gpt2_base_en", "lora_rank": 0}, r"lora_rank=0"),
        ({"vocabulary": BytePair({"a": 0}, ["a a"])}, r"256 bytes, .*Use learn_bpe"),
    ],
)
def test_builder_errors(changes: dict[str, Any], message: str, vocabulary: BytePair) -> None:
    with pytest.raises(ValueError, match=message):
        gpt_generator(**{"size": "tiny", "vocabulary": vocabulary, **changes})


def test_vocabularies_that_are_none(vocabulary: BytePair) -> None:
    with pytest.raises(TypeError, match=r"to be a BytePair\. Received: list"):
        gpt_generator(size="tiny", vocabulary=["a"])
    tokens = dict(vocabulary.vocabulary)
    with pytest.raises(ValueError, match="no pair at all"):
        gpt_generator(size="tiny", vocabulary=BytePair(tokens, []))
    with pytest.raises(ValueError, match=r"both parts of each pair\. Received: 1 missing, such as 'zzz'"):
        gpt_generator(size="tiny", vocabulary=BytePair(tokens, ["a zzz"]))
    with pytest.raises(ValueError, match="to be 0 to 329"):
        gpt_generator(size="tiny", vocabulary=BytePair(tokens | {END_OF_TEXT: 999}, vocabulary.merges))


def test_golden_files_are_small() -> None:
    sizes = {file.name: file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert {name: size for name, size in sizes.items() if size >= 200_000} == {}
    assert "torch" not in sys.modules
