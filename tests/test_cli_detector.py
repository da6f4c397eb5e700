"""The command line finds objects: trains, measures, answers, draws, and its page shows boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import framed_scenes
from PIL import Image
from test_cli import call, failure, output

import kerasbig as kb
from kerasbig.cli.explaining import section
from kerasbig.data.drawing import draw_boxes
from kerasbig.tasks import TASKS

pytestmark = pytest.mark.slow

NAMES = ("rouge", "зелёный")


def write_coco(folder: Path, count: int) -> Path:
    """Writes scenes of 64 x 48 pixels with their COCO file."""
    images, boxes = framed_scenes(count)
    folder.mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]}
    for i, image in enumerate(images):
        wide = np.repeat(np.pad(image, ((8, 8), (0, 0), (0, 0)), constant_values=60), 2, axis=1)
        Image.fromarray(wide).save(folder / f"{i}.png")
        coco["images"].append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        for (left, top, right, bottom), number, _ in zip(*boxes.of_image(i), strict=True):
            box = [float(side) for side in (2 * left, top + 8, 2 * (right - left), bottom - top)]
            coco["annotations"].append({
                "id": len(coco["annotations"]) + 1, "image_id": i, "category_id": int(number) + 1, "bbox": box, "area": box[2] * box[3],
                "iscrowd": 0,
            })  # fmt: skip
    (folder / "boxes.json").write_text(json.dumps(coco), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "scenes", 30)


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "found"
    small = ["--size", "lite-2", "--patch-size", "8", "--no-stem", "--epochs", "2", "--batch-size", "7", "--precision", "float32"]
    assert call("train", "object-detector", "--data", str(scenes), "--out", str(out), "--learning-rate", "3e-3", *small) == 0
    return out


def test_a_run_is_exported_and_answers_the_same(run, scenes, tmp_path, capsys):
    found = output(capsys, "export", str(run), "--to", str(tmp_path / "found"), "--format", "saved_model,hdf5,litert", "--json")
    manifest = found["manifest"]
    assert (manifest["task"], manifest["classes"], manifest["resize"]) == ("object-detector", list(NAMES), "pad")
    assert list(manifest["formats"]) == ["saved_model", "hdf5", "litert"]
    paths = [str(scenes / "0.png"), str(scenes / "1.png")]
    expected = output(capsys, "predict", str(run), *paths, "--json")["predictions"]
    assert kb.export.load(tmp_path / "found").predict(paths) == expected
    page = tmp_path / "page.html"
    compared = output(capsys, "report", str(run), str(tmp_path / "found"), "--out", str(page), "--json")
    assert [row["format"] for row in compared["rows"]] == ["keras", "saved_model", "hdf5", "litert"]
    reference = compared["rows"][0]["map"]
    assert [row["map"] for row in compared["rows"]] == pytest.approx([reference] * 4, abs=0.01)
    assert compared["recommendation"].startswith("Deploy 'found")
    assert "map by size" in page.read_text(encoding="utf-8")


def test_a_run_holds_the_figures_of_coco_and_a_page_with_pictures(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["test"]) == {"map", "ap50", "ap75"}
    history = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    assert "val_map" in history[0]
    assert len(history) == 3
    page = (run / "report.html").read_text(encoding="utf-8")
    for heading in ("Found", "Precision and recall", "Worst errors", "Data and speed"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/jpeg;base64,") >= 6
    assert NAMES[1] in page
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["options"]["resize"], config["options"]["dropout"]) == ("pad", 0.0)


def test_the_model_has_the_shape_of_the_photographs(run):
    from kerasbig.run import open_run

    model = open_run(run).load_model()
    assert model.image_shape == (48, 64, 3)
    assert model.class_names == NAMES


def test_evaluate_gives_what_training_measured(run, capsys):
    measured = output(capsys, "evaluate", str(run), "--json")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert {name: measured[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)
    assert measured["examples"] > 0


def test_predict_answers_and_draws(run, scenes, tmp_path, capsys, monkeypatch):
    import kerasbig.vision

    # Two epochs find little: what scores anything is shown.
    whole = kerasbig.vision.detect
    monkeypatch.setattr(kerasbig.vision, "detect", lambda model, images: whole(model, images, score_threshold=0.0, max_detections=3))
    paths = [str(scenes / "0.png"), str(scenes / "1.png")]
    drawn = tmp_path / "drawn.png"
    answers = output(capsys, "predict", str(run), *paths, "--draw", str(drawn), "--json")["predictions"]
    assert [len(answer["boxes"]) for answer in answers] == [3, 3]
    for answer in answers:
        assert set(answer) == {"boxes", "labels", "scores"}
        assert set(answer["labels"]) <= set(NAMES)
        assert answer["scores"] == sorted(answer["scores"], reverse=True)
        boxes = np.array(answer["boxes"])
        assert (boxes >= 0).all()
        assert (boxes <= [64, 48, 64, 48]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    for number, path in enumerate(paths, start=1):
        picture = np.asarray(Image.open(tmp_path / f"drawn-{number}.png"))
        assert picture.shape == (48, 64, 3)
        assert (picture != np.asarray(Image.open(path))).any()
    assert call("predict", str(run), paths[0]) == 0
    assert "left, top, right, bottom" in capsys.readouterr().out


def test_explain(run, scenes, tmp_path, capsys, monkeypatch):
    whole, box = kb.vision.detect, kb.explain.box
    monkeypatch.setattr(kb.vision, "detect", lambda model, images: whole(model, images, score_threshold=0.0, max_detections=2))
    monkeypatch.setattr(kb.explain, "box", lambda model, image, number: box(model, image, number, score_threshold=0.0))
    words = ("explain", str(run), str(scenes / "0.png"), "--method", "integrated_gradients", "--out", str(tmp_path / "page.html"))
    result = output(capsys, *words, "--json")
    assert [explanation["label"].split(" at ")[0] in NAMES for explanation in result["explanations"]] == [True, True]
    assert call(*words, "--overwrite") == 0
    assert "strongest places" in capsys.readouterr().out
    code, line = failure(capsys, *words, "--class", "rouge", "--overwrite")
    assert (code, "Expected images alone for an object detector" in line) == (2, True)
    with pytest.raises(ValueError, match=r"Received: object-detector\. Use kerasbig explain RUN PHOTO\."):
        section(None, TASKS["object-detector"], [], 2, 0)


def test_errors(run, tmp_path, capsys):
    code, line = failure(capsys, "predict", str(run), str(tmp_path / "nothing.png"))
    assert code == 1
    assert "Expected an image file" in line
    code, line = failure(capsys, "train", "object-detector", "--data", "digit_scenes", "--label", "x", "--out", str(tmp_path / "b"))
    assert "Expected options of object-detector. Received: label" in line
    code, line = failure(capsys, "train", "object-detector", "--data", "digits", "--out", str(tmp_path / "b"))
    assert code == 1


def test_drawing_outlines_the_box():
    picture = np.asarray(draw_boxes(np.zeros((20, 30, 3), "uint8"), np.array([[4, 5, 12, 15]]), ["#ff0000"]))
    red = picture[..., 0] == 255
    assert red[5, 4:13].all()
    assert red[15, 4:13].all()
    assert red[5:16, 4].all()
    assert red[5:16, 12].all()
    assert red.sum() == 2 * 9 + 2 * 11 - 4
    labelled = np.asarray(draw_boxes(np.zeros((80, 90, 3), "uint8"), np.array([[4, 5, 50, 60], [0, 0, 0, 0]]), ["#ff0000"] * 2, ["a", "b"]))
    assert (labelled[..., 0] == 255).sum() > 200


def test_a_run_is_compressed_and_exported_in_int8(run, tmp_path, capsys):
    small = tmp_path / "small"
    assert call("compress", str(run), "--prune", "0.5", "--qat", "--epochs", "1", "--out", str(small)) == 0
    from kerasbig.run import open_run

    rows = open_run(small).config["layers"]
    assert all(abs(row["sparsity"] - 0.5) < 0.02 for row in rows if row["kind"] in ("Dense", "EinsumDense"))
    # A detector goes on learning from its boxes: they weigh as much as the Run's answers.
    for row in open_run(small).history:
        assert row["total_loss"] == pytest.approx(0.5 * row["student_loss"] + 0.5 * row["distillation_loss"], rel=1e-4)
    capsys.readouterr()
    found = output(capsys, "export", str(small), "--to", str(tmp_path / "found"), "--format", "litert", "--quantize", "int8", "--json")
    assert found["manifest"]["formats"]["litert"]["quantize"] == "int8"
