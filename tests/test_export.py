"""Export: each format answers as the model does, in a process without KerasBig; a failure leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest

import kerasbig as kb
from kerasbig.export import bundles, classifier, manifests, parity, to_hdf5, to_litert
from kerasbig.export.kinds import fingerprint
from kerasbig.export.signatures import trim
from kerasbig.export.twin import reference_logits

WORDS = [
    "a",
    "film",
    "fine",
    "dull",
    "##er",
    "##s",
    "the",
    "is",
    "!",
    ".",
    "ss",
    "stra",
    "##sse",
    "电",
    "影",
    "é",
    "e",
    "c",
    "##afe",
    "##o",
    "1",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
NAMES = ("très bon", "一般", "sehr schlecht")
TEXTS = ["a fine film!", "dull", "", "the Film is DULLER. " * 40, "电影 is fine", "Straße café", "a"]
# The fresh processes ask few texts here; the built-in ones are asked once, in the fixture.
SHORT = ["a fine film", "电影"]


def make_model(classes: tuple[str, ...] | None = NAMES, *, seed: int = 1, dtype: str | None = None, **options: object) -> keras.Model:
    keras.utils.set_random_seed(seed)
    tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary=VOCABULARY, lowercase=True, strip_accents=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=32)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64, "max_sequence_length": 40} | options
    backbone = keras_hub.models.BertBackbone(vocabulary_size=len(VOCABULARY), dtype=dtype, **sizes)
    model = keras_hub.models.BertTextClassifier(backbone, 1 if classes is None else len(classes), preprocessor=preprocessor)
    # Larger weights than the initial ones, so that the logits tell texts apart.
    for variable in model.trainable_variables:
        variable.assign(variable + np.random.default_rng(seed).normal(0, 1.7 / sizes["hidden_dim"] ** 0.5, variable.shape))
    model.class_names = classes
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, checked with the built-in texts."""
    return kb.export.bundle(model, tmp_path_factory.mktemp("export") / "film", metrics={"accuracy": 0.5})


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "film"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the fresh processes where a test is about something else."""
    measured = {"max_abs_logit_difference": 0.0, "tolerance": 0.0, "examples": 1}
    monkeypatch.setattr(bundles, "run_checks", lambda kinds, expected, quantize: {kind: dict(measured) for kind in kinds})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


FORMATS = ["saved_model", "hdf5", "litert"]
# The measured differences are a tenth of these or less; int8 weights cost accuracy.
CLOSE = {"saved_model": 1e-5, "hdf5": 1e-5, "litert": 0.1}


def test_the_manifest_says_what_was_measured(exported: Path, model: keras.Model) -> None:
    manifest = kb.export.read_manifest(exported)
    assert list(manifest["formats"]) == FORMATS
    assert manifest["classes"] == list(NAMES) == json.loads((exported / "classes.json").read_text("utf-8"))
    assert (manifest["task"], manifest["sequence_length"], manifest["metrics"]) == ("text-classifier", 32, {"accuracy": 0.5})
    assert manifest["model_fingerprint"] == fingerprint(model)
    assert manifest["formats"]["litert"]["quantize"] == "dynamic"
    for entry in manifest["formats"].values():
        measured = entry["parity"]
        assert measured["examples"] == len(parity.DEFAULT_EXAMPLES)
        assert 0 <= measured["max_abs_logit_difference"] <= measured["tolerance"]
        assert entry["bytes"] > 1000
    assert manifest["formats"]["saved_model"]["parity"]["max_abs_logit_difference"] < 1e-5
    on_disk = {str(file.relative_to(exported).as_posix()) for file in exported.rglob("*") if file.is_file()}
    assert on_disk == {*manifest["files"], "manifest.json"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_predictor_answers_as_the_model(exported: Path, model: keras.Model, format: str) -> None:
    predictor = kb.export.load(exported, format)
    assert isinstance(predictor, kb.export.Predictor)
    assert (predictor.format, predictor.class_names) == (format, NAMES)
    expected = reference_logits(model, TEXTS)
    assert np.ptp(expected, axis=0).max() > 0.3
    logits = predictor.logits(TEXTS)
    assert logits.dtype == np.float32
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, atol=CLOSE[format] * scale)
    alone = np.concatenate([predictor.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(logits, alone, atol=1e-5 * scale)
    backwards = predictor.logits(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], logits, atol=1e-5 * scale)
    assert predictor.logits([]).shape == (0, 3)
    many = predictor.logits(["a film", "the dull film is a film"] * 40)
    np.testing.assert_allclose(many, np.tile(many[:2], (40, 1)), atol=1e-5 * scale)


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_on_disk_are_those_of_the_manifest(exported: Path, format: str) -> None:
    assert kb.export.load(exported, format).bytes_on_disk() == kb.export.read_manifest(exported)["formats"][format]["bytes"]


def test_a_long_text_is_cut(exported: Path) -> None:
    predictor = kb.export.load(exported, "saved_model")
    np.testing.assert_allclose(predictor.logits(["film " * 30]), predictor.logits(["film " * 300]), atol=1e-5)
    assert np.abs(predictor.logits(["film " * 29]) - predictor.logits(["film " * 30])).max() > 1e-6


def test_saved_model_signatures(exported: Path, model: keras.Model) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported / "1"))
    serve = loaded.signatures["serving_default"]
    assert {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in serve.structured_outputs.items()} == {
        "label": ("string", [None]),
        "label_id": ("int32", [None]),
        "probabilities": ("float32", [None, 3]),
    }
    answer = serve(text=tf.constant(TEXTS))
    logits = reference_logits(model, TEXTS)
    assert answer["label_id"].numpy().tolist() == logits.argmax(axis=1).tolist()
    assert [label.decode() for label in answer["label"].numpy()] == [NAMES[i] for i in logits.argmax(axis=1)]
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    assert serve(text=tf.constant([], tf.string))["probabilities"].shape == (0, 3)


def test_the_graph_computes_the_longest_text_only() -> None:
    import tensorflow as tf

    ids = tf.constant([[2, 0, 5, 3, 0, 0], [2, 3, 0, 0, 0, 0]])
    trimmed = trim({"token_ids": ids, "padding_mask": ids != 0})
    assert trimmed["token_ids"].numpy().tolist() == [[2, 0, 5, 3], [2, 3, 0, 0]]
    assert trimmed["padding_mask"].dtype == tf.int32


def test_hdf5_loads_bit_for_bit_and_litert_is_small(exported: Path, model: keras.Model) -> None:
    predictor = kb.export.load(exported / "model.weights.h5")
    assert predictor.format == "hdf5"
    loaded = predictor.model.get_weights()  # type: ignore[attr-defined]
    assert len(loaded) == len(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(loaded, model.get_weights(), strict=True))
    assert predictor.model.preprocessor.tokenizer.strip_accents  # type: ignore[attr-defined]
    config = json.loads((exported / "model.json").read_text("utf-8"))
    assert "compile_config" not in config


def test_gzip_shrinks_zeros(tmp_path: Path) -> None:
    model = make_model(num_layers=1, hidden_dim=128, intermediate_dim=512)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(variable * (np.random.default_rng(0).random(variable.shape) < 0.5))
    model.save_weights(tmp_path / "raw.weights.h5")
    to_hdf5.compress_weights(tmp_path / "raw.weights.h5", tmp_path / "small.weights.h5")
    raw, small = ((tmp_path / f"{name}.weights.h5").stat().st_size for name in ("raw", "small"))
    assert small < 0.7 * raw
    other = make_model(num_layers=1, hidden_dim=128, intermediate_dim=512, seed=2)
    other.load_weights(tmp_path / "small.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), model.get_weights(), strict=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("quantize", ["dynamic", "float16", None])
def test_litert_quantizations(tmp_path: Path, quantize: str | None) -> None:
    model = make_model(num_layers=1, hidden_dim=128, intermediate_dim=512)
    predictor = kb.export.load(kb.export.litert(model, tmp_path / "film", quantize=quantize))
    weights = 4 * model.count_params()
    share = {"dynamic": 0.25, "float16": 0.5, None: 1.0}[quantize]
    size = (tmp_path / "film" / "model.tflite").stat().st_size
    # The graph itself is some 70 kB, much beside this tiny model.
    assert share * weights * 0.9 < size < share * weights + 100_000
    expected = reference_logits(model, TEXTS)
    limit = {"dynamic": 0.1, "float16": 1e-2, None: 1e-4}[quantize] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(predictor.logits(TEXTS), expected, atol=limit)


@pytest.mark.slow
def test_onnx(tmp_path: Path, model: keras.Model) -> None:
    folder = kb.export.onnx(model, tmp_path / "film", examples=SHORT)
    assert kb.export.read_manifest(folder)["formats"]["onnx"]["parity"]["max_abs_logit_difference"] < 1e-5
    for place in (folder, folder / "model.onnx"):
        predictor = kb.export.load(place)
        assert (predictor.format, predictor.class_names) == ("onnx", NAMES)
        np.testing.assert_allclose(predictor.logits(TEXTS), reference_logits(model, TEXTS), atol=1e-4)
    assert predictor.bytes_on_disk() == (folder / "model.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("by_row", [True, False])
def test_int8_keeps_small_rows_of_the_token_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_row: bool) -> None:
    """One scale for the whole table, set by one large row, would leave nothing of the others."""
    # The converter leaves tables of fewer than 1,024 values in float.
    model = make_model(hidden_dim=64)
    table = model.backbone.token_embedding.embeddings
    table.assign(np.where(np.arange(table.shape[0])[:, None] == VOCABULARY.index("1"), 300.0, 1.0) * table.numpy())
    if not by_row:
        monkeypatch.setattr(to_litert, "_scale_rows", lambda layer, rounded: None)
    predictor = kb.export.load(kb.export.litert(model, tmp_path / "film"))
    difference = np.abs(predictor.logits(TEXTS) - reference_logits(model, TEXTS)).max()
    assert (difference < 0.1) == by_row


def test_litert_needs_no_tensorflow(exported: Path) -> None:
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import kerasbig as kb
print(kb.export.load({str(exported)!r}, "litert").logits(["a fine film"]).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 3)", done.stderr[-500:]


def test_the_fresh_process_cannot_import_kerasbig(
    exported: Path, model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = parity.Expected(SHORT, [[], []], reference_logits(model, SHORT), NAMES)
    # A package of the format's own that leans on KerasBig.
    (tmp_path / "tokenizers.py").write_text("import kerasbig")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(kb.export.ExportError, match=r"It failed: ModuleNotFoundError: import of kerasbig halted; None in sys\.modules"):
        parity.run_checks({"litert": exported}, {"litert": expected}, quantize="dynamic")


@pytest.mark.slow
def test_a_bfloat16_model_is_exported_in_float32(tmp_path: Path, model: keras.Model) -> None:
    half = make_model(dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    twin = kb.export.float32_twin(half)
    assert {layer.dtype_policy.name for layer in twin.layers} <= {"float32", "int32"}
    expected = reference_logits(model, TEXTS)
    np.testing.assert_allclose(reference_logits(twin, TEXTS), expected, atol=1e-6)
    assert half.backbone.dtype_policy.name == "mixed_bfloat16"
    folder = kb.export.litert(half, tmp_path / "film", quantize=None)
    np.testing.assert_allclose(kb.export.load(folder).logits(TEXTS), expected, atol=1e-4)


@pytest.mark.slow
def test_regression(tmp_path: Path) -> None:
    model = make_model(None)
    folder = kb.export.bundle(model, tmp_path / "rating", ("saved_model", "litert"), examples=SHORT)
    expected = reference_logits(model, TEXTS)
    for format, close in (("saved_model", 1e-5), ("litert", 0.1)):
        predictor = kb.export.load(folder, format)
        assert predictor.class_names is None
        np.testing.assert_allclose(predictor.logits(TEXTS), expected, atol=close * max(1.0, np.abs(expected).max()))
    import tensorflow as tf

    values = tf.saved_model.load(str(folder / "1")).signatures["serving_default"](text=tf.constant(TEXTS))
    assert list(values) == ["value"]
    np.testing.assert_allclose(values["value"], expected[:, 0], atol=1e-5)
    assert json.loads((folder / "classes.json").read_text()) is None


def test_predictions() -> None:
    logits = np.float32([[0.0, np.log(3.0)], [1000.0, -1000.0]])
    first, second = kb.export.predictions(logits, ("bad", "good"))
    assert first["label"] == "good"
    assert first["probabilities"] == pytest.approx({"bad": 0.25, "good": 0.75})
    assert second["probabilities"] == {"bad": 1.0, "good": 0.0}
    assert kb.export.predictions(np.float32([[2.5], [-1.0]]), None) == [{"value": 2.5}, {"value": -1.0}]
    with pytest.raises(ValueError, match=r"Expected logits of the shape \(texts, 3\).*Received the shape \(2, 2\)"):
        kb.export.predictions(logits, ("a", "b", "c"))


def test_a_difference_fails_and_leaves_nothing(copy: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before, around = contents(copy), sorted(copy.parent.iterdir())
    wrong = classifier.expect

    def shifted(*arguments: object) -> dict[str, parity.Expected]:
        return {name: replace(right, logits=right.logits + np.float32(1)) for name, right in wrong(*arguments).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(classifier, "expect", shifted)
    with pytest.raises(kb.export.ExportError, match=r"litert to answer as the model does, within .* differ by .*Nothing was written"):
        kb.export.litert(model, copy, examples=SHORT, overwrite=True)
    assert contents(copy) == before
    assert sorted(copy.parent.iterdir()) == around
    with pytest.raises(kb.export.ExportError):
        kb.export.litert(model, copy.parent / "new", examples=SHORT)
    assert sorted(copy.parent.iterdir()) == around


def test_a_file_that_does_not_run_fails(tmp_path: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(twin: keras.Model, folder: Path, quantize: str | None) -> None:
        (folder / "model.tflite").write_bytes(b"TFL3 is not here")
        (folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(classifier, "write_litert", broken)
    with pytest.raises(kb.export.ExportError, match=r"Expected the exported litert to run in a fresh process. It failed: ") as raised:
        kb.export.litert(model, tmp_path / "film", examples=SHORT)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", ["write_saved_model", "write_hdf5", "write_litert"])
def test_a_full_disk_leaves_the_old_bundle(copy: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    original: Callable[..., None] = getattr(classifier, writer)

    def full(*arguments: object) -> None:
        original(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(classifier, writer, full)
    before, around = contents(copy), sorted(copy.parent.iterdir())
    with pytest.raises(OSError, match="No space left"):
        kb.export.bundle(model, copy, (writer.removeprefix("write_"),), overwrite=True, examples=SHORT)
    assert contents(copy) == before
    assert sorted(copy.parent.iterdir()) == around


def test_compare_says_what_differs() -> None:
    expected = parity.Expected(["a", "b"], [[2, 5, 3], [2, 6, 3]], np.float32([[1, 2], [3, 1]]), ("x", "y"))
    good = {"logits": [[1, 2], [3, 1]], "token_ids": [[2, 5, 3], [2, 6, 3]]}
    assert parity.compare("litert", good, expected, 0.1) == {"max_abs_logit_difference": 0.0, "tolerance": 0.1, "examples": 2}
    for change, message in (
        ({"token_ids": [[2, 5, 3], [2, 1, 3]]}, r"others from token 1 on for 'b': \[1, 3\] instead of \[6, 3\]"),
        ({"logits": [[1, 2], [3, 1.5]]}, r"differ by 0\.5 for 'b'"),
        ({"logits": [[1, 2], [3, float("nan")]]}, r"differ by nan for 'b'"),
        ({"logits": [[1, 2]]}, r"Expected the exported litert to return logits \(2, 2\). Received: \(1, 2\)"),
    ):
        with pytest.raises(kb.export.ExportError, match=message):
            parity.compare("litert", good | change, expected, 0.1)
    shares = [[0.268941, 0.731059], [0.880797, 0.119203]]
    answers = {"logits": [[1, 2], [3, 1]], "label": ["y", "x"], "label_id": [1, 0], "probabilities": shares}
    assert parity.compare("saved_model", answers, expected, 0.1)["examples"] == 2
    for change in ({"label": ["x", "x"]}, {"label_id": [0, 0]}, {"probabilities": [[0.5, 0.5], [0.5, 0.5]]}):
        with pytest.raises(kb.export.ExportError, match="serving_default to follow from its logits"):
            parity.compare("saved_model", answers | change, expected, 0.1)


def test_int8_products_may_miss_a_text_but_not_half_of_them() -> None:
    texts, logits = ["a", "b", "c"], np.float32([[1, 2], [3, 1], [0, 4]])
    expected = parity.Expected(texts, [[2, 3]] * 3, logits, ("x", "y"))

    def measured(*apart: float, quantize: str = "int8") -> dict[str, Any]:
        return expected.measured("litert", {"logits": (logits + np.float32(apart)[:, None]).tolist()}, quantize)

    # The largest logit is 4: a tenth of it for the half of the texts, two fifths for each; a fifth where only weights are int8.
    figures = measured(0.1, 1.5, 0.2)
    assert figures["median_abs_logit_difference"] == pytest.approx(0.2)
    assert (figures["median_tolerance"], figures["tolerance"]) == pytest.approx((0.4, 1.6))
    with pytest.raises(kb.export.ExportError, match=r"within 1\.6\. Received: logits that differ by 1\.7 for 'b'"):
        measured(0.1, 1.7, 0.2)
    with pytest.raises(kb.export.ExportError, match=r"half of the texts .*within 0\.4\. Received: .* by 0\.5 for the median of 3 texts"):
        measured(0.1, 0.6, 0.5)
    with pytest.raises(kb.export.ExportError, match=r"within 0\.8\. Received: logits that differ by 1\.5 for 'b'"):
        measured(0.1, 1.5, 0.2, quantize="dynamic")


def test_the_tolerance_grows_with_the_logits_and_never_below_one() -> None:
    assert parity.tolerance_of("litert", "dynamic", np.float32([[0.1]])) == pytest.approx(0.2)
    assert parity.tolerance_of("litert", "dynamic", np.float32([[-4.0]])) == pytest.approx(0.8)
    assert parity.tolerance_of("litert", None, np.float32([[1.0]])) < parity.tolerance_of("litert", "float16", np.float32([[1.0]]))


def test_a_model_with_nan_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.trainable_variables[-1].assign([np.nan] * 3)
    with pytest.raises(kb.export.ExportError, match="Expected the model to return finite logits"):
        kb.export.hdf5(model, tmp_path / "film")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path: Path, model: keras.Model) -> None:
    path = tmp_path / "film"
    cases: list[tuple[dict[str, object], str]] = [
        (
            {"formats": ["saved_modle"]},
            "Expected formats out of saved_model, hdf5, litert, onnx. Received: 'saved_modle'. Did you mean 'saved_model'?",
        ),
        ({"formats": ["pickle"]}, "Expected formats out of saved_model, hdf5, litert, onnx. Received: 'pickle'."),
        ({"formats": []}, "Expected formats to be some of"),
        ({"formats": ["hdf5", "hdf5"]}, "each once"),
        ({"quantize": "dynamik"}, "Expected quantize out of dynamic, int8, float16, None. Received: 'dynamik'. Did you mean 'dynamic'?"),
        ({"quantize": "int8"}, "Expected a model with ranges for quantize='int8'"),
        ({"version": 0}, "Expected version to be a whole number from 1. Received: version=0."),
        ({"version": True}, "Expected version to be a whole number"),
        ({"examples": []}, "Expected examples to have at least one text"),
        ({"examples": "one text"}, "Expected examples to be a list of texts. Received one text"),
        ({"examples": ["a\ud800"]}, "Expected examples to be valid Unicode. Received: a lone surrogate in examples[0] at character 1."),
        ({"metrics": {"accuracy": float("nan")}}, "Expected metrics to be names and finite numbers"),
        ({"metrics": {"accuracy": object()}}, "Expected metrics to be names and finite numbers"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            kb.export.bundle(model, path, **options)  # type: ignore[arg-type]
    assert not path.exists()


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Expected model to be a BertTextClassifier or .*. Received: Sequential"):
        kb.export.hdf5(keras.Sequential(), tmp_path / "film")
    model = make_model()
    model.class_names = ("one", "two")
    with pytest.raises(
        ValueError, match=r"Expected model.class_names to name the model's 3 outputs. Received: class_names=\('one', 'two'\)"
    ):
        kb.export.hdf5(model, tmp_path / "film")
    model.class_names = NAMES
    model.preprocessor = None
    with pytest.raises(TypeError, match="Expected model to have its preprocessor"):
        kb.export.hdf5(model, tmp_path / "film")
    softmax = keras_hub.models.BertTextClassifier(model.backbone, 3, preprocessor=make_model().preprocessor, activation="softmax")
    with pytest.raises(ValueError, match=r"Expected model to return logits.*Received: activation='softmax'"):
        kb.export.float32_twin(softmax)
    assert list(tmp_path.iterdir()) == []


def test_a_file_changed_after_the_export_is_refused(copy: Path) -> None:
    for format, name in (("hdf5", "model.weights.h5"), ("hdf5", "model.json"), ("litert", "tokenizer.json"), ("litert", "model.tflite")):
        file = copy / name
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"Altered or added: \['{name}'\]"):
            kb.export.load(copy, format)
        file.unlink()
        with pytest.raises(FileNotFoundError, match=f"Expected .*{name}"):
            kb.export.load(copy, format)
        file.write_bytes(good)
    (copy / "1" / "assets.extra" / "more").write_text("")
    with pytest.raises(ValueError, match="Altered or added"):
        kb.export.load(copy / "1")
    assert kb.export.load(copy, "saved_model", verify=False).logits(["a"]).shape == (1, 3)


def test_the_import_of_export_is_light() -> None:
    code = "import sys, kerasbig as kb; kb.export.predictions, kb.export.read_manifest; print({'tensorflow', 'keras'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_files_with_holes_in_the_manifest(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    for change, message in (
        ({"files": {"../outside": "00"}}, r"Expected the paths in .* to stay inside the Bundle. Received: '../outside'"),
        ({"files": {"/etc/passwd": "00"}}, "stay inside the Bundle"),
        ({"format_version": 2}, "to have format_version 1. Received: 2"),
        ({"files": {}}, "to list the format's files"),
    ):
        (copy / "manifest.json").write_text(json.dumps(manifest | change), "utf-8")
        with pytest.raises(ValueError, match=message):
            kb.export.load(copy, "hdf5")
    (copy / "manifest.json").write_text('{"formats": ')
    with pytest.raises(ValueError, match="truncated or altered"):
        manifests.read_manifest(copy)


def test_load_says_what_is_missing(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected a Bundle or a file in one"):
        kb.export.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"Expected format out of .* Received: 'lite'\. Did you mean 'litert'\?"):
        kb.export.load(copy, "lite")
    with pytest.raises(FileNotFoundError, match="Expected version 7 of saved_model"):
        kb.export.load(copy, "saved_model", version=7)
    with pytest.raises(ValueError, match=r"Expected model.weights.h5, model.tflite or model.onnx"):
        kb.export.load(copy / "classes.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Expected a Bundle, a folder with manifest.json"):
        kb.export.load(tmp_path / "empty")
    predictor = kb.export.load(copy / "model.tflite")
    with pytest.raises(ValueError, match="Received one text: put it in a list"):
        predictor.logits("a film")
    with pytest.raises(ValueError, match=r"inputs\[1\] is int"):
        predictor.logits(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"lone surrogate in inputs\[0\] at character 1"):
        predictor.logits(["a\ud800"])


def _with_link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.ExternalLink("/etc/hostname", "/")


def _with_soft_link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.SoftLink("/layers")


def _with_loop(file: h5py.File) -> None:
    file["layers"]["again"] = file["layers"]


def _with_bomb(file: h5py.File) -> None:
    file.create_dataset("zeros", shape=(50_000_000,), dtype="float32", compression="gzip", chunks=(1_000_000,))


def _with_objects(file: h5py.File) -> None:
    file["pointer"] = np.array([file["layers"].ref], dtype=h5py.ref_dtype)


def _with_external_values(file: h5py.File) -> None:
    file.create_dataset("other", shape=(4,), dtype="float32", external=[("/etc/hostname", 0, 16)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_link, "a link to elsewhere at '/elsewhere'"),
        (_with_soft_link, "a link to elsewhere at '/elsewhere'"),
        (_with_loop, "at most 64 deep"),
        (_with_bomb, r"to hold the model's .* numbers"),
        (_with_objects, "Expected .* to hold numbers"),
        (_with_external_values, "values in another file"),
    ],
)
def test_hdf5_from_others_is_not_trusted(copy: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(copy / "model.weights.h5", "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        kb.export.load(copy, "hdf5", verify=False)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config", "backbone", "class_name"), "Lambda", "Received: keras_hub.src.models.bert.bert_backbone.Lambda"),
        (("config", "preprocessor", "module"), "os", "Received: os.BertTextClassifierPreprocessor"),
        (("config", "backbone", "config", "num_layers"), 10**9, "Expected a model of at most 2,000,000,000 parameters"),
        (("config", "backbone", "config", "hidden_dim"), "wide", "to have the sizes of a backbone"),
        (("config", "activation"), {"class_name": "function", "module": "builtins", "config": "eval"}, "Received: builtins.function"),
        (("config", "num_classes"), 5, "Keras says"),
        (("class_name",), "Functional", "to be the configuration of a BertTextClassifier"),
    ],
)
def test_model_json_from_others_is_not_trusted(copy: Path, place: tuple[str, ...], value: object, message: str) -> None:
    config = json.loads((copy / "model.json").read_text("utf-8"))
    inner = config
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (copy / "model.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match=message):
        kb.export.load(copy, "hdf5", verify=False)
