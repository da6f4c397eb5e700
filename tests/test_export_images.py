"""Export of image models: each format answers as `kerasbig predict` does, in a process without KerasBig."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kerasbig as kb
from kerasbig.data.image_batches import ImageSource
from kerasbig.data.image_graph import plan_of, read_image
from kerasbig.data.images import decode
from kerasbig.export import bundles, image_classifier, image_parity, image_runners, pictures, plain_images
from kerasbig.export.kinds import fingerprint
from kerasbig.export.predictors import require_onnx_file
from kerasbig.export.slim_litert import slimmed
from kerasbig.export.to_litert import converted
from kerasbig.export.to_onnx import write_onnx
from kerasbig.export.untrusted_images import read_plain_model

NAMES = ("chat", "犬", "bird")
FORMATS = ["saved_model", "hdf5", "litert"]
# The measured differences are a tenth of these or less; int8 weights cost accuracy.
CLOSE = {"saved_model": 1e-5, "hdf5": 1e-5, "litert": 0.1}


def loosened(model: keras.Model, seed: int = 1, spread: float = 0.05) -> keras.Model:
    """Gives a model larger weights than the initial ones, so that its answers tell images apart."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, spread, variable.shape))
    return model


def make_classifier(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    shared: dict[str, Any] = {
        "size": "lite-2",
        "image_shape": (16, 24, 3),
        "patch_size": 4,
        "stem": True,
        "pooling": "gap",
        "resize": "crop",
    }
    return loosened(kb.vision.vit_classifier(NAMES, **shared | options))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def picture(height: int = 40, width: int = 61, seed: int = 0) -> Image.Image:
    few = np.random.default_rng(seed).integers(0, 256, (5, 8, 3)).astype("uint8")
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_classifier()


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, checked with the built-in pictures."""
    return kb.export.bundle(model, tmp_path_factory.mktemp("export") / "pets", metrics={"accuracy": 0.5})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The built-in pictures as files."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{place}" for place in range(len(pictures.default_pictures()))]
    for path, content in zip(paths, pictures.default_pictures(), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "pets"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the fresh processes where a test is about something else."""
    measured = {"max_abs_logit_difference": 0.0, "tolerance": 0.0, "examples": 1}
    monkeypatch.setattr(bundles, "run_checks", lambda kinds, expected, quantize: {kind: dict(measured) for kind in kinds})


# --- from bytes to pixels --------------------------------------------------------------------------------------------


def with_orientation(number: int, *, byte_order: str = "little") -> bytes:
    numbers = (42).to_bytes(2, byte_order) + (8).to_bytes(4, byte_order)  # type: ignore[arg-type]
    maker, entry = ((tag, 2 if tag == 0x010F else 3, 1) for tag in (0x010F, 0x0112))
    directory = (2).to_bytes(2, byte_order)  # type: ignore[arg-type]
    for tag, kind, count in (maker, entry):
        directory += tag.to_bytes(2, byte_order) + kind.to_bytes(2, byte_order) + count.to_bytes(4, byte_order)  # type: ignore[arg-type]
        directory += number.to_bytes(2, byte_order) + b"\0\0"  # type: ignore[arg-type]
    return b"Exif\0\0" + (b"II" if byte_order == "little" else b"MM") + numbers + directory + bytes(4)


def kinds_of_files() -> dict[str, bytes]:
    small, large = picture(), picture(420, 640)
    grey16 = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 61)).astype("uint16"))
    clear = small.copy()
    clear.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 61)).astype("uint8")))
    files = {
        **{f"{name}": encoded(small, name) for name in ("JPEG", "PNG", "BMP", "GIF")},
        **{f"grey {name}": encoded(small.convert("L"), name) for name in ("JPEG", "PNG", "BMP")},
        **{f"palette {name}": encoded(small.convert("P"), name) for name in ("PNG", "BMP")},
        "one bit": encoded(small.convert("1"), "PNG"),
        "16 bits": encoded(grey16, "PNG"),
        "RGBA": encoded(clear, "PNG"),
        "LA": encoded(clear.convert("LA"), "PNG"),
        "palette with a transparent entry": encoded(small.convert("P"), "PNG", transparency=3),
        "BMP of 32 bits": encoded(clear, "BMP"),
        "large JPEG": encoded(large, "JPEG"),
        "progressive JPEG": encoded(large, "JPEG", progressive=True),
        "broken EXIF": encoded(small, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(9)),
    }
    for number in range(2, 9):
        files[f"turned {number}"] = encoded(small if number % 2 else large, "JPEG", exif=with_orientation(number))
    return files | {"turned 6, big endian": encoded(small, "JPEG", exif=with_orientation(6, byte_order="big"))}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_graph_sees_the_pixels_that_predict_sees(resize: str, tmp_path: Path) -> None:
    """And Pillow with NumPy sees them but for the rounding of the last digit."""
    size = (32, 48)
    read = tf.function(
        lambda content: read_image(content, 0, size, resize), input_signature=[tf.TensorSpec((), tf.string)], autograph=False
    )
    for name, content in kinds_of_files().items():
        path = tmp_path / name
        path.write_bytes(content)
        source = ImageSource.of([str(path)], size, resize)
        expected = source.reader()(tf.constant(0, tf.int64)).numpy()
        pixels, shape, plan = (value.numpy() for value in read(content))
        np.testing.assert_array_equal(pixels, expected, err_msg=name)
        assert shape.tolist() == source.files.sizes[0].tolist(), name  # type: ignore[union-attr]
        np.testing.assert_array_equal(plan, source.plans[0], err_msg=name)
        by_numpy, own_shape, own_plan = image_runners.read_image(content, size, resize)
        assert np.abs(by_numpy.astype(int) - expected).max() <= 1, name
        assert np.mean(by_numpy != expected) < 0.02, name
        assert own_shape == tuple(shape), name
        np.testing.assert_array_equal(own_plan, plan, err_msg=name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expected the bytes of a JPEG, PNG, GIF or BMP image"),
        (b"no image", "Expected the bytes of a JPEG, PNG, GIF or BMP image"),
        (b"BM" + bytes(60), "Expected an image of 1 to 67108864 pixels"),
        (encoded(picture(), "PNG")[:16] + b"\0\1\0\0\0\1\0\0" + bytes(40), "Expected an image of 1 to 67108864 pixels"),
        (encoded(picture(), "BMP")[:28] + b"\4" + bytes(60), "Expected a BMP of 8, 24 or 32 bits a pixel, not compressed"),
        (encoded(picture(), "JPEG")[:400], "Invalid JPEG data"),
        (encoded(picture(), "PNG")[:200], "Invalid PNG data"),
    ],
)
def test_bytes_that_are_no_image(content: bytes, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda file: read_image(file, 3, (8, 8), "pad"), autograph=False)(tf.constant(content))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_plans_agree(resize: str) -> None:
    from kerasbig.data.image_batches import resize_plan

    for shape in ((1, 1), (7, 1000), (333, 17), (96, 96)):
        expected = resize_plan(np.array([shape]), (31, 47), resize)[0]
        np.testing.assert_array_equal(plan_of(tf.constant(shape), (31, 47), resize), expected)
        np.testing.assert_array_equal(image_runners.plan_of(shape, (31, 47), resize), expected)


