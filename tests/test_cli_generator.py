"""A generator by commands: train, watch its samples, evaluate, let it write on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import review_lines
from test_cli import call, failure, output

import kerasbig as kb
from kerasbig.export import bundles
from kerasbig.run import open_run

pytestmark = pytest.mark.slow

TINY = ["--size", "tiny", "--vocabulary-size", "300", "--sequence-length", "24", "--epochs", "2", "--precision", "float32"]


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> str:
    lines, _ = review_lines(100)
    file = tmp_path_factory.mktemp("data") / "book.txt"
    file.write_text("\n\n".join([*lines, *["这部电影很好 👍🏽"] * 20]), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def arguments(book) -> list[str]:
    return ["train", "text-generator", "--data", book, "--separator", "\n\n", *TINY, "--prompt", "the film", "--prompt", "这部"]


@pytest.fixture(scope="module")
def run(arguments, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "book"
    assert call(*arguments, "--out", str(out)) == 0
    return out


def test_a_run_says_what_was_learnt_and_written(run):
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    assert set(metrics) == {"loss", "perplexity", "bits_per_byte", "accuracy"}
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))
    history = open_run(run).history
    assert history[1]["loss"] < history[0]["loss"]
    config = json.loads((run / "config.json").read_text())["options"]
    assert (config["batch_size"], config["sequence_length"], config["separator"]) == (8, 24, "\n\n")
    page = (run / "report.html").read_text(encoding="utf-8")
    samples = page[page.index("<h2>Samples</h2>") :]
    rows = re.findall(r'<tr><td class="n">(\d)</td><td class="text" dir="auto">(.*?)</td>', samples)
    assert rows == [("1", "the film"), ("1", "这部"), ("2", "the film"), ("2", "这部")]
    assert "bits per byte" in page


def test_evaluate_gives_the_figures_of_the_run(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    result = output(capsys, "evaluate", str(run), "--json")
    assert {name: result[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)
    assert result["examples"] == 24
    assert result["examples_per_second"] > 0


def test_bits_per_byte_by_hand(run, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("a fine film 好", encoding="utf-8")
    result = output(capsys, "evaluate", str(run), "--data", str(tmp_path / "new.txt"), "--json")
    model = open_run(run).load_model()
    tokenizer = model.preprocessor.tokenizer
    ids = [int(token) for token in np.asarray(tokenizer("a fine film 好"))]
    row = np.array([[tokenizer.end_token_id, *ids]])
    logits = np.asarray(model({"token_ids": row, "padding_mask": np.ones_like(row)}), "float64")[0]
    logits -= logits.max(axis=-1, keepdims=True)
    likelihoods = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nats = -sum(likelihoods[place, token] for place, token in enumerate([*ids, tokenizer.end_token_id]))
    assert result["bits_per_byte"] == pytest.approx(nats / np.log(2) / len("a fine film 好".encode()), rel=1e-4)
    assert result["loss"] == pytest.approx(nats / (len(ids) + 1), rel=1e-4)


def test_it_writes_on_as_the_model_does(run, capsys):
    written = output(capsys, "predict", str(run), "the film", "这部", "--max-tokens", "8", "--json")["predictions"]
    model = open_run(run).load_model()
    assert [answer["text"] for answer in written] == kb.text.generate(model, ["the film", "这部"], max_tokens=8)
    assert call("predict", str(run), "the film", "--max-tokens", "8") == 0
    assert capsys.readouterr().out == f"the film{written[0]['text']}\n"


def test_a_seed_gives_the_same_text_twice(run, capsys):
    drawn = ["predict", str(run), "the", "--max-tokens", "12", "--method", "sample", "--json", "--seed"]
    assert output(capsys, *drawn, "3") == output(capsys, *drawn, "3") != output(capsys, *drawn, "4")


def test_a_run_is_exported(run, tmp_path, capsys, monkeypatch):
    # test_export_generator.py runs the fresh processes.
    monkeypatch.setattr(
        bundles, "run_checks", lambda folders, expected, quantize: {name: {"max_abs_nats_per_token": 0.0} for name in folders}
    )
    bundle = tmp_path / "book"
    found = output(capsys, "export", str(run), "--to", str(bundle), "--format", "hdf5", "--json")["manifest"]
    assert (found["task"], list(found["formats"])) == ("text-generator", ["hdf5"])
    assert found["metrics"] == json.loads((run / "metrics.json").read_text())["test"]
    written = kb.text.generate(open_run(run).load_model(), ["the film"], max_tokens=8, compiled=False)
    assert kb.export.load(bundle).generate(["the film"], max_tokens=8) == written
    assert call("export", str(run), "--to", str(bundle), "--format", "hdf5", "--overwrite") == 0
    assert "model.weights.h5" in capsys.readouterr().out
    rows = output(capsys, "report", str(run), str(bundle), "--out", str(tmp_path / "page.html"), "--json")["rows"]
    assert [row["format"] for row in rows] == ["keras", "hdf5"]
    assert rows[0]["bits_per_byte"] == pytest.approx(rows[1]["bits_per_byte"], abs=1e-5)
    assert 1 < rows[0]["bits_per_byte"] < 9
    code, line = failure(capsys, "export", str(run), "--to", str(tmp_path / "int8"), "--quantize", "int8")
    assert (code, "Expected quantize out of dynamic, float16, None for a text-generator" in line) == (1, True)


def test_the_same_seed_gives_the_same_run(run, arguments, tmp_path):
    assert call(*arguments, "--out", str(tmp_path / "again")) == 0
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == json.loads((run / "metrics.json").read_text())
    for one, other in zip(open_run(run).load_model().get_weights(), open_run(tmp_path / "again").load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_lora_trains_little_and_leaves_a_plain_model(run, arguments, tmp_path, capsys):
    start = [word for word in arguments if word not in ("--size", "tiny", "--vocabulary-size", "300")]
    fine = output(capsys, *start, "--preset", str(run / "preset"), "--lora-rank", "2", "--out", str(tmp_path / "fine"), "--json")
    assert fine["metrics"]["test"]["loss"] < json.loads((run / "metrics.json").read_text())["test"]["loss"]
    before, after = open_run(run).load_model(), open_run(tmp_path / "fine").load_model()
    changed = {
        own.path.rpartition("/")[0].rpartition("/")[2]
        for own, other in zip(before.weights, after.weights, strict=True)
        if not np.array_equal(own.numpy(), other.numpy())
    }
    assert changed == {"query", "value"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "stars"], "Expected options of text-generator. Received: label, of another task"),
        (["--lora-rank", "0"], "Expected lora_rank of at least 1. Received: lora_rank=0"),
        (["--size", "huge"], "Expected size to be one of"),
    ],
)
def test_options_that_do_not_fit(arguments, options, message, tmp_path, capsys):
    code, line = failure(capsys, *arguments, "--out", str(tmp_path / "run"), *options)
    assert code == 1
    assert message in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run.training").exists()


def test_a_generators_options_are_no_classifiers(book, tmp_path, capsys):
    code, line = failure(capsys, "train", "text-classifier", "--data", book, "--separator", "x", "--out", str(tmp_path / "run"))
    assert (code, "Received: separator, of another task" in line) == (1, True)
