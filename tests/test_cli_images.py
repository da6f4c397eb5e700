"""An image classifier by commands: train on a folder, evaluate, predict a path, read the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import picture_examples
from PIL import Image
from test_cli import call, failure, output

import kerasbig as kb
from kerasbig.cli import fitting
from kerasbig.run import open_run

TINY = ["--size", "lite-2", "--patch-size", "4", "--epochs", "2", "--precision", "float32", "--learning-rate", "0.003"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    examples = picture_examples(48)
    for number, (image, target) in enumerate(zip(examples.inputs, examples.targets, strict=True)):
        path = root / examples.classes[target] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (root / "left" / "broken.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    assert call("train", "image-classifier", "--data", str(photos), "--skip-bad", "--out", str(out), *TINY) == 0
    return out


def test_a_run_holds_all_that_was_chosen(run: Path) -> None:
    opened = open_run(run)
    options = opened.options
    assert (options["size"], options["stem"], options["drop_path"], options["augment"], options["batch_size"]) == (
        "lite-2",
        True,
        0.1,
        "light",
        64,
    )
    assert (opened.config["padding"]["height"], opened.config["padding"]["resize"]) == (8, "stretch")
    assert opened.config["data"]["examples"] == {"train": 33, "validation": 5, "test": 10}
    assert opened.metrics["test"].keys() == {"loss", "accuracy", "f1_macro"}


def test_the_report_shows_images_labels_and_what_was_skipped(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    gallery = page[page.index("<h2>Examples</h2>") : page.index("<h2>Confusion</h2>")]
    assert gallery.count('<img src="data:image/png;base64,') == 10
    assert "broken.png, which is none" in page[page.index("<h2>Left out of the data</h2>") :]
    assert "8 x 8 pixels (stretch)" in page


def test_evaluate_and_predict(run: Path, photos: Path, capsys: Any) -> None:
    evaluated = output(capsys, "evaluate", str(run), "--json")
    assert (evaluated["examples"], evaluated["split"]) == (10, "test")
    assert evaluated["accuracy"] == pytest.approx(open_run(run).metrics["test"]["accuracy"])
    paths = [str(photos / "left" / "0.png"), str(photos / "right" / "1.png")]
    answers = output(capsys, "predict", str(run), *paths, "--json")["predictions"]
    assert len(answers) == 2
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    assert answers[0]["label"] in ("left", "right")
    assert call("predict", str(run), *paths) == 0
    assert "probability" in capsys.readouterr().out
    assert "nothing.png', which is not there" in failure(capsys, "predict", str(run), "nothing.png")[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lime", "shap", "integrated_gradients", "attention"])
def test_explain(run: Path, photos: Path, tmp_path: Path, capsys: Any, method: str) -> None:
    page, photo = tmp_path / "page.html", str(photos / "left" / "0.png")
    result = output(capsys, "explain", str(run), photo, "--method", method, "--out", str(page), "--json")
    explanation = result["explanations"][0]
    assert (explanation["kind"], explanation["method"], explanation["image_shape"]) == ("image", method, [8, 8, 3])
    answer = output(capsys, "predict", str(run), photo, "--json")["predictions"][0]
    assert explanation["scores"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert page.read_text(encoding="utf-8").count('src="data:image/png;base64,') >= 2
    assert call("explain", str(run), photo, "--method", method, "--out", str(page), "--overwrite") == 0
    assert "strongest places (x, y in % of the picture)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_explain_examples_of_the_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    words = ("--examples", "3", "--method", "integrated_gradients", "--out", str(tmp_path / "page.html"), "--json")
    result = output(capsys, "explain", str(run), *words)
    assert len(result["explanations"]) == 3
    assert "Received: 'nothing.png'" in failure(capsys, "explain", str(run), "nothing.png", "--out", str(tmp_path / "other.html"))[1]


@pytest.mark.slow
def test_a_run_is_exported_and_answers_the_same(run: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    formats = ["saved_model", "hdf5", "litert"]
    manifest = output(capsys, "export", str(run), "--to", str(tmp_path / "pets"), "--format", ",".join(formats), "--json")["manifest"]
    assert (manifest["task"], manifest["classes"], manifest["image_shape"]) == ("image-classifier", ["left", "right"], [8, 8, 3])
    assert manifest["metrics"] == open_run(run).metrics["test"]
    paths = [str(photos / "left" / "0.png"), str(photos / "right" / "1.png")]
    expected = output(capsys, "predict", str(run), *paths, "--json")["predictions"]
    for format in formats:
        answers = kb.export.load(tmp_path / "pets", format).predict(paths)
        for answer, right in zip(answers, expected, strict=True):
            assert answer["label"] == right["label"]
            assert answer["probabilities"] == pytest.approx(right["probabilities"], abs=0.03 if format == "litert" else 1e-5)
    rows = output(capsys, "report", str(run), str(tmp_path / "pets"), "--out", str(tmp_path / "page.html"), "--json")["rows"]
    assert [row["format"] for row in rows] == ["keras", *formats]
    assert [row["accuracy"] for row in rows[:3]] == [open_run(run).metrics["test"]["accuracy"]] * 3
    assert max(row["max_logit_difference"] for row in rows[:3]) < 1e-3


def test_what_is_refused(photos: Path, tmp_path: Path, capsys: Any) -> None:
    def refused(*words: str, task: str = "image-classifier", source: Path = photos) -> str:
        code, line = failure(capsys, "train", task, "--data", str(source), "--out", str(tmp_path / "run"), *words)
        assert code == 1
        assert list(tmp_path.iterdir()) == []
        return line

    assert "broken.png, which is none" in refused()
    assert "Received: separator, of another task" in refused("--separator", "x")
    assert "Received: stem, drop_path, of another task" in refused("--stem", "--drop-path", "0.1", task="text-classifier")
    assert "image_size of at least 2" in refused("--image-size", "1")
    assert "size to be one of lite-2" in refused("--skip-bad", "--size", "mini")
    assert "augment to be one of none, light" in refused("--skip-bad", "--augment", "heavy", *TINY)


def test_long_trainings_are_compiled_by_xla(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "XLA_STEPS", 2)
    monkeypatch.setattr(fitting, "FUSED_STEPS", 3)
    compiled = []
    monkeypatch.setattr(keras.Model, "fit", lambda model, *_, **__: compiled.append((model.jit_compile, tf.config.optimizer.get_jit())))
    monkeypatch.setattr(fitting, "save", lambda *_, **__: None)
    words = ["train", "image-classifier", "--data", str(photos), "--skip-bad", *TINY]
    bfloat16 = ["--precision", "mixed_bfloat16"]
    for number, more in enumerate((["--epochs", "2"], ["--epochs", "1"], ["--epochs", "3", *bfloat16], ["--epochs", "2", *bfloat16])):
        call(*words, *more, "--out", str(tmp_path / f"{number}"))
    assert compiled == [(True, ""), (False, ""), (False, "autoclustering"), (False, "")]
    assert tf.config.optimizer.get_jit() == ""


def test_between_products_xla_fuses_and_computes_the_same(run_python, tmp_path: Path) -> None:
    code = """
