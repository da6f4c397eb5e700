"""Clustered kernels on disk: indices and a codebook, bit for bit, readable without kerasbig, and never misread."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import kerasbig as kb
from kerasbig.compress.kernels import select_kernels
from kerasbig.export import fresh_check
from kerasbig.export.to_hdf5 import compress_weights, expand_weights, is_clustered
from kerasbig.export.untrusted import read_model


def rounded(shape: tuple[int, ...], count: int, zeros: float = 0.0, seed: int = 0) -> np.ndarray:
    """Returns normal weights rounded to a few values, with a share of zeros."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=shape)
    values = np.quantile(weights, (np.arange(count) + 0.5) / count).astype("float32")
    taken = values[np.abs(weights[..., None] - values).argmin(axis=-1)]
    taken[random.random(shape) < zeros] = 0
    return taken


def store(file: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(file, "w") as opened:
        for name, values in arrays.items():
            opened[name] = values
    return file


@pytest.mark.parametrize("expand", [expand_weights, lambda a, b: fresh_check.expand_weights(str(a), str(b))], ids=["ours", "standalone"])
def test_round_trip_is_equal_bit_for_bit(tmp_path, expand):
    special = rounded((64, 33), 8)
    special[0, :3] = [np.nan, -0.0, 0.0]
    arrays = {
        "a/vars/0": rounded((384, 64), 16),
        "a/vars/1": np.arange(64, dtype="float32"),
        "b/vars/0": rounded((48, 4, 12), 200),
        "c/vars/0": special,
        "d/vars/0": rounded((33, 33), 16),
        "e/vars/0": np.random.default_rng(1).normal(size=(64, 64)).astype("float32"),
        "f/vars/0": np.arange(2, dtype="uint32"),
    }
    source = store(tmp_path / "a.weights.h5", arrays)
    compress_weights(source, tmp_path / "b.weights.h5")
    assert is_clustered(tmp_path / "b.weights.h5")
    expand(tmp_path / "b.weights.h5", tmp_path / "c.weights.h5")
    with h5py.File(tmp_path / "c.weights.h5") as again, h5py.File(tmp_path / "b.weights.h5") as small:
        for name, values in arrays.items():
            assert again[name].dtype == values.dtype
            assert again[name][()].tobytes() == values.tobytes(), name
        assert [name for name in ("a", "b", "c", "d", "e", "f") if "0.indices" in small[f"{name}/vars"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("zeros", "share"), [(0.0, 0.14), (0.8, 0.07)])
def test_a_clustered_kernel_is_small(tmp_path, zeros, share):
    kernel = rounded((384, 1536), 16, zeros)
    compress_weights(store(tmp_path / "a.h5", {"0": kernel}), tmp_path / "b.h5")
    assert (tmp_path / "b.h5").stat().st_size <= share * kernel.nbytes


@pytest.fixture(scope="module")
def clustered_bert(review_vocabulary):
    """A tiny classifier of 16 values a kernel; the tests of this file only read it."""
    keras.utils.set_random_seed(7)
    tiny_bert = kb.text.bert_classifier(("negative", "positive"), size="tiny", vocabulary=review_vocabulary, sequence_length=32)
    for kernel in select_kernels(tiny_bert)[0]:
        kernel.variable.assign(0.05 * rounded(tuple(kernel.variable.shape), 16))
    return tiny_bert


@pytest.fixture(scope="module")
def exported(clustered_bert, tmp_path_factory) -> Path:
    return kb.export.hdf5(clustered_bert, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture
def bundle(exported, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_the_bundle_answers_as_the_model_and_is_small(clustered_bert, exported, tmp_path):
    texts = ["a fine film", "the story is dull and weak"]
    folder = exported
    assert is_clustered(folder / "model.weights.h5")
    np.testing.assert_allclose(kb.export.load(folder, "hdf5").logits(texts), kb.data.predict_logits(clustered_bert, texts), atol=1e-5)
    clustered_bert.save_weights(tmp_path / "raw.weights.h5")
    assert (folder / "model.weights.h5").stat().st_size < 0.35 * (tmp_path / "raw.weights.h5").stat().st_size


def test_keras_alone_refuses_the_compact_file_and_reads_the_expanded_one(clustered_bert, exported, tmp_path):
    folder = exported
    expand_weights(folder / "model.weights.h5", tmp_path / "plain.weights.h5")
    code = f"""
import sys; sys.modules["kerasbig"] = None
import keras, keras_hub, numpy as np
model = keras.models.model_from_json(open({str(folder / "model.json")!r}, encoding="utf-8").read())
try:
    model.load_weights({str(folder / "model.weights.h5")!r})
    print("misread")
except Exception as error:
    print("refused")
model.load_weights({str(tmp_path / "plain.weights.h5")!r})
np.savez({str(tmp_path / "weights.npz")!r}, *model.get_weights())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "refused"
    with np.load(tmp_path / "weights.npz") as read:
        assert all(np.array_equal(read[name], own) for name, own in zip(read.files, clustered_bert.get_weights(), strict=True))


def test_a_model_that_is_not_clustered_is_read_by_keras_as_it_is(tiny_bert, tmp_path):
    folder = kb.export.hdf5(tiny_bert, tmp_path / "bundle")
    assert not is_clustered(folder / "model.weights.h5")
    model = keras.models.model_from_json((folder / "model.json").read_text(encoding="utf-8"))
    model.load_weights(folder / "model.weights.h5")
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), tiny_bert.get_weights(), strict=True))


@pytest.mark.parametrize("change", ["codebook", "shape", "dtype", "index"])
def test_altered_indices_are_refused(bundle, tmp_path, change):
    folder = bundle
    with h5py.File(folder / "model.weights.h5", "r+") as opened:
        name = opened.visit(lambda path: path if path.endswith(".indices") else None)
        item = opened[name]
        if change == "codebook":
            del item.attrs["codebook"]
        elif change == "shape":
            item.attrs["shape"] = [3, 3]
        elif change == "index":
            item.attrs["codebook"] = item.attrs["codebook"][:3]
        else:
            attributes, values = dict(item.attrs), item[()].astype("int32")
            del opened[name]
            opened[name] = values
            opened[name].attrs.update(attributes)
    with pytest.raises(ValueError, match=r"Expected indices (with a codebook|below 3)"):
        expand_weights(folder / "model.weights.h5", tmp_path / "out.weights.h5")
    with pytest.raises(ValueError, match=r"Expected .*model\.weights\.h5"):
        read_model(folder / "model.json", folder / "model.weights.h5")


def test_a_shape_beyond_the_model_is_refused_before_it_is_made(bundle):
    folder = bundle
    with h5py.File(folder / "model.weights.h5", "r+") as opened:
        opened[opened.visit(lambda path: path if path.endswith(".indices") else None)].attrs["shape"] = [10**6, 10**6]
    with pytest.raises(ValueError, match="to hold the model's"):
        read_model(folder / "model.json", folder / "model.weights.h5")
