"""Faces by commands: train, evaluate on people known and new, identify, verify, enrol, and the report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import drawn_faces
from PIL import Image
from test_cli import call, failure, output

import kerasbig as kb
from kerasbig.run import open_run

pytestmark = pytest.mark.slow

TINY = [
    "--size",
    "lite-2",
    "--image-size",
    "16",
    "--epochs",
    "2",
    "--precision",
    "float32",
    "--learning-rate",
    "0.003",
    "--batch-size",
    "16",
]


def write_photos(root: Path, examples: kb.data.Examples) -> Path:
    for number, (image, target) in enumerate(zip(examples.inputs, examples.targets, strict=True)):
        path = root / examples.classes[target] / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(path)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_photos(tmp_path_factory.mktemp("faces"), drawn_faces(8, 10))
    (root / "alone").mkdir()
    shutil.copy(root / "person 1" / "0.png", root / "alone" / "one.png")
    return root


@pytest.fixture(scope="module")
def new_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = drawn_faces(3, 4, seed=7)
    named = kb.data.Examples(examples.inputs, examples.targets, ("Ada", "Emmy", "Sofia"), examples.rows, "drawn", "all")
    return write_photos(tmp_path_factory.mktemp("new"), named)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "faces"
    words = ["--data", str(photos), "--skip-bad", "--unseen", "0.25", "--out", str(out), *TINY]
    assert call("train", "face-classifier", *words) == 0
    return out


def test_a_run_holds_all_that_was_chosen(run: Path) -> None:
    opened = open_run(run)
    chosen = {name: opened.options[name] for name in ("stem", "augment", "head", "scale", "embedding_dim", "unseen")}
    assert chosen == {"stem": True, "augment": "faces", "head": "arcface", "scale": 16.0, "embedding_dim": 128, "unseen": 0.25}
    assert opened.config["data"]["examples"] == {"train": 42, "validation": 6, "test": 12, "unseen": 20}
    figures = {"auc", "eer", "tar_at_far_1e-2", "far_at_threshold", "tar_at_threshold"}
    assert opened.metrics["test"].keys() == figures | {"loss", "accuracy"}
    assert opened.metrics["unseen"].keys() == figures
    assert opened.metrics["unseen"]["far_at_threshold"] <= 0.01
    # One photograph a person: nothing to compare.
    assert opened.metrics["validation"].keys() == {"loss", "accuracy"}
    assert -1 <= opened.load_model().threshold <= 1


def test_the_report_shows_pairs_and_who_was_skipped(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h2>Pairs of faces</h2>") : page.index("<h2>Confusion</h2>")]
    assert "Of people who were set aside: 90 pairs" in section
    assert section.count('<img src="data:image/png;base64,') == 32
    assert section.count("<svg") == 2
    assert "Different people most alike" in section
    assert "Received: 1 of &#39;alone&#39;" in page
    assert "<h2>Examples</h2>" in page


def test_evaluate_people_known_and_new(run: Path, new_people: Path, photos: Path, capsys: Any, tmp_path: Path) -> None:
    metrics = open_run(run).metrics
    evaluated = output(capsys, "evaluate", str(run), "--json")
    assert (evaluated["examples"], evaluated["split"]) == (12, "test")
    assert {name: evaluated[name] for name in metrics["test"]} == pytest.approx(metrics["test"])
    unseen = output(capsys, "evaluate", str(run), "--split", "unseen", "--json")
    assert {name: unseen[name] for name in metrics["unseen"]} == pytest.approx(metrics["unseen"])
    others = output(capsys, "evaluate", str(run), "--data", str(new_people), "--json")
    assert {"auc", "eer", "tar_at_far_1e-2"} < others.keys()
    assert not {"accuracy", "loss"} & others.keys()
    known = open_run(run).classes[:2]
    for name in known:
        shutil.copytree(photos / name, tmp_path / name)
    assert "accuracy" in output(capsys, "evaluate", str(run), "--data", str(tmp_path), "--json")


def test_predict_verify_and_enrol(run: Path, new_people: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    known = open_run(run).classes
    rows = output(capsys, "report", str(run), str(copy), "--out", str(tmp_path / "page.html"), "--json")["rows"]
    assert [row["accuracy"] for row in rows] == [open_run(run).metrics["test"]["accuracy"]] * 2
    paths = sorted(str(path) for path in (photos / known[0]).iterdir())[:2]
    answers = output(capsys, "predict", str(copy), *paths, "--json")["predictions"]
    assert all(answer.keys() == {"identity", "similarity", "nearest"} and answer["nearest"] in known for answer in answers)
    pair = output(capsys, "predict", str(copy), *paths, "--verify", "--json")["predictions"]
    assert pair[0].keys() == {"similarity", "same", "threshold"}
    # One person alone can be enrolled.
    shutil.copytree(new_people / "Emmy", tmp_path / "one" / "Émilie")
    stranger = str(new_people / "Emmy" / "4.png")
    enrolled = output(capsys, "predict", str(copy), stranger, "--enrol", str(tmp_path / "one"), "--json")
    assert enrolled["enrolled"] == ["Émilie"]
    assert enrolled["predictions"][0]["nearest"] == "Émilie"
    assert (copy / "gallery.npz").is_file()
    assert call("predict", str(copy), stranger) == 0
    assert "Émilie" in capsys.readouterr().out


def test_what_is_refused(run: Path, photos: Path, new_people: Path, tmp_path: Path, capsys: Any) -> None:
    def refused(*words: str) -> str:
        return failure(capsys, *words)[1]

    train = ("train", "face-classifier", "--out", str(tmp_path / "run"), "--data")
    assert "Expected at least 3 examples of each class" in refused(*train, str(photos), *TINY)
    assert "Received: 1 of class 'alone'" in refused(*train, str(photos), *TINY)
    assert "unseen from 0 to below 1" in refused(*train, str(photos), "--unseen", "2")
    assert "head to be one of arcface, cosface" in refused(*train, str(new_people), "--head", "x", *TINY)
    assert "Received: unseen, of another task" in refused("train", "image-classifier", *train[2:], str(photos), "--unseen", "0.2")
    shutil.rmtree(tmp_path / "run.training", ignore_errors=True)
    alone = tmp_path / "alone"
    for name in ("Ada", "Emmy"):
        (alone / name).mkdir(parents=True)
        shutil.copy(next((new_people / name).iterdir()), alone / name)
    assert "one photograph a person only" in refused("evaluate", str(run), "--data", str(alone))
    assert "two photographs to compare. Received: 1" in refused("predict", str(run), "a.png", "--verify")
    assert "none.png', which is not there" in refused("predict", str(run), "none.png")
    assert "nowhere" in refused("predict", str(run), "--enrol", str(tmp_path / "nowhere"))
    assert "Expected an INPUT" in refused("predict", str(run))
