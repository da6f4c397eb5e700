"""`kerasbig compress`: its steps, what they leave in the Run, and that a killed one goes on."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import review_lines
from test_cli import TINY, call, failure, output, write_csv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    lines, targets = review_lines(120)
    data = write_csv(folder / "reviews.csv", [(line, ("bad", "good")[target]) for line, target in zip(lines, targets, strict=True)])
    assert call("train", "text-classifier", "--data", data, "--out", str(folder / "a"), *TINY) == 0
    return folder / "a"


def layers(folder: Path) -> list[dict]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["layers"]


def test_prune_leaves_embeddings_alone_and_learns_from_the_run(run, tmp_path, capsys):
    result = output(capsys, "compress", str(run), "--prune", "0.5", "--out", str(tmp_path / "pruned"), "--json")
    assert set(result["metrics"]) == {"validation", "test"}
    rows = layers(tmp_path / "pruned")
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.01) for row in rows if row["kind"] in ("Dense", "EinsumDense"))
    assert all(row["sparsity"] < 0.01 for row in rows if row["kind"] in ("ReversibleEmbedding", "Embedding"))
    with (tmp_path / "pruned" / "history.csv").open(encoding="utf-8") as file:
        epochs = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(epochs) == 3
    # The Run's answers weigh nine times as much as the labels.
    for row in epochs:
        assert row["total_loss"] == pytest.approx(0.1 * row["student_loss"] + 0.9 * row["distillation_loss"], rel=1e-4)


def test_every_step_in_one_command(run, tmp_path, capsys):
    out = tmp_path / "small"
    words = ["--distill-to", "1", "--prune", "0.5", "--cluster", "8", "--qat", "--embeddings", "--epochs", "1"]
    result = output(capsys, "compress", str(run), *words, "--out", str(out), "--json")
    assert set(result["metrics"]) == {"validation", "test", "test_int8"}
    rows = [row for row in layers(out) if row["bits"] is not None]
    assert all(row["clusters"] <= 8 for row in rows if np.prod(row["shape"]) > 1024)
    assert all(row["sparsity"] >= 0.49 for row in rows if row["kind"] in ("Dense", "EinsumDense"))
    # One layer: four attention kernels, two of the feed-forward net, the pooler and the logits.
    ranges = json.loads((out / "ranges.json").read_text(encoding="utf-8"))
    assert sum("input" in row for row in ranges) == 8
    exported = output(capsys, "export", str(out), "--to", str(tmp_path / "bundle"), "--quantize", "int8", "--json")
    assert exported["manifest"]["formats"]["litert"]["quantize"] == "int8"
    again = output(capsys, "evaluate", str(out), "--json")
    assert again["accuracy"] == pytest.approx(result["metrics"]["test"]["accuracy"])


def test_static_int8_of_a_plain_run(run, tmp_path, capsys):
    words = ["--to", str(tmp_path / "bundle"), "--format", "litert", "--quantize", "int8", "--json"]
    assert output(capsys, "export", str(run), *words)["manifest"]["formats"]["litert"]["parity"]["max_abs_logit_difference"] < 0.1


def test_the_same_command_gives_the_same_run_also_after_a_kill(run, tmp_path):
    words = ["compress", str(run), "--prune", "0.5", "--cluster", "8", "--epochs", "1", "--precision", "float32"]
    assert call(*words, "--out", str(tmp_path / "whole")) == 0
    started = subprocess.Popen([sys.executable, "-m", "kerasbig", *words, "--out", str(tmp_path / "cut")], stderr=subprocess.PIPE)
    first_step = tmp_path / "cut.training" / "step-1.json"
    until = time.monotonic() + 120
    while not first_step.exists() and time.monotonic() < until:
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not (tmp_path / "cut").exists()
    assert call(*words, "--out", str(tmp_path / "cut")) == 0
    assert not (tmp_path / "cut.training").exists()
    for name in ("metrics.json", "history.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    with h5py.File(tmp_path / "cut/preset/model.weights.h5") as cut, h5py.File(tmp_path / "whole/preset/model.weights.h5") as whole:
        pairs: list[tuple] = []
        cut.visititems(lambda name, item: pairs.append((item[()], whole[name][()])) if isinstance(item, h5py.Dataset) else None)
    assert all(np.array_equal(one, other) for one, other in pairs)


USAGE = [
    ((), "Expected something to do: --distill-to, --prune, --cluster or --qat"),
    (("--prune", "1.5"), "Received: '1.5'"),
    (("--prune", "2:x"), "Received: '2:x'"),
    (("--cluster", "1"), "Expected --cluster from 2 to 256. Received: 1"),
    (("--distill-to", "enormous"), "Expected --distill-to to be a number of layers or one of "),
    (("--qat", "--embeddings"), "Expected --cluster beside --embeddings"),
]


@pytest.mark.parametrize(("words", "message"), USAGE, ids=[message for _, message in USAGE])
def test_wrong_usage(words, message, capsys):
    code, line = failure(capsys, "compress", "a", "--out", "b", *words)
    assert (code, message in line) == (2, True), line


def test_a_student_that_is_not_smaller(run, tmp_path, capsys):
    code, line = failure(capsys, "compress", str(run), "--distill-to", "2", "--out", str(tmp_path / "x"))
    assert code == 1
    assert "Expected a student smaller than its teacher's num_layers=2. Received: num_layers=2" in line


def test_sizes_are_those_of_the_builder():
    from kerasbig.cli.compress import SIZES
    from kerasbig.text import SIZES as TEXT_SIZES
    from kerasbig.vision import VIT_SIZES

    assert set(SIZES) == {*TEXT_SIZES, *VIT_SIZES}