# --- the image classifier --------------------------------------------------------------------------------------------


def test_the_manifest_says_what_was_measured(exported: Path, model: keras.Model) -> None:
    manifest = kb.export.read_manifest(exported)
    assert list(manifest["formats"]) == FORMATS
    assert manifest["classes"] == list(NAMES) == json.loads((exported / "classes.json").read_text("utf-8"))
    assert (manifest["task"], manifest["image_shape"], manifest["resize"]) == ("image-classifier", [16, 24, 3], "crop")
    assert manifest["reads"]["exif_orientation"] == ["JPEG"]
    assert manifest["signatures"] == {"serving_default": "image", "logits": "image", "pixels": "pixels"}
    assert manifest["model_fingerprint"] == fingerprint(model)
    for entry in manifest["formats"].values():
        measured = entry["parity"]
        assert measured["examples"] == len(pictures.default_pictures())
        assert 0 <= measured["max_abs_logit_difference"] <= measured["tolerance"]
        assert entry["bytes"] > 1000
    assert manifest["formats"]["litert"]["parity"]["max_abs_pixel_difference"] <= 1
    on_disk = {str(file.relative_to(exported).as_posix()) for file in exported.rglob("*") if file.is_file()}
    assert on_disk == {*manifest["files"], "manifest.json"}
    assert {"images.json", "model.tflite", "model.json", "1/assets.extra/classes.json"} <= on_disk


