"""The BERT classifier and its vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

import kerasbig as kb
from kerasbig.data.presets import resolve_bert_preset
from kerasbig.text import SIZES, bert_classifier, learn_wordpiece


def test_vocabulary_is_deterministic_and_covers_scripts():
    lines = ["Das Café ist schön", "这部电影很好看", "great film 🎉"] * 3
    vocabulary = learn_wordpiece(lines, 200)
    assert vocabulary == learn_wordpiece(lines, 200)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"电", "影", "🎉", "é"} <= set(vocabulary) | {token.removeprefix("##") for token in vocabulary}
    assert not any(token != token.lower() for token in vocabulary[5:])
    assert learn_wordpiece(lines, 20) == vocabulary[:20]
    assert any(token == "D" for token in learn_wordpiece(lines, 200, lowercase=False))


def test_learnt_vocabulary_leaves_no_unknown_token_in_its_own_text():
    lines = ["Das Café ist schön", "这部电影很好看", "naïve façade"] * 3
    vocabulary = learn_wordpiece(lines, 200)
    model = bert_classifier(("a", "b"), size="tiny", vocabulary=vocabulary, sequence_length=32)
    assert not (np.asarray(model.preprocessor(lines)["token_ids"]) == vocabulary.index("[UNK]")).any()


def test_vocabulary_errors():
    with pytest.raises(TypeError, match=r"Received one string"):
        learn_wordpiece("one text")
    with pytest.raises(ValueError, match=r"vocabulary_size above 5.*vocabulary_size=5"):
        learn_wordpiece(["a"], 5)
    with pytest.raises(ValueError, match="no line with a character"):
        learn_wordpiece(["", " "])


@pytest.mark.parametrize("size", list(SIZES))
def test_sizes_are_the_paper_s(size):
    # Layers, width and heads of arXiv:1908.08962, table 1.
    paper = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "medium": (8, 512, 8), "base": (12, 768, 12)}
    row = SIZES[size]
    assert (row["num_layers"], row["hidden_dim"], row["num_heads"]) == paper[size]
    assert row["intermediate_dim"] == 4 * row["hidden_dim"]


def test_regression_head(review_vocabulary):
    model = bert_classifier(None, size="tiny", vocabulary=review_vocabulary, sequence_length=16)
    assert model.class_names is None
    assert model.output_shape == (None, 1)
    history = model.fit(["great film"] * 4, np.ones(4, "float32"), verbose=0)
    assert set(history.history) == {"loss", "rmse"}


def test_overfits_a_handful(tiny_bert, review_examples):
    tiny_bert.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    few = kb.data.Examples(
        review_examples.inputs[:16], review_examples.targets[:16], review_examples.classes, list(range(16)), "few", "train"
    )
    tiny_bert.fit(kb.data.batches(few, tiny_bert, batch_size=16, seed=0).repeat(40), verbose=0, shuffle=False)
    assert tiny_bert.evaluate(few.inputs, few.targets, verbose=0)[1] == 1.0


def test_padding_does_not_change_the_answer(tiny_bert):
    inputs = {name: np.asarray(value) for name, value in tiny_bert.preprocessor(["a great film"]).items()}
    real = int(inputs["padding_mask"].sum())
    short = {name: value[:, :real] for name, value in inputs.items()}
    noisy = {**inputs, "token_ids": np.where(inputs["padding_mask"], inputs["token_ids"], 9)}
    full = tiny_bert(inputs).numpy()
    np.testing.assert_allclose(tiny_bert(short).numpy(), full, atol=1e-6)
    np.testing.assert_allclose(tiny_bert(noisy).numpy(), full, atol=1e-6)


def test_preset_folder_round_trip(tiny_bert, tmp_path):
    tiny_bert.save_to_preset(str(tmp_path / "preset"))
    again = bert_classifier(("negative", "positive"), preset=tmp_path / "preset", sequence_length=32)
    texts = ["a great film", "dull"]
    ours, theirs = again.backbone(again.preprocessor(texts)), tiny_bert.backbone(tiny_bert.preprocessor(texts))
    np.testing.assert_array_equal(ours["pooled_output"].numpy(), theirs["pooled_output"].numpy())
    other_head = bert_classifier(("a", "b", "c"), preset=tmp_path / "preset", sequence_length=16)
    assert other_head.output_shape == (None, 3)
    assert other_head.preprocessor.sequence_length == 16
    half = bert_classifier(("a", "b"), preset=tmp_path / "preset", sequence_length=32, dtype="mixed_bfloat16")
    assert half.backbone.get_layer("transformer_layer_0").compute_dtype == "bfloat16"


def hugging_face_folder(folder: Path, vocabulary: list[str]) -> Path:
    """Writes a random one-layer BERT in Hugging Face's form."""
    random = np.random.default_rng(0)
    width, inner, positions = 8, 16, 20
    shapes = {
        "embeddings.word_embeddings.weight": (len(vocabulary), width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for norm in ("embeddings.LayerNorm", "encoder.layer.0.attention.output.LayerNorm", "encoder.layer.0.output.LayerNorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        shapes |= {f"encoder.layer.0.{name}.weight": (width, width), f"encoder.layer.0.{name}.bias": (width,)}
    shapes |= {"encoder.layer.0.intermediate.dense.weight": (inner, width), "encoder.layer.0.intermediate.dense.bias": (inner,)}
    shapes |= {"encoder.layer.0.output.dense.weight": (width, inner), "encoder.layer.0.output.dense.bias": (width,)}
    folder.mkdir()
    save_file(
        {f"bert.{name}": random.normal(size=shape).astype("float32") for name, shape in shapes.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(vocabulary),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": width,
    }
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": inner, "max_position_embeddings": positions}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def test_hugging_face_folder(tmp_path, review_vocabulary):
    folder = hugging_face_folder(tmp_path / "hf", [*review_vocabulary, "cafe"])
    model = bert_classifier(("a", "b"), preset=folder, sequence_length=16)
    assert model.backbone.hidden_dim == 8
    # Hugging Face folds accents wherever it folds case; KerasHub's own converter does not.
    assert [list(row) for row in model.preprocessor.tokenizer.tokenize(["Café"])] == [[len(review_vocabulary)]]
    with pytest.raises(ValueError, match=r"sequence_length of at most 20 for preset"):
        bert_classifier(("a", "b"), preset=folder, sequence_length=64)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"])
def test_hugging_face_folder_that_lacks_a_file(name, tmp_path, review_vocabulary):
    folder = hugging_face_folder(tmp_path / "hf", review_vocabulary)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"to hold .*{name}"):
        bert_classifier(("a", "b"), preset=folder)


def test_keras_folder_that_lacks_a_file(tmp_path, tiny_bert):
    tiny_bert.save_to_preset(str(tmp_path / "preset"))
    shutil.rmtree(tmp_path / "preset/assets")
    with pytest.raises(FileNotFoundError, match=r"to hold assets/tokenizer/vocabulary\.txt, which is missing"):
        bert_classifier(("a", "b"), preset=tmp_path / "preset")


def test_preset_errors(tmp_path):
    with pytest.raises(ValueError, match=r"preset='minilm-l7', which is neither\. Did you mean 'minilm-l6'\?"):
        resolve_bert_preset("minilm-l7")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="to be JSON"):
        resolve_bert_preset(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match=r"Expected a BERT preset.*kind 'gpt2'"):
        resolve_bert_preset(tmp_path)
    assert resolve_bert_preset("hf://someone/model") == "hf://someone/model"
    assert set(keras_hub.models.BertBackbone.presets) >= {resolve_bert_preset("bert_base_zh")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a"]}, r"at least two classes.*classes=\['a'\]"),
        ({"classes": ["a", "a"]}, r"different names"),
        ({"classes": "ab"}, r"list of names.*classes='ab'"),
        ({"preset": "minilm-l6"}, r"exactly one of preset and size"),
        ({"size": None}, r"exactly one of preset and size"),
        ({"size": "huge"}, r"one of tiny, mini, small, medium, base. Received: size='huge'"),
        ({"vocabulary": None}, r"Expected a vocabulary for size='tiny'"),
        ({"vocabulary": ["a"]}, r"to hold \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        ({"size": None, "preset": "bert_tiny_en_uncased"}, r"no vocabulary beside a preset"),
        ({"sequence_length": 2}, r"sequence_length of at least 3.*sequence_length=2"),
        ({"dropout": 1.0}, r"dropout from 0 to below 1.*dropout=1.0"),
    ],
)
def test_builder_errors(changes, message, review_vocabulary):
    options = {"classes": ("a", "b"), "size": "tiny", "vocabulary": review_vocabulary} | changes
    with pytest.raises(ValueError, match=message):
        bert_classifier(options.pop("classes"), **options)
