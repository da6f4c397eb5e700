"""The ViT classifier: against transformers' from the same weights, positions against NumPy and SciPy, presets, Runs, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from builders import picture_examples
from scipy import ndimage

import kerasbig as kb
from kerasbig.export.twin import float32_twin
from kerasbig.run import save_run
from kerasbig.vision import VIT_SIZES, vit_classifier
from kerasbig.vision.labels import LabelAccuracy, LabelCrossentropy
from kerasbig.vision.positions import resized_positions
from kerasbig.vision.stochastic_depth import encoder_blocks

GOLDEN = Path(__file__).parent / "golden"
LABELS = ("cat", "dog", "cow")
TINY: dict[str, Any] = {"size": "lite-2", "image_shape": (8, 8, 3), "patch_size": 4}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "vit.npz") as file:
        return dict(file)


# Hugging Face


def test_logits_are_transformers_s(golden):
    model = vit_classifier(LABELS, preset=GOLDEN / "vit")
    assert isinstance(model, keras_hub.models.ViTImageClassifier)
    np.testing.assert_allclose(model.predict(golden["images"], verbose=0), golden["logits"], atol=1e-5)
    np.testing.assert_allclose(kb.data.predict_logits(model, golden["images"]), golden["logits"], atol=1e-5)


def test_other_classes_get_a_new_head(golden):
    keras.utils.set_random_seed(0)
    model = vit_classifier(("dog", "cat", "cow"), preset=GOLDEN / "vit")
    assert np.abs(model.predict(golden["images"], verbose=0) - golden["logits"]).max() > 0.1
    two = vit_classifier(("a", "b"), preset=GOLDEN / "vit", image_shape=(32, 40, 3))
    assert (two.backbone.image_shape, two.output_shape) == ((32, 40, 3), (None, 2))
    old = model.backbone.get_layer("vit_patching_and_embedding").position_embedding.embeddings.numpy()
    new = two.backbone.get_layer("vit_patching_and_embedding").position_embedding.embeddings.numpy()
    np.testing.assert_allclose(new, resized_positions(old, (3, 3), (4, 5)))


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "relu"), ("qkv_bias", False), ("num_channels", 1)])
def test_what_keras_hub_would_compute_otherwise_is_refused(name, value, tmp_path):
    folder = tmp_path / "vit"
    shutil.copytree(GOLDEN / "vit", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=f"Expected {name} to be .*Received: {name}={value!r}"):
        vit_classifier(LABELS, preset=folder)


def test_presets_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"known vision preset. Received: .*Did you mean 'vit_base"):
        vit_classifier(LABELS, preset="vit_bse_patch16_224_imagenet")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"Expected a vision preset in .*kind 'bert'"):
        vit_classifier(LABELS, preset=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        vit_classifier(LABELS, preset=tmp_path)


# Positions


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys, 1981, with a = -0.5."""
    x = np.abs(distance)
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0))


