"""Runs and data that lie at an address: in memory here, which is reached as any object store is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fsspec
import keras
import numpy as np
import pytest
from conftest import Train, review_lines, whole_and_resumed
from fsspec.implementations.memory import MemoryFileSystem
from test_cli import TINY, call, failure, output, write_csv

import kerasbig as kb
from kerasbig import remote


@pytest.fixture(autouse=True)
def store():
    """An empty store."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inside").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "inside/b.txt").write_text("b")
    return made


def names(filesystem: MemoryFileSystem, path: str) -> list[str]:
    return sorted(name.removeprefix(path + "/") for name in filesystem.find(path))


@pytest.mark.parametrize("path", ["runs/a", "/runs/a", "C:\\runs", "movie_reviews", "train=a.csv,test=b.csv", "a:b", Path("gs:/a")])
def test_paths_are_no_addresses(path):
    assert not remote.is_remote(path)


def test_a_folder_goes_there_and_comes_back(folder, store):
    remote.upload(folder, "memory://bucket/x")
    assert names(store, "/bucket/x") == ["a.txt", "inside/b.txt"]
    back = remote.fetch("memory://bucket/x")
    assert (back.name, (back / "inside/b.txt").read_text()) == ("x", "b")
    assert remote.fetch("memory://bucket/x/a.txt").read_text() == "a"


def test_a_folder_is_replaced_as_a_whole(folder, store):
    store.pipe("/bucket/x/old.txt", b"old")
    remote.upload(folder, "memory://bucket/x")
    assert names(store, "/bucket/x") == ["a.txt", "inside/b.txt"]
    store.pipe("/bucket/file", b"old")
    remote.upload(folder, "memory://bucket/file")
    assert names(store, "/bucket/file") == ["a.txt", "inside/b.txt"]


def test_a_copy_that_was_cut_off_is_not_there(folder, store, monkeypatch):
    put = MemoryFileSystem.put_file

    def full(self, local, path, **rest):
        if path.endswith("b.txt"):
            raise OSError("no space")
        return put(self, local, path, **rest)

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    with pytest.raises(ConnectionError, match=r"Expected to reach 'memory://bucket/x'\. Received: no space\. Check the address"):
        remote.upload(folder, "memory://bucket/x")
    assert names(store, "/bucket/x") == [".unfinished", "a.txt"]
    assert not remote.exists("memory://bucket/x")
    monkeypatch.undo()
    remote.upload(folder, "memory://bucket/x")
    assert remote.exists("memory://bucket/x")


def test_only_what_changed_is_copied(folder, store, monkeypatch):
    remote.upload(folder, "memory://bucket/x")
    work = remote.checkout("memory://bucket/x")
    put = []
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, local, path, **rest: put.append(path))
    (work / "a.txt").write_text("changed")
    (work / "inside/b.txt").unlink()
    remote.commit(work / "inside")
    assert put == ["/bucket/x/a.txt"]
    assert names(store, "/bucket/x") == ["a.txt"]
    remote.commit(work)
    assert put == ["/bucket/x/a.txt"]
    remote.remove(work)
    assert not store.exists("/bucket/x")
    assert not work.exists()


def test_a_folder_here_is_worked_on_in_place(folder):
    assert remote.checkout(folder) == folder
    remote.commit(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "inside"]
    remote.remove(folder)
    assert not folder.exists()


def test_a_disk_is_an_address_too(folder, tmp_path):
    address = f"file://{tmp_path}/there/x"
    remote.upload(folder, address)
    work = remote.checkout(address)
    (work / "a.txt").write_text("changed")
    remote.commit(work)
    assert (tmp_path / "there/x/a.txt").read_text() == "changed"
    assert sorted(path.name for path in (tmp_path / "there/x").iterdir()) == ["a.txt", "inside"]


def test_a_place_that_is_not_known_or_cannot_be_reached(monkeypatch):
    with pytest.raises(ValueError, match=r"Expected an address that fsspec knows, such as gs:// or s3://\. Received: 'nosuch://a/b'"):
        remote.exists("nosuch://a/b")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ImportError, match=r"Expected the package that reads 's3://a/b': .*s3fs.*Install it beside kerasbig"):
        remote.exists("s3://a/b")
    with pytest.raises(FileNotFoundError, match=r"Expected a file or a folder at 'memory://a/b', but there is none"):
        remote.fetch("memory://a/b")
    with pytest.raises(ValueError, match=r"Expected a path on this machine\. Received: 'memory://a/b'\. Write it here"):
        remote.require_local("memory://a/b")


@pytest.fixture
def train(review_vocabulary, review_examples) -> Train:
    def fit(*callbacks: keras.callbacks.Callback) -> list[np.ndarray]:
        keras.utils.set_random_seed(11)
        model = kb.text.bert_classifier(("negative", "positive"), size="tiny", vocabulary=review_vocabulary, sequence_length=32)
        model.compile(keras.optimizers.AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(kb.data.batches(review_examples, model, batch_size=8), epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    return fit


@pytest.mark.slow
def test_a_training_goes_on_from_what_it_kept_there(train, store):
    whole, resumed = whole_and_resumed(train, "memory://bucket/x.training")
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert names(store, "/bucket/x.training") == []


@pytest.mark.slow
def test_the_commands_read_and_write_there(store, tmp_path, capsys):
    lines, targets = review_lines(120)
    local = write_csv(tmp_path / "reviews.csv", [(line, "ab"[target]) for line, target in zip(lines, targets, strict=True)])
    store.put(local, "/bucket/reviews.csv")
    arguments = ["train", "text-classifier", "--data", "memory://bucket/reviews.csv", *TINY, "--json"]
    here = output(capsys, *arguments, "--out", str(tmp_path / "here"))
    there = output(capsys, *arguments, "--out", "memory://bucket/runs/a")
    assert there["run"] == "memory://bucket/runs/a"
    assert there["metrics"] == here["metrics"]
    assert names(store, "/bucket/runs/a")[:2] == ["classes.json", "config.json"]
    assert not store.exists("/bucket/runs/a.training")
    code, line = failure(capsys, *arguments, "--out", "memory://bucket/runs/a")
    assert (code, "Expected 'memory://bucket/runs/a' to be new, but it exists" in line) == (1, True)

    assert output(capsys, "evaluate", "memory://bucket/runs/a", "--json")["accuracy"] == here["metrics"]["test"]["accuracy"]
    pruned = ["compress", "memory://bucket/runs/a", "--prune", "0.5", "--epochs", "1", "--out", "memory://bucket/runs/b", "--json"]
    assert output(capsys, *pruned)["run"] == "memory://bucket/runs/b"
    config = json.loads(store.cat("/bucket/runs/b/config.json"))
    assert config["options"]["compression"]["from"] == "memory://bucket/runs/a"

    code, line = failure(capsys, "export", "memory://bucket/runs/a", "--to", "memory://bucket/saved")
    assert (code, "Expected a path on this machine. Received: 'memory://bucket/saved'" in line) == (1, True)
    assert call("evaluate", "memory://bucket/runs/none") == 1
    assert "Expected a Run folder at 'memory://bucket/runs/none', but there is none" in capsys.readouterr().err
