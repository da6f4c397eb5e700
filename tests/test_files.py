"""Writes are whole or not there."""

from __future__ import annotations

import hashlib

import pytest

from kerasbig.files import replacing_file, replacing_folder, require_new, sha256


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_replaced_only_when_whole(tmp_path):
    target = tmp_path / "sub" / "a.weights.h5"
    with replacing_file(target) as temporary:
        assert temporary.name.endswith(".weights.h5")
        temporary.write_text("one")
    with pytest.raises(OSError, match="full"), replacing_file(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "one"
    assert names(target.parent) == ["a.weights.h5"]


def test_folder_is_replaced_only_when_whole(tmp_path):
    target = tmp_path / "run"
    with replacing_folder(target) as temporary:
        (temporary / "a").write_text("one")
    with pytest.raises(FileExistsError, match=r"to be new, but it exists.*--overwrite"), replacing_folder(target):
        pytest.fail("the block must not run")
    with pytest.raises(OSError, match="full"), replacing_folder(target, overwrite=True) as temporary:
        (temporary / "a").write_text("half")
        raise OSError("disk full")
    assert (target / "a").read_text() == "one"
    with replacing_folder(target, overwrite=True) as temporary:
        (temporary / "b").write_text("two")
    assert names(target) == ["b"]
    assert names(tmp_path) == ["run"]


def test_an_empty_folder_and_a_file_in_the_way(tmp_path):
    (tmp_path / "empty").mkdir()
    with replacing_folder(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("one")
    assert names(tmp_path / "empty") == ["a"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError):
        require_new(tmp_path / "file", overwrite=False)
    with replacing_folder(tmp_path / "file", overwrite=True) as temporary:
        (temporary / "a").write_text("one")
    assert names(tmp_path / "file") == ["a"]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10).hexdigest()
