"""Sources of images: what is found, how it is split, and each thing that can be wrong with a file or a box."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kerasbig as kb
from kerasbig.data.annotations import Annotated, Drawn, upright_boxes
from kerasbig.data.image_folders import Skipped
from kerasbig.data.images import ORIENTATION_TAG, Header

CLASSIFY, DETECT = "image-classifier", "object-detector"


def save(path: Path, colour: str = "red", size: tuple[int, int] = (20, 10), **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **more)
    return path


def folder_of(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number}.png")
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "pets", {"dog": 12, "cat": 8})


# Folders and tables


def test_a_folder_is_split_by_class(pets: Path) -> None:
    splits = kb.data.load(pets, CLASSIFY, seed=3)
    assert splits.classes == ("cat", "dog")
    assert [np.bincount(part.targets).tolist() for part in (splits.train, splits.validation, splits.test)] == [[5, 9], [1, 1], [2, 2]]
    again = kb.data.load(pets, CLASSIFY, seed=3)
    assert splits.test.inputs.paths == again.test.inputs.paths
    everything = splits.train.inputs.paths + splits.validation.inputs.paths + splits.test.inputs.paths
    assert sorted(everything) == sorted(str(path) for path in pets.rglob("*.png"))
    for path, target in zip(splits.test.inputs, splits.test.targets, strict=True):
        assert Path(path).parent.name == splits.classes[target]
    whole = kb.data.read(pets, CLASSIFY, classes=("dog", "cat"))
    assert (whole.role, whole.rows[:3], whole.targets[:3].tolist()) == ("all", [1, 2, 3], [1, 1, 1])


def test_folders_that_are_split_already(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("val", 1), ("Test", 2)):
        folder_of(tmp_path / name, {"a": count, "b": count})
    splits = kb.data.load(tmp_path, CLASSIFY)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 2, 4]
    assert len(kb.data.read(tmp_path, CLASSIFY)) == 14
    mixed = kb.data.load({"train": tmp_path / "train", "test": tmp_path / "Test"}, CLASSIFY, validation=0.25)
    assert [len(part) for part in (mixed.train, mixed.validation, mixed.test)] == [6, 2, 4]


def test_people_may_be_numbered_and_many(tmp_path: Path) -> None:
    folder_of(tmp_path, {str(number): 3 for number in range(11)})
    assert kb.data.load(tmp_path, "face-classifier").classes == tuple(str(number) for number in range(11))


def test_a_table_of_paths(pets: Path, tmp_path: Path) -> None:
    rows = [f"pets/{name}/{number}.png,{name}" for name in ("cat", "dog") for number in range(4)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file_name,class", *rows]))
    examples = kb.data.read(table, CLASSIFY)
    assert (examples.classes, examples.rows[0], examples.inputs[0]) == (("cat", "dog"), 2, str(pets / "cat/0.png"))
    elsewhere = tmp_path / "other" / "labels.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("\n".join(["picture,what", *rows]))
    moved = kb.data.read(elsewhere, CLASSIFY, image="picture", label="what", images=str(tmp_path))
    assert moved.inputs.paths == examples.inputs.paths


def test_samples_that_come_with_the_packages() -> None:
    digits = kb.data.load("digits", CLASSIFY)
    assert [len(part) for part in (digits.train, digits.validation, digits.test)] == [1258, 180, 359]
    assert (digits.train.inputs.dtype, digits.train.inputs.shape[1:], digits.train.inputs.max()) == (np.uint8, (8, 8, 3), 255)
    assert kb.data.load("digits", CLASSIFY, seed=0).test.rows == digits.test.rows
    scenes = kb.data.load("digit_scenes", DETECT)
    assert [len(part) for part in (scenes.train, scenes.validation, scenes.test)] == [2000, 250, 250]
    boxes = scenes.train.targets
    assert (boxes.boxes[:, :2] >= 0).all()
    assert (boxes.boxes[:, 2:] <= 96).all()
    assert (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all()
    # There is ink in each box, and it is brighter than the ground.
    left, top, right, bottom = boxes.of_image(0)[0][0].astype(int)
    assert scenes.train.inputs[0][top:bottom, left:right].max() > 120


def test_a_sample_for_another_task() -> None:
    with pytest.raises(ValueError, match=r"Expected a sample for the task object-detector: digit_scenes. Received: 'digits'"):
        kb.data.load("digits", DETECT)
    with pytest.raises(ValueError, match=r"Expected a sample for the task image-classifier: digits, .*Received: 'movie_reviews'"):
        kb.data.load("movie_reviews", CLASSIFY)
    with pytest.raises(ValueError, match=r"Expected a sample with files. Received: 'digits'"):
        kb.data.fetch("digits")
    with pytest.raises(ValueError, match="Expected the classes of the sample 'digits'"):
        kb.data.read("digits", CLASSIFY, classes=("a", "b"))


@pytest.mark.slow
def test_fetched_samples() -> None:
    faces = kb.data.load("faces_or_not", CLASSIFY)
    assert (faces.classes, faces.train.inputs.shape[1:]) == (("background", "face"), (25, 25, 3))
    digits = kb.data.read("mnist5k", CLASSIFY)
    assert np.bincount(digits.targets).tolist() == [500] * 10


# What is refused, or skipped and listed


def break_file(root: Path) -> None:
    content = save(root / "cat/0.png", size=(300, 200)).read_bytes()
    (root / "cat/0.png").write_bytes(content[: len(content) // 2])


def rename_file(root: Path) -> None:
    (root / "cat/0.png").write_text("text")


def empty_class(root: Path) -> None:
    (root / "bird").mkdir()
    (root / "bird" / "notes.md").write_text("none yet")


@pytest.mark.parametrize(
    ("harm", "message", "left"),
    [
        (break_file, r"Received: .*cat/0\.png, which is truncated or damaged", 19),
        (rename_file, r"Received: .*cat/0\.png, which is none", 19),
        (empty_class, r"Received: none in .*bird, which holds 1 file \(\.md 1\)", 20),
    ],
)
def test_bad_images_stop_or_are_skipped(harm: Callable[[Path], None], message: str, left: int, pets: Path) -> None:
    harm(pets)
    with pytest.raises(ValueError, match=message):
        kb.data.load(pets, CLASSIFY)
    splits = kb.data.load(pets, CLASSIFY, skip_bad=True)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == left
    assert len(splits.skipped) == 1
    assert Path(splits.skipped[0].split("Received: ")[1].split(",")[0].removeprefix("none in ")).parent.parent in (pets, pets.parent)


def test_one_photo_a_person(pets: Path) -> None:
    folder_of(pets, {"bird": 1})
    with pytest.raises(ValueError, match=r"at least 3 examples of each class.*Received: 1 of class 'bird'"):
        kb.data.load(pets, "face-classifier")
    splits = kb.data.load(pets, "face-classifier", skip_bad=True)
    assert splits.classes == ("cat", "dog")
    assert "Received: 1 of 'bird'" in splits.skipped[0]
    assert np.bincount(np.concatenate([part.targets for part in (splits.train, splits.validation, splits.test)])).tolist() == [8, 12]


def test_rows_of_a_table_that_cannot_be_used(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 2})
    table = tmp_path / "t.csv"
    table.write_text("path,label\na/0.png,x\na/9.png,y\na/1.png,y\n")
    with pytest.raises(FileNotFoundError, match=r"a/9\.png', which is not there.*\(row 3 of .*t\.csv\)"):
        kb.data.read(table, CLASSIFY)
    assert len(kb.data.read(table, CLASSIFY, skip_bad=True)) == 2
    table.write_text("path,label\n ,x\n")
    with pytest.raises(ValueError, match=r"Expected a path in each row of column 'path'. Received: ' ' in row 2"):
        kb.data.read(table, CLASSIFY)
    table.write_text("path,text\na/0.png,x\n")
    with pytest.raises(ValueError, match="Expected a label column named label, class, person"):
        kb.data.read(table, CLASSIFY)
    with pytest.raises(ValueError, match="Expected two columns, one of paths and one of labels"):
        kb.data.read(table, CLASSIFY, image="path", label="path")


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"without sub-folders; it holds nothing"):
        kb.data.load(tmp_path, CLASSIFY)
    folder_of(tmp_path, {"a": 3})
    with pytest.raises(ValueError, match=r"Expected at least two classes in .*Received: one, 'a'"):
        kb.data.load(tmp_path, CLASSIFY)
    with pytest.raises(FileNotFoundError, match="which is not there"):
        kb.data.load(tmp_path / "nowhere", CLASSIFY)


def test_options_of_another_task(pets: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected options of task 'image-classifier'. Received: text='a', of another task"):
        kb.data.load(pets, CLASSIFY, text="a")
    with pytest.raises(ValueError, match=r"options of task 'object-detector'. Received: label='a'"):
        kb.data.load(pets, DETECT, label="a")
    with pytest.raises(ValueError, match=r"options of task 'text-classifier'. Received: skip_bad=True"):
        kb.data.load(pets, skip_bad=True)


# COCO


def coco(folder: Path) -> dict[str, Any]:
    """Three images, two of them with boxes."""
    for number in range(1, 4):
        save(folder / "images" / f"{number}.png")
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": 10, "width": 20} for number in range(1, 4)],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 3, "bbox": [2, 1, 5, 4]},
            {"id": 8, "image_id": 1, "category_id": 5, "bbox": [0, 0, 20, 10], "iscrowd": 1},
            {"id": 9, "image_id": 3, "category_id": 5, "bbox": [10.5, 2, 9.5, 8]},
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write(content: Any, folder: Path) -> Path:
    path = folder / "annotations" / "instances.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_coco(tmp_path: Path) -> None:
    path = write(coco(tmp_path), tmp_path)
    for source in (path, tmp_path):
        examples = kb.data.read(source, DETECT)
        assert examples.classes == ("cat", "dog")  # in the order of their ids
        assert examples.inputs.paths == [str(tmp_path / "images" / f"{number}.png") for number in (1, 2, 3)]
        boxes, classes, ignored = examples.targets.of_image(0)
        assert (boxes.tolist(), classes.tolist(), ignored.tolist()) == ([[2, 1, 7, 5], [0, 0, 20, 10]], [0, 1], [False, True])
        assert examples.targets.counts.tolist() == [2, 0, 1]
    assert kb.data.read(path, DETECT, images=str(tmp_path / "images")).inputs.paths == examples.inputs.paths


Change = Callable[[dict[str, Any]], None]
BAD_COCO: dict[str, tuple[Change, str]] = {
    "outside": (lambda c: c["annotations"][0].update(bbox=[12, 1, 12, 4]), r"inside its image of 20 x 10. Received: \[12, .* annotation 7"),
    "inverted": (lambda c: c["annotations"][0].update(bbox=[9, 1, -5, 4]), r"left < right .*annotation 7 .*inverted"),
    "empty": (lambda c: c["annotations"][0].update(bbox=[9, 1, 0, 4]), "with an area. Received: .*annotation 7 .*empty"),
    "not finite": (lambda c: c["annotations"][0].update(bbox=[9, float("nan"), 1, 4]), "four finite numbers.*annotation 7"),
    "no box": (lambda c: c["annotations"][0].update(bbox=[9, 1]), r"bbox to be \[left, top, width, height\] in annotation 7"),
    "a missing file": (lambda c: c["images"][1].update(file_name="9.png"), r"9\.png', which is not there.*image 2 \(9\.png\)"),
    "an image twice": (lambda c: c["images"].append(dict(c["images"][0])), "image to have an id of its own. Received: the id 1 twice"),
    "a file twice": (lambda c: c["images"].append({"id": 4, "file_name": "1.png"}), r"one entry an image. .*1\.png again in image 4"),
    "an annotation twice": (lambda c: c["annotations"].append(dict(c["annotations"][0])), "annotation to have an id .*id 7 twice"),
    "no such image": (lambda c: c["annotations"][0].update(image_id=77), "the image 77 of annotation 7"),
    "no such category": (lambda c: c["annotations"][0].update(category_id=77), "the category 77 of annotation 7"),
    "an unused category": (lambda c: c["categories"].append({"id": 1, "name": "bird"}), "category to have a box. .*'bird' without one"),
    "another size": (lambda c: c["images"][0].update(height=11), r"image 1 \(1\.png\) .* to be 20 x 11 .*which is 20 x 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_COCO)
def test_bad_coco_stops_or_is_skipped(name: str, tmp_path: Path) -> None:
    content = coco(tmp_path)
    change, message = BAD_COCO[name]
    change(content)
    path = write(content, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kb.data.read(path, DETECT)
    if name in ("outside", "inverted", "empty", "not finite", "no box", "no such image", "no such category", "another size"):
        # The category of the only box that is left out is then not used either.
        content["annotations"].append({"id": 10, "image_id": 2, "category_id": 3, "bbox": [0, 0, 5, 5]})
        write(content, tmp_path)
    examples = kb.data.read(path, DETECT, skip_bad=True)
    assert len(examples.skipped) == 1
    assert examples.classes == ("cat", "dog")


def test_coco_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lists of images, annotations, categories. Received: .* without annotations, categories"):
        kb.data.read(write({"images": []}, tmp_path), DETECT)
    path = write([], tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="which is no JSON"):
        kb.data.read(path, DETECT)
    with pytest.raises(ValueError, match=r"Expected a COCO file \(\.json\) or a folder"):
        kb.data.read(save(tmp_path / "a.png"), DETECT)
    with pytest.raises(ValueError, match=r"which holds 0 \.json files"):
        (tmp_path / "nothing").mkdir()
        kb.data.read(tmp_path / "nothing", DETECT)


def test_classes_of_a_trained_detector(tmp_path: Path) -> None:
    path = write(coco(tmp_path), tmp_path)
    assert kb.data.read(path, DETECT, classes=("dog", "cat", "bird")).targets.classes.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"known from training: 'dog'. Received: 'cat' on .*1\.png"):
        kb.data.read(path, DETECT, classes=("dog",))


def test_detection_is_split_by_the_rarest_class(tmp_path: Path) -> None:
    content = coco(tmp_path)
    content |= {"images": [], "annotations": []}
    for number in range(20):
        save(tmp_path / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png"})
        for category in (5, 3) if number < 5 else (5,):
            box = {"id": len(content["annotations"]), "image_id": number, "category_id": category, "bbox": [0, 0, 5, 5]}
            content["annotations"].append(box)
    splits = kb.data.load(write(content, tmp_path), DETECT, validation=0.2, test=0.2)
    counts = [np.bincount(part.targets.classes, minlength=2).tolist() for part in (splits.train, splits.validation, splits.test)]
    assert counts == [[3, 12], [1, 4], [1, 4]]


# Pascal VOC


def voc(folder: Path, name: str, *boxes: str, size: str = "<size><width>20</width><height>10</height></size>") -> None:
    save(folder / "JPEGImages" / f"{name}.png")
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation><filename>{name}.jpg</filename>{size}{''.join(boxes)}</annotation>")


def thing(label: str, left: Any, top: Any, right: Any, bottom: Any, more: str = "") -> str:
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{label}</name>{more}<bndbox>{box}</bndbox></object>"


def test_voc(tmp_path: Path) -> None:
    voc(tmp_path, "a", thing("dog", 3, 2, 7, 5), thing("cat", 1, 1, 20, 10, "<difficult>1</difficult>"))
    voc(tmp_path, "b")
    voc(tmp_path, "c", thing("dog", 1, 1, 4, 4), size="")
    examples = kb.data.read(tmp_path, DETECT)
    boxes, classes, ignored = examples.targets.of_image(0)
    # VOC's first pixel is 1 and its last one belongs to the box.
    assert (boxes.tolist(), classes.tolist(), ignored.tolist()) == ([[2, 1, 7, 5], [0, 0, 20, 10]], [1, 0], [False, True])
    assert (examples.classes, [Path(path).name for path in examples.inputs]) == (("cat", "dog"), ["a.png", "b.png", "c.png"])


def test_voc_has_splits_of_its_own(tmp_path: Path) -> None:
    for name in "abcd":
        voc(tmp_path, name, thing("dog", 1, 1, 4, 4))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, names in (("train", "a\nc\n"), ("val", "b\n"), ("test", "d\n")):
        (lists / f"{name}.txt").write_text(names)
    splits = kb.data.load(tmp_path, DETECT)
    assert [[Path(path).stem for path in part.inputs] for part in (splits.train, splits.validation, splits.test)] == [
        ["a", "c"],
        ["b"],
        ["d"],
    ]
    (lists / "test.txt").write_text("d\nz\n")
    with pytest.raises(FileNotFoundError, match=r"Expected the annotation .*z\.xml, which the split of"):
        kb.data.load(tmp_path, DETECT)


def test_voc_that_is_broken(tmp_path: Path) -> None:
    voc(tmp_path, "a", thing("dog", 1, 1, 4, 4))
    file = tmp_path / "Annotations" / "b.xml"
    for content, message in (
        ("<annotation>", r"b\.xml, which is broken XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares entities"),
        (f"<annotation>{thing('dog', 'x', 1, 4, 4)}</annotation>", r"bndbox of four numbers. Received: 'dog' .* in object 1 of .*b\.xml"),
        ("<annotation><filename>b.jpg</filename></annotation>", r"b\.jpg', which is not there"),
    ):
        file.write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            kb.data.read(tmp_path, DETECT)
        assert len(kb.data.read(tmp_path, DETECT, skip_bad=True).skipped) >= 1
    file.unlink()


def test_boxes_follow_an_image_that_exif_turns(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    save(tmp_path / "a.jpg", size=(20, 10), exif=exif)
    header = Header(20, 10, 6, "jpeg")  # as it is seen: 20 high, 10 wide
    drawn = [Drawn((0, 0, 4, 2), "dog", False, "a box")]

    def found(size: tuple[int, int] | None) -> list[list[float]]:
        return [box.tolist() for _, box in upright_boxes(Annotated(tmp_path / "a.jpg", size, drawn, "a"), header, Skipped(False))]

    assert found((10, 20)) == [[8, 0, 10, 4]]  # drawn on the stored image, which is 10 high and 20 wide
    assert found((20, 10)) == found(None) == [[0, 0, 4, 2]]  # drawn on the image as it is seen
