"""The whole way as a user goes it: processes that train and serve, real data, a real kill."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from test_cli import call, output

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WORDS = {
    "正面": ["很好看的电影", "我喜欢这个故事", "精彩极了"],
    "negativ": ["schrecklich langweilig", "ein müder Film", "überhaupt nicht gut"],
    "neutral": ["c'était comme ça", "rien de spécial", "un film moyen"],
}
FILLER = ["film", "电影", "Geschichte", "histoire", "très", "sehr", "今天", "heute"]


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("data") / "drei.csv"
    chosen = random.Random(0)
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("Review", "Sentiment"))
        for name, phrases in WORDS.items():
            for _ in range(100):
                words = [chosen.choice(FILLER) for _ in range(chosen.randint(1, 9))]
                words.insert(chosen.randrange(len(words)), chosen.choice(phrases))
                writer.writerow((" ".join(words), name))
    return str(file)


def test_each_command_on_three_classes_in_three_languages(three_classes, tmp_path, capsys):
    run, pruned, bundle = str(tmp_path / "run"), str(tmp_path / "pruned"), str(tmp_path / "saved_models/drei")
    how = ["--size", "tiny", "--sequence-length", "48", "--epochs", "12"]
    command = ["train", "text-classifier", "--data", three_classes, "--out", run, *how]
    finished = subprocess.run([sys.executable, "-m", "kerasbig", *command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert output(capsys, "evaluate", run, "--data", three_classes, "--json")["accuracy"] > 0.95
    answers = output(capsys, "predict", run, "精彩极了 今天", "ein müder Film heute", "rien de spécial", "--json")["predictions"]
    assert [answer["label"] for answer in answers] == ["正面", "negativ", "neutral"]
    assert call("compress", run, "--prune", "0.5", "--epochs", "1", "--out", pruned, "--data", three_classes) == 0
    assert output(capsys, "evaluate", pruned, "--json")["accuracy"] > 0.9
    assert call("export", run, "--to", bundle, "--format", "saved_model") == 0
    assert call("report", run, pruned, bundle, "--out", str(tmp_path / "page.html")) == 0
    assert served(bundle, "精彩极了 今天") == pytest.approx(list(answers[0]["probabilities"].values()), abs=1e-5)


def test_quick_demo(tmp_path):
    command = [sys.executable, "-m", "kerasbig", "demo", "--quick", "--out", str(tmp_path / "demo")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]


def served(bundle: str, text: str) -> list[float]:
    """Serves a Bundle with `kerasbig serve`, asks it once and stops it."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        rest_port, grpc_port = one.getsockname()[1], two.getsockname()[1]
    arguments = ["serve", bundle, "--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    server = subprocess.Popen([sys.executable, "-m", "kerasbig", *arguments], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{rest_port}/v1/models/{Path(bundle).name}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.3)
        body = json.dumps({"instances": [text]}).encode()
        answer = json.loads(urllib.request.urlopen(f"{address}:predict", body, timeout=30).read())["predictions"][0]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert answer["label"] == "正面"
    return answer["probabilities"]


def test_kill_9_and_the_same_command_again_give_the_same_metrics(three_classes, tmp_path, capsys):
    words = ["train", "text-classifier", "--data", three_classes, "--size", "tiny", "--epochs", "5", "--precision", "float32", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(*words, str(whole)) == 0
    state = tmp_path / "cut.training" / "resume.npz"
    process = subprocess.Popen([sys.executable, "-m", "kerasbig", *words, str(cut)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (state.exists() and finished_epochs(state) >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not cut.exists()
    capsys.readouterr()
    assert call(*words, str(cut)) == 0
    assert "Going on with the training" in capsys.readouterr().err
    assert json.loads((cut / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    assert (cut / "history.csv").read_text() == (whole / "history.csv").read_text()


def finished_epochs(state: Path) -> int:
    with np.load(state) as content:
        return json.loads(str(content["meta"]))["epoch"]


def test_a_pretrained_model_learns_the_real_reviews(tmp_path, capsys):
    """The file is sorted, and a classifier that saw it in that order ends at chance."""
    import kerasbig as kb

    splits = kb.data.load("movie_reviews", seed=0)
    for role, count in (("train", 1600), ("validation", 40), ("test", 400)):
        part = getattr(splits, role)
        rows = sorted(zip(part.targets, part.inputs, strict=True), key=lambda row: row[0])[:: max(1, len(part) // count)]
        with open(tmp_path / f"{role}.csv", "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            writer.writerows((text, splits.classes[target]) for target, text in rows)
    source = ",".join(f"{role}={tmp_path / f'{role}.csv'}" for role in ("train", "validation", "test"))
    run = str(tmp_path / "run")
    how = ["--preset", "minilm-l6", "--epochs", "1", "--precision", "float32"]
    assert call("train", "text-classifier", "--data", source, "--out", run, *how) == 0
    assert output(capsys, "evaluate", run, "--json")["accuracy"] > 0.72