def weights(old: int, new: int) -> np.ndarray:
    """(new, old): how much each old place has in each new one."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    table = cubic(centres[:, None] - np.arange(old))
    return table / table.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("new", [(7, 5), (3, 4), (6, 9)])
def test_positions_against_numpy_and_scipy(new):
    table = np.random.default_rng(0).normal(size=(2 + 4 * 6, 8)).astype("float32")
    places = table[2:].reshape(4, 6, 8)
    found = resized_positions(table, (4, 6), new)
    np.testing.assert_array_equal(found[:2], table[:2])
    expected = np.einsum("ai,bj,ijd->abd", weights(4, new[0]), weights(6, new[1]), places)
    np.testing.assert_allclose(found[2:].reshape(*new, 8), expected, atol=1e-5)
    linear = resized_positions(table, (4, 6), new, "bilinear")[2:].reshape(*new, 8)
    zoom = [new[0] / 4, new[1] / 6, 1]
    np.testing.assert_allclose(linear, ndimage.zoom(places, zoom, order=1, grid_mode=True, mode="nearest"), atol=1e-5)


def test_positions_of_the_same_grid_are_kept_and_others_refused():
    table = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
    np.testing.assert_array_equal(resized_positions(table, (3, 3), (3, 3)), table)
    with pytest.raises(ValueError, match=r"at least 12 rows for a grid of 3 x 4 patches. Received: 10"):
        resized_positions(table, (3, 4), (2, 2))
    with pytest.raises(ValueError, match=r"method to be one of bicubic, bilinear. Received: method='cubic'"):
        resized_positions(table, (3, 3), (2, 2), "cubic")


# From scratch


def test_sizes_are_the_papers():
    # DeiT, table 1: heads, width, layers; ViT, table 1: layers, width, mlp, heads; millions of parameters of the encoder.
    rows = {"tiny": (12, 192, 768, 3, 5.3), "small": (12, 384, 1536, 6, 21.3), "base": (12, 768, 3072, 12, 85.1)}
    rows |= {"large": (24, 1024, 4096, 16, 302.3), "huge": (32, 1280, 5120, 16, 629.7)}
    for name, (layers, width, inner, heads, millions) in rows.items():
        assert VIT_SIZES[name] == {"num_layers": layers, "hidden_dim": width, "mlp_dim": inner, "num_heads": heads}
        block = 4 * width * (width + 1) + 2 * width * inner + width + inner + 4 * width
        assert layers * block / 1e6 == pytest.approx(millions, rel=0.01)
    model = vit_classifier(LABELS, **TINY)
    width, inner = 128, 128
    block = 4 * width * (width + 1) + 2 * width * inner + width + inner + 4 * width
    embedding = (4 * 4 * 3 + 1) * width + 5 * width + width
    assert model.count_params() == embedding + 2 * block + 2 * width + (width + 1) * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a",)}, "at least two classes"),
        ({"classes": "ab"}, "classes to be a list of names"),
        ({"size": "tinny"}, r"size to be one of lite-2.*Did you mean 'tiny'"),
        ({"size": None}, "exactly one of preset and size"),
        ({"image_shape": (9, 8, 3)}, r"multiples of the patch size.*Use image_shape=\(8, 8, 3\)"),
        ({"image_shape": (8, 8, 1)}, r"image_shape to be \(height, width, 3\)"),
        ({"image_shape": (9, 9, 3), "patch_size": 3, "stem": True}, "power of 2 with a stem"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
        ({"drop_path": -0.1}, "drop_path from 0 to below 1"),
        ({"pooling": "max"}, "pooling to be one of token, gap"),
        ({"resize": "fit"}, "resize to be one of stretch, crop, pad"),
        ({"size": None, "preset": "x", "stem": True}, "beside a size only"),
    ],
)
def test_arguments_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        vit_classifier(**({"classes": LABELS} | TINY | changes))


def test_defaults_by_image_size():
    assert [kb.vision.vit.default_patch_size((side, side, 3)) for side in (224, 128, 96, 28, 8)] == [16, 16, 8, 4, 2]
    assert kb.vision.fitting_shape(np.zeros((1, 300, 500, 3), "uint8")) == (224, 224, 3)
    files = kb.data.ImageFiles(["a", "b", "c"], np.array([[112, 92]] * 3), np.ones(3), np.ones(3))
    assert kb.vision.fitting_shape(files) == (96, 96, 3)


@pytest.mark.parametrize("stem", [False, True])
def test_saved_and_read_again(stem, tmp_path):
    examples = picture_examples()
    keras.utils.set_random_seed(1)
    model = vit_classifier(examples.classes, **TINY, stem=stem, pooling="gap" if stem else "token", drop_path=0.2, resize="pad")
    batches = kb.data.batches(examples, model, batch_size=8, augment="light")
    model.fit(batches, epochs=1, verbose=0, shuffle=False)
    expected = model.predict(examples.inputs, verbose=0)
    run = save_run(tmp_path / "run", model, options={}, metrics={}, history=[], task="image-classifier")
    read = run.load_model()
    assert (read.class_names, read.preprocessor.image_converter.pad_to_aspect_ratio) == (examples.classes, True)
    np.testing.assert_allclose(read.predict(examples.inputs, verbose=0), expected, atol=1e-6)
    again = vit_classifier(("new", "head"), preset=tmp_path / "run" / "preset", drop_path=0.1)
    for own, other in zip(again.backbone.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    assert type(model).from_config(model.get_config()).count_params() == model.count_params()


@pytest.mark.slow
def test_it_learns_and_stays_learnt_in_bfloat16():
    examples = picture_examples()
    keras.utils.set_random_seed(0)
    model = vit_classifier(examples.classes, **TINY, stem=True, pooling="gap", dtype="mixed_bfloat16")
    kb.vision.compile_image_classifier(model, keras.optimizers.AdamW(3e-3))
    batches = kb.data.batches(examples, model, batch_size=16)
    model.fit(batches, epochs=20, verbose=0, shuffle=False)
    assert model.evaluate(batches, verbose=0, return_dict=True)["accuracy"] == 1.0
    twin = float32_twin(model)
    assert twin.dtype_policy.name == "float32"
    logits = twin.predict(examples.inputs, verbose=0)
    assert (logits.argmax(axis=1) == examples.targets).all()
    np.testing.assert_allclose(model.predict(examples.inputs, verbose=0), logits, atol=0.3)


def test_stochastic_depth_leaves_out_branches_in_training_only():
    keras.utils.set_random_seed(0)
    model = vit_classifier(LABELS, **TINY, drop_path=0.5)
    blocks = encoder_blocks(model.backbone)
    assert [block.drop_path.rate for block in blocks] == [0.0, 0.5]
    assert type(blocks[0]).__name__ == "ViTEncoderBlock"
    x = keras.random.normal((64, 5, 128), seed=1)
    plain = blocks[1](x, training=False)
    np.testing.assert_array_equal(plain, blocks[1](x, training=False))
    y = blocks[1](x, training=True).numpy() - x.numpy()  # (B, T, D): what the branches add
    untouched = np.abs(y).max(axis=(1, 2)) == 0
    assert 0.1 < untouched.mean() < 0.4  # both branches left out: a quarter
    attention = blocks[1].mha(blocks[1].layer_norm_1(x), blocks[1].layer_norm_1(x)).numpy()
    doubled = np.abs(y - 2 * attention).max(axis=(1, 2)) < 1e-4  # the feed-forward branch alone left out
    assert 0.1 < doubled.mean() < 0.4
    with pytest.raises(ValueError, match="Expected a ViT, whose blocks can be dropped"):
        kb.vision.stochastic_depth.drop_branches(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), 0.1)


def test_loss_and_accuracy_of_ids_and_of_shares():
    random = np.random.default_rng(0)
    logits, ids = random.normal(size=(20, 4)).astype("float32"), random.integers(0, 4, 20)
    shares = random.dirichlet(np.ones(4), 20).astype("float32")
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss, accuracy = LabelCrossentropy(), LabelAccuracy()
    for given in (ids, ids[:, None]):
        assert float(loss(given, logits)) == pytest.approx(-logs[np.arange(20), ids].mean(), rel=1e-5)
    assert float(loss(shares, logits)) == pytest.approx(-(shares * logs).sum(axis=1).mean(), rel=1e-5)
    accuracy.update_state(ids, logits)
    accuracy.update_state(shares, logits)
    right = [logits.argmax(axis=1) == ids, logits.argmax(axis=1) == shares.argmax(axis=1)]
    assert float(accuracy.result()) == pytest.approx(np.mean(right))