import json, os
from kerasbig.cli.xla import allow_fusing, fused_between_products
os.environ["XLA_FLAGS"] = "--xla_dump_to={folder}"
allow_fusing()
import numpy as np, keras, kerasbig as kb
images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
losses = []
for fused in (False, True):
    keras.utils.set_random_seed(0)
    model = kb.vision.vit_classifier(("a", "b"), size="lite-2", image_shape=(16, 16, 3), patch_size=8)
    model.preprocessor = None
    step = lambda: [float(model.train_on_batch(images, np.array([0, 1, 0, 1]))[0]) for _ in range(3)]
    if not fused:
        losses.append(step())
        print(len(os.listdir("{folder}")) if os.path.exists("{folder}") else 0)
        continue
    with fused_between_products():
        losses.append(step())
print(json.dumps(losses))
"""
    dumps = tmp_path / "xla"
    before, losses = run_python(code.replace("{folder}", str(dumps))).splitlines()
    assert before == "0"
    plain, fused = json.loads(losses)
    assert plain[0] - plain[2] > 1e-3
    np.testing.assert_allclose(fused, plain, rtol=1e-5)
    compiled = [file.read_text(encoding="utf-8") for file in dumps.glob("*before_optimizations.txt")]
    assert sum("erf" in text or "exponential(" in text for text in compiled) >= 2  # activations
    assert not any(" dot(" in text or " convolution(" in text for text in compiled)


@pytest.mark.slow
def test_a_run_is_compressed(run: Path, tmp_path: Path, capsys: Any) -> None:
    pruned = tmp_path / "pruned"
    assert call("compress", str(run), "--prune", "0.5", "--distill-to", "1", "--epochs", "1", "--out", str(pruned)) == 0
    model = open_run(pruned).load_model()
    kernels = [weight.numpy() for weight in model.weights if weight.path.endswith("dense_1/kernel")]
    assert len(kernels) == 1
    assert np.mean(kernels[0] == 0) == pytest.approx(0.5, abs=0.01)
    assert json.loads((pruned / "config.json").read_text())["options"]["compression"]["distill_to"] == "1"


@pytest.mark.slow
def test_a_run_is_trained_for_int8_and_exported(run: Path, tmp_path: Path, capsys: Any) -> None:
    small = tmp_path / "small"
    assert call("compress", str(run), "--cluster", "16", "--qat", "--epochs", "1", "--out", str(small)) == 0
    assert "test_int8" in open_run(small).metrics
    capsys.readouterr()
    found = output(capsys, "export", str(small), "--to", str(tmp_path / "pets"), "--format", "litert", "--quantize", "int8", "--json")
    assert found["manifest"]["formats"]["litert"]["quantize"] == "int8"
