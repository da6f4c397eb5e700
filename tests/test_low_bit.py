"""Keras's own int8, int4, GPTQ and AWQ on a KerasHub BERT: what serves, and what is refused in words."""

from __future__ import annotations

import warnings

import keras
import keras_hub
import numpy as np
import pytest

import kerasbig as kb

LINES = ["a fine film with a story", "a dull film with no story at all", "一部 很好 的 电影"] * 6


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(LINES, 90), sequence_length=16)


def without_logits(layer: keras.layers.Layer) -> bool:
    return layer.name != "logits"


def stored_bytes(model: keras.Model) -> int:
    return sum(keras.ops.convert_to_numpy(weight).nbytes for weight in model.weights)


def quantize(model: keras.Model, *arguments, **options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line for each layer that has no kernel
        model.quantize(*arguments, **options)


@pytest.mark.parametrize(("mode", "share", "tolerance"), [("int8", 0.30, 0.02), ("int4", 0.17, 0.25)])
def test_fewer_bits_are_kept_by_a_preset(mode, share, tolerance, model, tmp_path):
    before, float_bytes = kb.data.predict_logits(model, LINES), stored_bytes(model)
    quantize(model, mode, filters=without_logits)
    after = kb.data.predict_logits(model, LINES)
    assert 0 < np.abs(after - before).max() <= tolerance * np.abs(before).max()
    assert stored_bytes(model) <= share * float_bytes
    model.save_to_preset(str(tmp_path))
    again = keras_hub.models.BertTextClassifier.from_preset(str(tmp_path))
    np.testing.assert_array_equal(kb.data.predict_logits(again, LINES), after)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_the_report_says_what_lies_there(mode, model):
    float_bytes = sum(row["bytes"] for row in kb.compress.inspect(model).rows)
    quantize(model, mode)
    report = kb.compress.inspect(model)
    reasons = {row["reason"] for row in report.rows}
    assert reasons == {f"already quantized to {mode}", "has no kernel"}
    assert report.notes[0].startswith("No float kernel: ")
    assert sum(row["bytes"] for row in report.rows) < (0.3 if mode == "int8" else 0.2) * float_bytes


def test_a_part_in_int8_leaves_the_rest_to_compress(model):
    quantize(model, "int8", filters=without_logits)
    rows = {row["path"].rpartition("/")[2]: row for row in kb.compress.inspect(model).rows}
    seen = {name: (rows[name]["reason"], rows[name]["bytes"]) for name in ("logits", "pooled_dense")}
    assert seen == {"logits": ("", 4 * 128 * 2), "pooled_dense": ("already quantized to int8", 128 * 128)}


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_calibrated_four_bits(algorithm, model):
    before, float_bytes = kb.data.predict_logits(model, LINES), stored_bytes(model)
    backbone = model.backbone
    blocks = [layer for layer in backbone.layers if isinstance(layer, keras_hub.layers.TransformerEncoder)]
    kind = keras.quantizers.GPTQConfig if algorithm == "gptq" else keras.quantizers.AWQConfig
    config = kind(
        dataset=LINES,
        tokenizer=model.preprocessor.tokenizer,
        num_samples=8,
        sequence_length=8,
        group_size=64,
        quantization_layer_structure={"pre_block_layers": [backbone.token_embedding], "sequential_blocks": blocks},
    )
    quantize(model, algorithm, config=config)
    after = kb.data.predict_logits(model, LINES)
    assert 0 < np.abs(after - before).max() <= 0.25 * np.abs(before).max()
    assert stored_bytes(model) <= 0.25 * float_bytes
    assert f"already quantized to {algorithm}" in {row["reason"] for row in kb.compress.inspect(model).rows}


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_no_exported_file_holds_them(mode, model, tmp_path):
    quantize(model, mode, filters=without_logits)
    with pytest.raises(ValueError, match=rf"Expected float weights\. Received: a model that Keras's own quantize made {mode}"):
        kb.export.bundle(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_nothing_is_left_to_prune(model):
    quantize(model, "int8")
    with pytest.raises(ValueError, match=r"Expected at least one kernel to take.*already quantized to int8"):
        kb.compress.cluster_weights(model, 4)
