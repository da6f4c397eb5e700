"""kerasbig explain, and explanations in the pages of train and report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import PLANTED, WORDS, planted_bert, planted_texts
from test_cli import TINY, call, failure, output, write_csv

import kerasbig as kb
from kerasbig.cli.explain import METHOD_NAMES
from kerasbig.run import save_run


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    random = np.random.default_rng(0)
    plain = [" ".join(random.choice(WORDS, 6)) for _ in range(40)]
    rows = [(text, "yes") for text in planted_texts(40)] + [(text, "no") for text in plain]
    return write_csv(tmp_path_factory.mktemp("data") / "planted.csv", rows)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "planted"
    options = {"data": data, "text": "text", "label": "label", "encoding": "utf-8", "validation": 0.1, "test": 0.2, "seed": 0}
    save_run(folder, planted_bert(), options=options, metrics={"test": {"accuracy": 1.0}}, history=[])
    return str(folder)


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("bundles") / "planted")
    return str(kb.export.litert(planted_bert(), folder))


TEXT = f"kabar {PLANTED} lobar"


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_explain_writes_a_page(run, tmp_path, capsys, method):
    page = tmp_path / "page.html"
    result = output(capsys, "explain", run, TEXT, f"{TEXT} midus", "--method", method, "--out", str(page), "--json")
    assert (result["page"], len(result["explanations"])) == (str(page), 2)
    first = result["explanations"][0]
    assert (first["method"], first["label"]) == (method, "yes")
    strongest = max(zip(first["tokens"], *list(first["attributions"].values())[:1], strict=True), key=lambda pair: abs(pair[1]))
    assert strongest[0] == PLANTED
    html = page.read_text(encoding="utf-8")
    assert "Why planted answers so" in html
    assert html.count(f">{PLANTED}</span>") >= 2


def test_explain_a_bundle_and_a_class(bundle, tmp_path, capsys, monkeypatch):
    page = str(tmp_path / "page.html")
    monkeypatch.setattr("sys.stdin", iter([TEXT + "\n"]))
    result = output(capsys, "explain", bundle, "-", "--method", "shap", "--class", "no", "--seed", "3", "--out", page, "--json")
    assert list(result["explanations"][0]["attributions"]) == ["no"]
    assert result["explanations"][0]["seed"] == 3
    code, line = failure(capsys, "explain", bundle, TEXT, "--out", page)
    assert (code, "--overwrite" in line) == (1, True)
    assert call("explain", bundle, TEXT, "--format", "litert", "--out", page, "--overwrite") == 0
    assert PLANTED in capsys.readouterr().out


def test_examples_show_words_and_faithfulness(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    result = output(capsys, "explain", run, "--examples", "6", "--method", "shap", "--out", str(page), "--json")
    assert len(result["explanations"]) == 6
    html = page.read_text(encoding="utf-8")
    assert "What matters most, by class" in html
    assert "Faithfulness of shap" in html
    assert "random order" in html


@pytest.mark.slow
def test_train_can_explain(data, tmp_path):
    folder = tmp_path / "run"
    assert call("train", "text-classifier", "--data", data, "--out", str(folder), *TINY, "--explain", "3") == 0
    assert "Why it answers so" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "config.json").read_text())["options"]["explain"] == 3


@pytest.mark.slow
def test_report_can_explain(run, tmp_path):
    page = tmp_path / "comparison.html"
    assert call("report", run, "--explain", "3", "--out", str(page)) == 0
    assert "What matters most, by class" in page.read_text(encoding="utf-8")


USAGE = [
    (("RUN", TEXT, "--method", "limes"), "integrated_gradients, attention. Received: 'limes'. Did you mean 'lime'?"),
    (("RUN",), "Expected an INPUT, or --examples of at least 1. Received: neither."),
    (("RUN", TEXT, "--data", "a.csv"), "Expected --data with --examples"),
    (("RUN", TEXT, "--format", "litert"), "Expected --format for a Bundle only"),
    (("BUNDLE", "--examples", "3"), "a Bundle. Give INPUTs."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[message[:30] for _, message in USAGE])
def test_wrong_usage(run, bundle, capsys, tmp_path, arguments, message):
    words = [{"RUN": run, "BUNDLE": bundle}.get(word, word) for word in arguments]
    code, line = failure(capsys, "explain", *words, "--out", str(tmp_path / "page.html"))
    assert (code, message in line) == (2, True), line


def test_bad_input_exits_with_1(run, bundle, capsys, tmp_path):
    page = str(tmp_path / "page.html")
    for arguments, message in (
        ((run, " "), "Expected a text with at least one word"),
        ((run, "kabar"), "These fit one word: integrated_gradients, attention."),
        ((run, " ".join(WORDS * 2)), "--truncate"),
        ((run, TEXT, "--class", "yess"), "Did you mean 'yes'?"),
        ((run, TEXT, "--class", "yes", "--method", "attention"), "These know classes: lime, shap, integrated_gradients."),
        ((bundle, TEXT, "--method", "attention"), "These fit: lime, shap."),
        ((str(tmp_path / "nothing"), TEXT), "there is none"),
    ):
        code, line = failure(capsys, "explain", *arguments, "--out", page)
        assert (code, message in line) == (1, True), line
    assert not list(tmp_path.iterdir())


def test_a_generator_has_no_method(tmp_path, capsys):
    model = kb.text.gpt_generator(size="tiny", vocabulary=kb.text.learn_bpe(["a film, a film"], 300), sequence_length=16)
    folder = str(tmp_path / "generator")
    save_run(folder, model, options={}, metrics={}, history=[], task="text-generator")
    code, line = failure(capsys, "explain", folder, "a film", "--out", str(tmp_path / "page.html"))
    assert (code, line.endswith("a text-generator. It has no probabilities of classes: no method fits it.")) == (1, True), line
    code, line = failure(capsys, "train", "text-generator", "--data", "a.txt", "--out", str(tmp_path / "b"), "--explain", "3")
    assert (code, "Expected options of text-generator. Received: explain" in line) == (1, True), line


def test_method_names_of_the_command_line_are_the_package_s():
    from kerasbig.explain.subjects import METHOD_NAMES as SUBJECTS
    from kerasbig.tasks import TASKS

    assert tuple(kb.explain.METHODS) == METHOD_NAMES == SUBJECTS
    assert all(set(task.explainers) <= set(METHOD_NAMES) for task in TASKS.values())
