"""What may join an existing Bundle, what may replace what, and what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import pytest
from test_export import NAMES, contents, make_model

import kerasbig as kb
from kerasbig.export import bundles, classifier

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the fresh processes: test_export.py runs them."""
    measured = {"max_abs_logit_difference": 0.0, "tolerance": 0.0, "examples": 1}
    monkeypatch.setattr(bundles, "run_checks", lambda kinds, expected, quantize: {kind: dict(measured) for kind in kinds})

    # What a SavedModel holds is tested in test_export.py; here it need only be told from another.
    def small(model: keras.Model, folder: Path) -> None:
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(model.get_weights()[0].tobytes())
        (folder / "assets.extra" / "classes.json").write_text(json.dumps(model.class_names))

    monkeypatch.setattr(classifier, "write_saved_model", small)
    monkeypatch.setattr(classifier, "expect", lambda *arguments: None)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def other() -> keras.Model:
    return make_model(("x", "y"), seed=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "film"


def formats(path: Path) -> dict[str, object]:
    manifest = kb.export.read_manifest(path)
    on_disk = {file for file in contents(path) if file != "manifest.json" and not file.endswith("notes.txt")}
    assert on_disk == set(manifest["files"])
    return {
        name: entry.get("version", entry["model_fingerprint"] == manifest["model_fingerprint"])
        for name, entry in manifest["formats"].items()
    }


def test_formats_and_versions_of_one_model_join(path: Path, model: keras.Model) -> None:
    assert kb.export.saved_model(model, path, metrics={"accuracy": 0.9}) == path
    first = contents(path / "1")
    kb.export.hdf5(model, path)
    (path / "notes.txt").write_text("mine")
    kb.export.saved_model(model, path, version=3)
    kb.export.saved_model(model, path, version=2)
    assert formats(path) == {"saved_model": 3, "hdf5": True}
    manifest = kb.export.read_manifest(path)
    assert list(manifest["saved_model_versions"]) == ["1", "2", "3"]
    assert manifest["metrics"] == {"accuracy": 0.9}
    assert contents(path / "1") == first
    assert (path / "notes.txt").read_text() == "mine"
    assert [child.name for child in path.parent.iterdir()] == ["film"]


def test_what_exists_is_not_overwritten(path: Path, model: keras.Model, other: keras.Model) -> None:
    kb.export.bundle(model, path, ("saved_model", "hdf5"))
    before = contents(path)
    with pytest.raises(FileExistsError, match=r"to be without hdf5\. Choose another name or version, or pass overwrite"):
        kb.export.hdf5(model, path)
    with pytest.raises(FileExistsError, match="to be without saved_model version 1"):
        kb.export.saved_model(model, path)
    with pytest.raises(FileExistsError, match="to be without hdf5 and saved_model version 1"):
        kb.export.bundle(other, path, ("saved_model", "hdf5"))
    with pytest.raises(FileExistsError, match=r"Expected one model in .*, which holds hdf5 of another"):
        kb.export.saved_model(other, path, version=2)
    with pytest.raises(FileExistsError, match="which holds hdf5 and saved_model of another"):
        kb.export.litert(other, path)
    assert contents(path) == before
    kb.export.hdf5(model, path, overwrite=True)
    assert formats(path) == {"saved_model": 1, "hdf5": True}


def test_a_new_model_may_be_a_new_version(path: Path, model: keras.Model, other: keras.Model) -> None:
    kb.export.saved_model(model, path, version=1)
    kb.export.saved_model(other, path, version=2)
    manifest = kb.export.read_manifest(path)
    assert manifest["classes"] == ["x", "y"]
    marks = [manifest["saved_model_versions"][number]["model_fingerprint"] for number in ("1", "2")]
    assert marks[0] != marks[1] == manifest["model_fingerprint"]
    assert json.loads((path / "1/assets.extra/classes.json").read_text("utf-8")) == list(NAMES)
    with pytest.raises(ValueError, match=r"Expected a version above 2 for a different model. Received: version=1\."):
        kb.export.saved_model(model, path, version=1, overwrite=True)
    kb.export.hdf5(other, path)
    assert formats(path) == {"saved_model": 2, "hdf5": True}


def test_overwrite_leaves_no_format_of_the_old_model(path: Path, model: keras.Model, other: keras.Model) -> None:
    kb.export.bundle(model, path, ("saved_model", "hdf5"), metrics={"accuracy": 0.9})
    kb.export.saved_model(other, path, version=2, overwrite=True)
    assert formats(path) == {"saved_model": 2}
    assert sorted(child.name for child in path.iterdir()) == ["1", "2", "classes.json", "manifest.json"]
    assert kb.export.read_manifest(path)["metrics"] == {}
    kb.export.hdf5(model, path, overwrite=True)
    assert formats(path) == {"hdf5": True}
    assert not (path / "1").exists()
    assert not (path / "2").exists()


def test_only_a_bundle_is_ever_replaced(tmp_path: Path, model: keras.Model) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for name in ("home", "file"):
        with pytest.raises(FileExistsError, match=r"to be new or a Bundle. It exists without manifest.json: choose another folder"):
            kb.export.hdf5(model, tmp_path / name, overwrite=True)
    (tmp_path / "empty").mkdir()
    kb.export.hdf5(model, tmp_path / "empty")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_an_altered_bundle_is_not_carried_over(path: Path, model: keras.Model) -> None:
    kb.export.bundle(model, path, ("saved_model", "hdf5"))
    (path / "1" / "saved_model.pb").write_bytes(b"altered")
    before = contents(path)
    with pytest.raises(ValueError, match=r"Altered or added: \['1/saved_model.pb'\]"):
        kb.export.litert(model, path)
    assert contents(path) == before


def test_replacing_does_not_reach_through_hard_links(path: Path, model: keras.Model, tmp_path: Path) -> None:
    """The old folder may be open in a server while the new one is put in its place."""
    kb.export.bundle(model, path, ("saved_model", "hdf5"))
    shutil.copytree(path, tmp_path / "before")
    opened = (path / "model.weights.h5").open("rb")
    kb.export.hdf5(model, path, overwrite=True)
    with opened:
        assert opened.read() == (tmp_path / "before" / "model.weights.h5").read_bytes()
