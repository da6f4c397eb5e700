"""Finding faces on photographs and cutting them out: places, turns and sizes, folders, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage.data
from PIL import Image

from kerasbig.cli.main import main
from kerasbig.data.image_folders import Skipped, read_image_folder
from kerasbig.vision import face_folders
from kerasbig.vision.face_finding import TEMPLATE, FoundFace, align_face, find_faces
from kerasbig.vision.face_folders import cut_faces

# Where eyes, nose and mouth are on scikit-image's photograph of an astronaut, 512 x 512, by eye.
ASTRONAUT = np.array([[204, 101], [245, 102], [224, 126], [202, 139], [245, 140]], "float32")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return skimage.data.astronaut()


def both(photo: np.ndarray) -> np.ndarray:
    """The same face twice, the left one half as large, (256, 480, 3)."""
    small = np.asarray(Image.fromarray(photo[:256, 64:384]).resize((160, 128)))
    return np.concatenate([np.pad(small, ((0, 128), (0, 0), (0, 0))), photo[:256, 64:384]], axis=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where faces wait until all are cut."""
    monkeypatch.setattr(face_folders, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "cut-faces"


@pytest.fixture
def folder(photo: np.ndarray, tmp_path: Path) -> Path:
    """Photographs of two people, one of them with no face on one of hers; names with spaces and other letters."""
    images = {
        "Ada L/1.jpg": photo,
        "Ada L/ü/2.png": photo[:256, 64:384],
        "Ada L/wall.png": np.full((120, 160, 3), 90, "uint8"),
        "Emmy/both.bmp": both(photo),
    }
    for name, pixels in images.items():
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path / "photos"


@pytest.mark.parametrize(("scale", "least_side"), [(0.5, 20), (0.8, 20), (1, 20), (1.5, 20), (2, 20), (1, 31), (2, 47), (3, 80)])
def test_the_face_is_found_at_any_size(photo: np.ndarray, scale: float, least_side: int) -> None:
    side = round(512 * scale)
    found = find_faces([np.asarray(Image.fromarray(photo).resize((side, side)))], least_side=least_side)[0]
    face = max(found, key=lambda each: each.score)
    np.testing.assert_allclose(face.landmarks / scale, ASTRONAUT, atol=5)
    assert face.score > 0.95
    left, top, right, bottom = face.box / scale
    assert left < ASTRONAUT[:, 0].min()
    assert right > ASTRONAUT[:, 0].max()
    assert top < ASTRONAUT[:, 1].min()
    assert bottom > ASTRONAUT[:, 1].max()


def test_faces_come_largest_first_and_again_the_same(photo: np.ndarray) -> None:
    faces = find_faces([both(photo)])[0]
    widths = [float(face.box[2] - face.box[0]) for face in faces]
    assert len(faces) == 2
    assert widths[0] > 1.6 * widths[1]
    assert faces[0].box[0] > 160 > faces[1].box[2]
    for one, other in zip(faces, find_faces([both(photo)])[0], strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)


def test_a_turned_file_is_read_upright(photo: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side, to be turned clockwise
    Image.fromarray(np.rot90(photo)).save(tmp_path / "turned.png", exif=exif)
    (face,) = find_faces([tmp_path / "turned.png"])[0]
    np.testing.assert_allclose(face.landmarks, ASTRONAUT, atol=5)


@pytest.mark.parametrize("angle", [-35, 0, 20, 35])
def test_a_cut_face_stands_upright_in_its_place(photo: np.ndarray, angle: float) -> None:
    turned = np.asarray(Image.fromarray(photo).rotate(angle, Image.Resampling.BICUBIC, expand=True))
    face = max(find_faces([turned])[0], key=lambda each: each.score)
    cut = align_face(turned, face, (224, 224, 3))
    # Found again: the eyes are level, and all five are about where the template has them (no two faces are of one shape).
    (again,) = find_faces([np.pad(cut, ((60, 60), (60, 60), (0, 0)), mode="edge")])[0]
    found = (again.landmarks - 60) / 2
    assert abs(found[1, 1] - found[0, 1]) < 3
    np.testing.assert_allclose(found.mean(axis=0), TEMPLATE.mean(axis=0), atol=4)


@pytest.mark.parametrize("side", [16, 56, 112, 300])
def test_a_face_is_cut_to_the_pixel(side: int) -> None:
    # A picture whose red says where x is and whose green where y is, so that each pixel tells where it came from.
    x, y = np.meshgrid(np.arange(240), np.arange(200))
    picture = np.stack([x, y, np.zeros_like(x)], axis=2).astype("uint8")
    cosine, sine, scale = np.cos(0.3), np.sin(0.3), 0.9
    turn = scale * np.array([[cosine, -sine], [sine, cosine]])
    shift = np.array([70.0, 40.0])
    face = FoundFace(np.zeros(4, "float32"), (TEMPLATE @ turn.T + shift).astype("float32"), 1.0)
    cut = align_face(picture, face, (side, side, 3))
    assert cut.shape == (side, side, 3)
    assert cut.dtype == np.uint8
    middles = (np.arange(side) + 0.5) * 112 / side - 0.5
    places = np.stack(np.meshgrid(middles, middles), axis=-1) @ turn.T + shift  # (side, side, 2)
    np.testing.assert_allclose(cut[..., :2], places, atol=1.5)


def test_what_lies_outside_of_the_photograph_is_black() -> None:
    face = FoundFace(np.zeros(4, "float32"), TEMPLATE - 56, 1.0)
    cut = align_face(np.full((112, 112, 3), 200, "uint8"), face)
    assert (cut[:50, :50] == 0).all()
    assert (cut[60:100, 60:100] == 200).all()


def test_a_folder_of_photographs_becomes_a_folder_of_faces(folder: Path, tmp_path: Path) -> None:
    cut = cut_faces(folder, tmp_path / "faces", image_shape=(64, 64, 3), progress=False)
    files = sorted(str(file.relative_to(tmp_path / "faces")) for file in (tmp_path / "faces").rglob("*.png"))
    assert files == ["Ada L/1.jpg.png", "Ada L/ü/2.png.png", "Emmy/both.bmp.png"]
    assert (cut.written, cut.without, cut.skipped) == (3, (str(folder / "Ada L/wall.png"),), ())
    assert cut.several == (str(folder / "Emmy/both.bmp"),)
    # One face thrice: from the whole photograph, a part of it, and beside a smaller one of itself.
    faces = [np.asarray(Image.open(tmp_path / "faces" / file), "float32") for file in files]
    assert all(face.shape == (64, 64, 3) for face in faces)
    assert all(np.abs(face - faces[0]).mean() < 12 for face in faces)
    table = read_image_folder(tmp_path / "faces", Skipped(False))
    assert table.columns["label"] == ["Ada L", "Ada L", "Emmy"]


def test_files_that_are_no_images_stop_it_or_are_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "Emmy" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        cut_faces(folder, tmp_path / "faces")
    assert not (tmp_path / "faces").exists()
    cut = cut_faces(folder, tmp_path / "faces", skip_bad=True)
    assert cut.written == 3
    assert len(cut.skipped) == 1
    assert "broken.jpg" in cut.skipped[0]


def test_killed_it_goes_on_where_it_was(
    folder: Path, photo: np.ndarray, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cut_faces(folder, tmp_path / "whole", progress=False)
    assert list(cache.iterdir()) == []
    searched: list[int] = []
    finder = face_folders.face_finder

    def dying(least_side: int):
        find = finder(least_side)

        def found(pixels: np.ndarray) -> list[FoundFace]:
            if len(searched) == 3:
                raise KeyboardInterrupt
            searched.append(len(pixels))
            return find(pixels)

        return found

    monkeypatch.setattr(face_folders, "face_finder", dying)
    with pytest.raises(KeyboardInterrupt):
        cut_faces(folder, tmp_path / "faces", progress=False)
    assert not (tmp_path / "faces").exists()
    # One of the three changes, the cut face of another is swept away, and the kill came while a line was written.
    next(file for file in cache.rglob("*.png") if file.name != "1.jpg.png").unlink()
    Image.fromarray(photo[:300]).save(folder / "Ada L" / "1.jpg")
    (record,) = cache.glob("*/found.jsonl")
    with open(record, "a", encoding="utf-8") as file:
        file.write('{"state": "12 3')
    searched.clear()
    cut = cut_faces(folder, tmp_path / "faces", progress=False)
    assert len(searched) == 3
    assert cut == whole
    assert list(cache.iterdir()) == []
    for name in ("Ada L/ü/2.png.png", "Emmy/both.bmp.png"):
        assert (tmp_path / "faces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_command_says_what_it_did(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cut-faces", str(folder), "--to", str(tmp_path / "faces"), "--side", "48"]
    with pytest.raises(SystemExit) as done:
        main(command)
    printed = capsys.readouterr()
    assert done.value.code == 0
    assert f"Faces: {tmp_path / 'faces'}" in printed.out
    assert "wall.png" in printed.err.replace("\n", "")
    with pytest.raises(SystemExit) as done:
        main([*command, "--json"])
    assert done.value.code == 1
    assert "--overwrite" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit) as done:
        main([*command, "--json", "--overwrite"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], len(answer["without"]), len(answer["several"])) == (3, 1, 1)


def test_no_face_on_any_photograph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos" / "Ada").mkdir(parents=True)
    Image.new("RGB", (80, 80)).save(tmp_path / "photos" / "Ada" / "1.png")
    with pytest.raises(ValueError, match=r"Expected a face on a photograph .* Received: 1 without"):
        cut_faces(tmp_path / "photos", tmp_path / "faces")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cut_faces(tmp_path / "nowhere", tmp_path / "faces")


@pytest.mark.parametrize("images", ["a.jpg", np.zeros((8, 8, 3), "uint8"), b"bytes"])
def test_a_single_image_is_refused(images: object) -> None:
    with pytest.raises(ValueError, match="Expected a list of images"):
        find_faces(images)


def test_wrong_arguments_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"least_side of at least 20 .* Received: least_side=12"):
        find_faces([photo], least_side=12)
    with pytest.raises(ValueError, match=r"\(H, W, 3\).* Received: shape \(8, 8\)"):
        find_faces([np.zeros((8, 8), "uint8")])
    face = FoundFace(np.zeros(4, "float32"), TEMPLATE, 1.0)
    for shape in ((112, 96, 3), (112, 112, 1), (112, 112)):
        with pytest.raises(ValueError, match=r"Expected image_shape as \(side, side, 3\)"):
            align_face(photo, face, shape)
        with pytest.raises(ValueError, match=r"Expected image_shape as \(side, side, 3\)"):
            cut_faces("nowhere", "faces", image_shape=shape)


def test_another_backend_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(RuntimeError, match=r"Expected Keras on TensorFlow.*Received: backend='jax'"):
            find_faces([])
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    with pytest.raises(ImportError, match=r"pip install 'kerasbig\[faces\]'"):
        find_faces([])


def test_the_finder_loses_faces_by_its_own_least_size(photo: np.ndarray) -> None:
    """Why a photograph is shrunk instead: if this fails, MTCNN has been mended, and `_FINDS` can go."""
    from mtcnn import MTCNN

    detector = MTCNN(device="CPU:0")
    assert len(detector.detect_faces(photo)) == 1
    # By the processor, it finds nothing, or shrinks the photograph until a convolution refuses it.
    try:
        found = detector.detect_faces(photo, min_face_size=40)
    except ValueError as error:
        found = str(error)
    assert found == [] or "empty output" in found