@pytest.mark.parametrize("format", FORMATS)
def test_a_predictor_answers_as_predict_does(exported: Path, model: keras.Model, photos: list[Path], format: str) -> None:
    predictor = kb.export.load(exported, format)
    assert isinstance(predictor, kb.export.ImagePredictor)
    assert (predictor.format, predictor.class_names) == (format, NAMES)
    assert predictor.bytes_on_disk() == kb.export.read_manifest(exported)["formats"][format]["bytes"]
    expected = kb.data.predict_logits(model, [str(path) for path in photos])
    assert np.ptp(expected, axis=0).max() > 0.3
    logits = predictor.logits(photos)  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits, expected, atol=CLOSE[format] * max(1.0, np.abs(expected).max()))
    files = [path.read_bytes() for path in photos]
    arrays = [decode(path) for path in photos]
    np.testing.assert_allclose(predictor.logits(files), logits, atol=1e-5)  # type: ignore[attr-defined]
    # A JPEG is decoded small where that is enough, which an array is not.
    some = [0, 2, 3, 4, 7]
    np.testing.assert_allclose(predictor.logits([arrays[i] for i in some]), logits[some], atol=1e-5)  # type: ignore[attr-defined]
    answers = predictor.predict([photos[1], files[0]])
    assert [answer["label"] for answer in answers] == [NAMES[logits[i].argmax()] for i in (1, 0)]
    assert list(answers[0]["probabilities"]) == list(NAMES)
    if format != "litert":
        right = kb.export.predictions(expected[1:2], NAMES)[0]
        assert answers[0]["probabilities"] == pytest.approx(right["probabilities"], abs=1e-5)
    assert predictor.predict([]) == []
    assert len(predictor.predict(files * 5)) == 5 * len(files)


