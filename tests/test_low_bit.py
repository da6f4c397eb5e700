"""Keras's own int8, int4, GPTQ and AWQ on a KerasHub BERT: what serves, and what is refused in words."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import keras_hub
import numpy as np
import pytest

import kerasbig as kb

pytestmark = pytest.mark.slow

LINES = ["a fine film with a story", "a dull film with no story at all", "一部 很好 的 电影"] * 6


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    return kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(LINES, 90), sequence_length=16)


@dataclass(frozen=True)
class Quantized:
    """A model whose every layer but the logits has few bits, and what it was before."""

    mode: str
    model: keras.Model
    float_logits: np.ndarray
    float_bytes: int
    float_report_bytes: int


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantized(request) -> Quantized:
    model = build()
    report_bytes = sum(row["bytes"] for row in kb.compress.inspect(model).rows)
    before, float_bytes = kb.data.predict_logits(model, LINES), stored_bytes(model)
    quantize(model, request.param, filters=without_logits)
    return Quantized(request.param, model, before, float_bytes, report_bytes)


def without_logits(layer: keras.layers.Layer) -> bool:
    return layer.name != "logits"


def stored_bytes(model: keras.Model) -> int:
    return sum(keras.ops.convert_to_numpy(weight).nbytes for weight in model.weights)


def quantize(model: keras.Model, *arguments, **options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line for each layer that has no kernel
        model.quantize(*arguments, **options)


def test_fewer_bits_are_kept_by_a_preset(quantized, tmp_path):
    share, tolerance = {"int8": (0.30, 0.02), "int4": (0.17, 0.25)}[quantized.mode]
    model, before = quantized.model, quantized.float_logits
    after = kb.data.predict_logits(model, LINES)
    assert 0 < np.abs(after - before).max() <= tolerance * np.abs(before).max()
    assert stored_bytes(model) <= share * quantized.float_bytes
    model.save_to_preset(str(tmp_path))
    again = keras_hub.models.BertTextClassifier.from_preset(str(tmp_path))
    np.testing.assert_array_equal(kb.data.predict_logits(again, LINES), after)


def test_the_report_says_what_lies_there_and_leaves_the_rest_to_compress(quantized):
    report = kb.compress.inspect(quantized.model)
    assert {row["reason"] for row in report.rows} == {"", f"already quantized to {quantized.mode}", "has no kernel"}
    rows = {row["path"].rpartition("/")[2]: row for row in report.rows}
    seen = {name: (rows[name]["reason"], rows[name]["bytes"]) for name in ("logits", "pooled_dense")}
    bytes_each = {"int8": 128 * 128, "int4": 128 * 128 // 2}[quantized.mode]
    assert seen == {"logits": ("", 4 * 128 * 2), "pooled_dense": (f"already quantized to {quantized.mode}", bytes_each)}
    assert sum(row["bytes"] for row in report.rows) < (0.3 if quantized.mode == "int8" else 0.2) * quantized.float_report_bytes


def test_no_exported_file_holds_them(quantized, tmp_path):
    with pytest.raises(ValueError, match=rf"Expected float weights\. Received: a model that Keras's own quantize made {quantized.mode}"):
        kb.export.bundle(quantized.model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_calibrated_four_bits(algorithm):
    model = build()
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


def test_nothing_is_left_to_prune():
    model = build()
    quantize(model, "int8")
    report = kb.compress.inspect(model)
    assert {row["reason"] for row in report.rows} == {"already quantized to int8", "has no kernel"}
    assert report.notes[0].startswith("No float kernel: ")
    with pytest.raises(ValueError, match=r"Expected at least one kernel to take.*already quantized to int8"):
        kb.compress.cluster_weights(model, 4)