@pytest.mark.slow
def test_onnx(exported: Path, model: keras.Model, photos: list[Path], tmp_path: Path) -> None:
    """It joins the Bundle that is there, answers as the model does, and takes any number of images at once."""
    import onnxruntime

    folder = kb.export.onnx(model, shutil.copytree(exported, tmp_path / "pets"))
    manifest = kb.export.read_manifest(folder)
    assert list(manifest["formats"]) == [*FORMATS, "onnx"]
    assert manifest["formats"]["onnx"]["parity"]["max_abs_logit_difference"] < 1e-5
    for place in (folder, folder / "model.onnx"):
        predictor: Any = kb.export.load(place, "onnx")
        assert isinstance(predictor, kb.export.ImagePredictor)
        assert (predictor.format, predictor.class_names) == ("onnx", NAMES)
        np.testing.assert_allclose(predictor.logits(photos), kb.data.predict_logits(model, [str(path) for path in photos]), atol=1e-3)
    assert predictor.bytes_on_disk() == manifest["formats"]["onnx"]["bytes"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype("uint8")
    (logits,) = session.run(None, {"pixels": images})
    np.testing.assert_allclose(logits, kb.data.predict_logits(model, images), atol=1e-4)
    (folder / "manifest.json").unlink()
    assert kb.export.load(folder / "model.onnx").predict([photos[0]]) == predictor.predict([photos[0]])  # type: ignore[union-attr]
    (folder / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected model.onnx in"):
        kb.export.load(folder, "onnx", verify=False)


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_onnx_without_its_extra(tmp_path: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"Expected the package '{package}' to export ONNX, which is not installed. Run: pip install 'kerasbig\[onnx\]'"
    with pytest.raises(ImportError, match=message):
        kb.export.onnx(model, tmp_path / "pets")
    if package == "onnxruntime":
        (tmp_path / "model.onnx").touch()
        with pytest.raises(ImportError, match="Expected the package 'onnxruntime' to load ONNX"):
            require_onnx_file(tmp_path)


def test_onnx_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    inputs = [tf.TensorSpec((2, 3), tf.float32, name="x")]
    with pytest.raises(kb.export.ExportError, match=r"Expected operations that ONNX has. Received: Lgamma"):
        write_onnx(tf.function(tf.math.lgamma, input_signature=inputs), tmp_path, ("y",), {})
    assert list(tmp_path.iterdir()) == []


def test_saved_model_signatures(exported: Path, model: keras.Model, photos: list[Path]) -> None:
    loaded = tf.saved_model.load(str(exported / "1"))
    serve, pixels = loaded.signatures["serving_default"], loaded.signatures["pixels"]
    assert {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in serve.structured_outputs.items()} == {
        "label": ("string", [None]),
        "label_id": ("int32", [None]),
        "probabilities": ("float32", [None, 3]),
    }
    logits = kb.data.predict_logits(model, [str(path) for path in photos])
    answer = serve(image=tf.constant([path.read_bytes() for path in photos]))
    assert answer["label_id"].numpy().tolist() == logits.argmax(axis=1).tolist()
    assert [label.decode() for label in answer["label"].numpy()] == [NAMES[i] for i in logits.argmax(axis=1)]
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), atol=1e-5)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 50, 3)).astype("uint8")
    expected = kb.data.predict_logits(model, images)
    given = pixels(pixels=tf.constant(images, tf.float32))
    np.testing.assert_allclose(given["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(given["probabilities"], tf.nn.softmax(expected), atol=1e-5)
    ready = images[:, :16, :24]
    np.testing.assert_allclose(pixels(pixels=tf.constant(ready, tf.float32))["logits"], kb.data.predict_logits(model, ready), atol=1e-5)


def test_litert_needs_no_tensorflow_and_no_kerasbig(exported: Path, photos: list[Path], tmp_path: Path) -> None:
    shutil.copy(image_runners.__file__, tmp_path / "run.py")
    code = (
        "import sys, runpy; sys.modules['tensorflow'] = sys.modules['kerasbig'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "run.py"), str(exported), str(photos[1]), str(photos[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == kb.export.load(exported, "litert").predict([photos[1], photos[0]]), done.stderr[-500:]  # type: ignore[union-attr]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("quantize", ["float16", None])
def test_litert_quantizations(tmp_path: Path, model: keras.Model, photos: list[Path], quantize: str | None) -> None:
    predictor = kb.export.load(kb.export.litert(model, tmp_path / "pets", quantize=quantize))
    weights = 4 * model.count_params()
    share = {"float16": 0.5, None: 1.0}[quantize]
    assert share * weights * 0.9 < (tmp_path / "pets" / "model.tflite").stat().st_size < share * weights + 100_000
    expected = kb.data.predict_logits(model, [str(path) for path in photos])
    limit = {"float16": 1e-2, None: 1e-3}[quantize] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(predictor.logits(photos), expected, atol=limit)  # type: ignore[union-attr]


def test_hdf5_is_plain_keras_bit_for_bit(exported: Path, model: keras.Model) -> None:
    config = json.loads((exported / "model.json").read_text("utf-8"))
    assert "kerasbig" not in json.dumps({**config, "images": None})
    assert config["images"]["resize"] == "crop"
    loaded = kb.export.load(exported / "model.weights.h5").model.get_weights()  # type: ignore[union-attr]
    assert len(loaded) == len(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(loaded, model.get_weights(), strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_plain_vit_in_bfloat16_and_a_format_without_its_manifest(tmp_path: Path) -> None:
    model = make_classifier(stem=False, pooling="token", resize="pad", dtype="mixed_bfloat16", image_shape=(16, 16, 3))
    folder = kb.export.bundle(model, tmp_path / "pets", ("hdf5", "litert"))
    expected = kb.data.predict_logits(kb.export.float32_twin(model), np.uint8([np.asarray(picture(16, 16))]))
    (folder / "manifest.json").unlink()
    for place in (folder / "model.weights.h5", folder / "model.tflite"):
        predictor = kb.export.load(place)
        np.testing.assert_allclose(predictor.logits([np.asarray(picture(16, 16))]), expected, atol=0.1)  # type: ignore[union-attr]


def test_a_slimmed_file_answers_the_same_and_has_equal_vectors_once() -> None:
    from ai_edge_litert.interpreter import Interpreter

    random = np.random.default_rng(0)
    kernels = [tf.constant(random.normal(size=(3, 3, 64, 64)).astype("float32")) for _ in range(3)]

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 64), tf.float32)], autograph=False)
    def three(x: tf.Tensor) -> tf.Tensor:
        for kernel in kernels:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return x

    file = converted(three, "dynamic")
    slim = slimmed(file)
    # Of three kernels with 64 zero points of 8 bytes, one's are left.
    assert len(slim) < len(file) - 2 * 64 * 8
    x, answers = random.normal(size=(1, 8, 8, 64)).astype("float32"), []
    for content in (file, slim):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert slimmed(slim) == slim


def test_a_slimmed_file_may_have_its_large_tables_in_float16() -> None:
    from ai_edge_litert.interpreter import Interpreter

    random = np.random.default_rng(0)
    table, overflowing = random.normal(size=(1, 64, 128)).astype("float32"), np.full((1, 64, 128), 1e6, "float32")

    @tf.function(input_signature=[tf.TensorSpec((1, 64, 128), tf.float32)], autograph=False)
    def placed(x: tf.Tensor) -> tf.Tensor:
        return (x + table) * overflowing

    file = converted(placed, "dynamic")
    slim = slimmed(file, halve_tables=True)
    # What float16 cannot hold stays as it is.
    assert len(file) - table.nbytes * 0.5 - 3000 < len(slim) < len(file) - table.nbytes * 0.5 + 300
    interpreter = Interpreter(model_content=slim)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, 64, 128), "float32"))
    interpreter.invoke()
    answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(answer, table.astype("float16").astype("float32") * overflowing, rtol=1e-6)
    assert slimmed(slim, halve_tables=True) == slim


@pytest.mark.slow
def test_int8_takes_the_stem_too(tmp_path: Path) -> None:
    model = make_classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3)).astype("float32") / 255
    kb.compress.quantize_model(model, calibration=[pixels])
    kinds = {row["layer"] for row in kb.compress.ranges(model)}
    assert {"halving_1_convolution", "patch_embedding", "position_embedding", "predictions"} <= kinds
    folder = kb.export.litert(model, tmp_path / "pets", quantize="int8")
    entry = kb.export.read_manifest(folder)["formats"]["litert"]
    assert entry["parity"]["max_abs_logit_difference"] <= 0.1
    # The graph itself is much beside this tiny model.
    assert entry["bytes"] < 0.25 * 4 * model.count_params() + 150_000


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_difference_fails_and_leaves_nothing(tmp_path: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    right = image_classifier.expect

    def shifted(*arguments: Any) -> dict[str, image_parity.ExpectedImages]:
        return {name: replace(one, outputs=one.outputs + np.float32(1)) for name, one in right(*arguments).items()}

    monkeypatch.setattr(image_classifier, "expect", shifted)
    with pytest.raises(kb.export.ExportError, match=r"litert to answer as the model does, within .* for image 0 of the examples"):
        kb.export.litert(model, tmp_path / "pets", examples=[encoded(picture(), "PNG")])
    assert list(tmp_path.iterdir()) == []


def test_compare_says_what_differs() -> None:
    pixels, logits = np.zeros((2, 1, 1, 3), "uint8"), np.float32([[1, 2], [3, 1]])
    expected = image_parity.ExpectedImages("image-classifier", [b"", b""], pixels, logits, ("x", "y"))
    shares = [[0.268941, 0.731059], [0.880797, 0.119203]]
    good = {"outputs": logits, "image_outputs": logits, "label": ["y", "x"], "label_id": [1, 0], "probabilities": shares}
    figures = {"max_abs_logit_difference": 0.0, "tolerance": pytest.approx(3e-4), "examples": 2}
    assert expected.measured("saved_model", good, None) == figures
    for change, message in (
        ({"outputs": [[1, 2], [3, 1.5]]}, r"differ by 0\.5 for image 1"),
        ({"image_outputs": [[1, float("nan")], [3, 1]]}, "differ by nan for image 0"),
        ({"outputs": [[1, 2]]}, r"to return outputs \(2, 2\). Received: \(1, 2\)"),
        ({"pixels": "AAAA"}, "Expected 6 pixels beside the exported saved_model. Received: 3"),
        ({"pixels": "AAAAAAAC"}, "differ by 2 for image 1"),
        ({"label": ["x", "x"]}, "serving_default to follow from its logits"),
        ({"label_id": [0, 0]}, "serving_default to follow from its logits"),
        ({"probabilities": [[0.5, 0.5], [0.5, 0.5]]}, "serving_default to follow from its logits"),
    ):
        with pytest.raises(kb.export.ExportError, match=message):
            expected.measured("saved_model", good | change, None)


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    model = make_classifier()
    with pytest.raises(ValueError, match="Expected a model with ranges for quantize='int8'"):
        kb.export.litert(model, tmp_path / "pets", quantize="int8")
    model.class_names = ("one",)
    with pytest.raises(ValueError, match=r"to name the model's 3 classes. Received: class_names=\('one',\)"):
        kb.export.hdf5(model, tmp_path / "pets")
    model.class_names = NAMES
    model.trainable_variables[-1].assign([np.nan] * 3)
    with pytest.raises(kb.export.ExportError, match="Expected the model to return finite numbers"):
        kb.export.hdf5(model, tmp_path / "pets")
    model.activation = keras.activations.softmax
    with pytest.raises(ValueError, match=r"Expected model to return logits.*Received: activation='softmax'"):
        kb.export.hdf5(model, tmp_path / "pets")
    model.preprocessor = None
    with pytest.raises(TypeError, match="Expected a model with an image converter"):
        kb.export.hdf5(model, tmp_path / "pets")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_hdf5_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_classifier()
    monkeypatch.setattr(plain_images, "BACKBONES", ("DeiTBackbone",))
    with pytest.raises(kb.export.ExportError, match=r"hdf5 file to be out of DeiTBackbone\. Received: ViTBackbone"):
        plain_images.write_plain_hdf5(model, tmp_path, {})

    class Scaled(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

        def call(self, x: Any) -> Any:
            return x * self.factor

    Scaled.__module__ = "kerasbig.elsewhere"
    pixels = keras.Input((16, 24, 3))
    own = keras.Model(pixels, Scaled(name="scaled_head")(pixels))
    own.preprocessor = model.preprocessor
    with pytest.raises(kb.export.ExportError, match=r"lie in layers of Keras and KerasHub\. Received: scaled_head/factor"):
        plain_images.plain_model(own)


def test_wrong_examples_and_images(tmp_path: Path, model: keras.Model, exported: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    cases: list[tuple[Any, type[Exception], str]] = [
        ([], ValueError, "Expected examples to have at least one image"),
        ("photo.jpg", ValueError, "Expected examples to be a list of images. Received one"),
        ([3], ValueError, "Expected examples[0] to be a path, the bytes of a file or a uint8 array. Received: int."),
        (
            [np.zeros((4, 4, 3))],
            ValueError,
            "Expected examples[0] to be uint8 of the shape (height, width, 3). Received: float64 (4, 4, 3).",
        ),
        ([np.zeros((4, 4), "uint8")], ValueError, "Received: uint8 (4, 4)."),
        ([b"no image"], ValueError, "Received: examples[0], which is none."),
        ([tmp_path / "text.jpg"], ValueError, "text.jpg, which is none."),
        ([tmp_path / "nothing.jpg"], FileNotFoundError, "nothing.jpg', which is not there"),
    ]
    for examples, kind, message in cases:
        with pytest.raises(kind, match=re.escape(message)):
            kb.export.hdf5(model, tmp_path / "pets", examples=examples)
    predictor = kb.export.load(exported, "litert")
    with pytest.raises(ValueError, match=r"Received: images\[1\], which is none"):
        predictor.predict([encoded(picture(), "TIFF"), b"none"])  # type: ignore[union-attr]
    assert not (tmp_path / "pets").exists()


def test_other_formats_are_read_outside_of_the_graph(exported: Path) -> None:
    files = [encoded(picture(), "PNG"), encoded(picture(), "TIFF"), encoded(picture(), "WEBP", lossless=True)]
    for format in FORMATS:
        logits = kb.export.load(exported, format).logits(files)  # type: ignore[union-attr]
        np.testing.assert_allclose(logits, np.tile(logits[:1], (3, 1)), atol=1e-5)


def _with_lambda(config: dict[str, Any]) -> None:
    config["config"]["layers"][1]["class_name"] = "Lambda"


def _from_elsewhere(config: dict[str, Any]) -> None:
    config["config"]["layers"][1]["module"] = "os"


def _too_wide(config: dict[str, Any]) -> None:
    config["config"]["layers"][-1]["config"]["units"] = 10**10


def _without_sizes(config: dict[str, Any]) -> None:
    config["config"]["layers"][-1]["config"]["units"] = "wide"


def _without_facts(config: dict[str, Any]) -> None:
    del config["images"]


def _with_other_sizes(config: dict[str, Any]) -> None:
    config["config"]["layers"][-1]["config"]["units"] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_lambda, "Expected only layers of an image model in .* Received: keras.layers.Lambda"),
        (_from_elsewhere, "Received: os.Rescaling"),
        (_too_wide, "Expected a model of at most 2,000,000,000 parameters"),
        (_without_sizes, "to have the sizes of an image model"),
        (_without_facts, "to be the configuration of an image model"),
        (_with_other_sizes, "to hold the weights of model.json"),
    ],
)
def test_model_json_from_others_is_not_trusted(copy: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    config = json.loads((copy / "model.json").read_text("utf-8"))
    change(config)
    (copy / "model.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_plain_model(copy / "model.json", copy / "model.weights.h5")


def test_hdf5_from_others_is_not_trusted(copy: Path) -> None:
    with h5py.File(copy / "model.weights.h5", "r+") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/hostname", "/")
    with pytest.raises(ValueError, match="a link to elsewhere at '/elsewhere'"):
        kb.export.load(copy, "hdf5", verify=False)
    (copy / "images.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected .*images.json"):
        kb.export.load(copy, "litert")
    with pytest.raises(FileNotFoundError, match=r"Expected images.json in"):
        kb.export.load(copy, "litert", verify=False)
