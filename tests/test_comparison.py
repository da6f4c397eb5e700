"""`compare` against NumPy, with variants whose answers, sizes and speeds are known."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest
from builders import BUILDERS, drawn_faces, framed_scenes, picture_examples
from PIL import Image

import kerasbig as kb
from kerasbig.compress import Comparison, compare
from kerasbig.compress.comparison import save_bare_weights
from kerasbig.export.in_process import compiled

WORDS = ["good", "bad", "film", "story", "the"]


@dataclass(frozen=True)
class Examples:
    inputs: list[str]
    targets: np.ndarray
    classes: tuple[str, ...] | None


@dataclass
class Fixed:
    """A predictor with known logits for known texts."""

    answers: dict[str, np.ndarray]
    path: Path
    seconds: float = 0.0
    format: str = "fixed"
    class_names: tuple[str, ...] | None = ("negative", "positive")
    calls: list[int] = field(default_factory=list)

    def logits(self, inputs: Sequence[str]) -> np.ndarray:
        self.calls.append(len(inputs))
        time.sleep(self.seconds)
        return np.stack([self.answers[text] for text in inputs])

    def bytes_on_disk(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*")) if self.path.is_dir() else self.path.stat().st_size


@pytest.fixture(scope="module")
def examples() -> Examples:
    random = np.random.default_rng(0)
    inputs = [" ".join(random.choice(WORDS, random.integers(1, 12))) + f" {number}" for number in range(400)]
    return Examples(inputs, random.integers(0, 2, 400).astype("int32"), ("negative", "positive"))


def fixed(examples: Examples, folder: Path, name: str, *, wrong: int, size: int = 1000, seconds: float = 0.0) -> Fixed:
    """Answers everything right but the first `wrong` examples."""
    logits = np.eye(2, dtype="float32")[examples.targets] * 3
    logits[:wrong] = logits[:wrong, ::-1]
    path = folder / name
    path.write_bytes(bytes(size))
    return Fixed(dict(zip(examples.inputs, logits, strict=True)), path, seconds)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(2)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
        keras_hub.tokenizers.BertTokenizer(vocabulary=vocabulary, lowercase=True), sequence_length=10
    )
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary), num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=10
    )
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=preprocessor)
    classifier.class_names = ("negative", "positive")
    for weight in classifier.trainable_weights:  # KerasHub starts so small that all logits are nearly equal
        weight.assign(np.random.default_rng(4).normal(0, 0.7, weight.shape))
    return classifier


def test_a_keras_model_gives_its_own_logits(model: keras.Model, examples: Examples) -> None:
    expected = model.predict(examples.inputs, verbose=0)
    assert np.ptp(expected[:, 0]) > 0.1
    np.testing.assert_allclose(compiled(model)(examples.inputs), expected, atol=1e-5)
    row = compare({"float": model}, examples, latency_examples=3).rows[0]
    assert row["accuracy"] == np.mean(expected.argmax(axis=1) == examples.targets)
    assert row["max_logit_difference"] == row["difference"] == row["standard_error"] == 0.0
    assert 0 < row["latency_ms"] <= row["latency_p95_ms"]


def test_the_size_of_a_keras_model_is_its_weights_without_the_optimizer(model: keras.Model, examples: Examples, tmp_path: Path) -> None:
    untrained = compare({"float": model}, examples, latency_examples=1).rows[0]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    trained = compare({"float": model}, examples, latency_examples=1).rows[0]
    assert trained["bytes"] == pytest.approx(untrained["bytes"], rel=0.02)
    assert trained["bytes"] > 4 * model.count_params()
    bare = tmp_path / "bare.weights.h5"
    save_bare_weights(model, bare)
    assert trained["bytes"] == bare.stat().st_size
    assert trained["gzip_bytes"] == pytest.approx(len(gzip.compress(bare.read_bytes(), 6)), rel=0.02)
    with h5py.File(bare) as file:
        assert "optimizer" not in file
    before = model.get_weights()
    model.set_weights([weight * 0 for weight in before])
    model.load_weights(bare, skip_mismatch=False)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_numbers_equal_numpy(examples: Examples, tmp_path: Path) -> None:
    reference = fixed(examples, tmp_path, "a", wrong=40)
    other = fixed(examples, tmp_path, "b", wrong=43)
    other.answers = {text: logits + 0.125 for text, logits in other.answers.items()}
    rows = compare({"float": reference, "small": other}, examples, latency_examples=5).rows
    assert [row["name"] for row in rows] == ["float", "small"]
    assert [row["accuracy"] for row in rows] == [360 / 400, 357 / 400]
    assert rows[1]["difference"] == pytest.approx(-3 / 400)
    changed = np.zeros(400)
    changed[40:43] = -1
    assert rows[1]["standard_error"] == pytest.approx(np.std(changed) / 20)
    assert rows[1]["max_logit_difference"] == pytest.approx(3.125)
    assert rows[0]["gzip_bytes"] == pytest.approx(len(gzip.compress(bytes(1000), 6)), abs=16)


def test_a_folder_counts_all_its_files(examples: Examples, tmp_path: Path) -> None:
    predictor = fixed(examples, tmp_path, "a", wrong=0)
    predictor.path = tmp_path / "folder"
    (predictor.path / "variables").mkdir(parents=True)
    noise = np.random.default_rng(0).bytes(5000)
    (predictor.path / "graph").write_bytes(noise)
    (predictor.path / "variables" / "data").write_bytes(noise)
    row = compare({"saved": predictor}, examples, latency_examples=1).rows[0]
    assert row["gzip_bytes"] == pytest.approx(10_000, rel=0.02)


def test_latency_is_one_text_at_a_time_and_in_turn(examples: Examples, tmp_path: Path) -> None:
    slow = fixed(examples, tmp_path, "a", wrong=0, seconds=0.01)
    fast = fixed(examples, tmp_path, "b", wrong=0, seconds=0.002)
    rows = compare({"slow": slow, "fast": fast}, examples, latency_examples=20).rows
    assert 10 <= rows[0]["latency_ms"] < 20
    assert 2 <= rows[1]["latency_ms"] < rows[0]["latency_ms"]
    assert slow.calls == fast.calls == [400] + [1] * 25


def test_regression(examples: Examples, tmp_path: Path) -> None:
    targets = np.random.default_rng(1).normal(size=400).astype("float32")
    values = targets + np.random.default_rng(2).normal(0, 0.3, size=400).astype("float32")
    path = tmp_path / "a"
    path.write_bytes(b"1")
    predictor = Fixed(dict(zip(examples.inputs, values[:, None], strict=True)), path, class_names=None)
    constant = Fixed(dict.fromkeys(examples.inputs, np.zeros(1, "float32")), path, class_names=None)
    result = compare({"float": predictor, "constant": constant}, Examples(examples.inputs, targets, None), latency_examples=2)
    assert result.rows[0]["rmse"] == pytest.approx(np.sqrt(np.mean((values - targets) ** 2)), rel=1e-5)
    assert result.rows[0]["pearson"] == pytest.approx(np.corrcoef(values, targets)[0, 1], rel=1e-5)
    assert result.rows[1]["pearson"] == 0.0
    assert "accuracy" not in result.columns
    assert "'float', the reference" in result.recommend()
    assert result.plot().axes[0].get_ylabel() == "RMSE"


@pytest.mark.parametrize(("builder", "as_files"), [("vit_classifier", False), ("face_classifier", True)], ids=["arrays", "files of faces"])
def test_images(builder: str, as_files: bool, tmp_path: Path) -> None:
    built = BUILDERS[builder]()
    model, drawn = built.model, picture_examples() if builder == "vit_classifier" else drawn_faces(4, 8, side=8)
    inputs: Any = drawn.inputs
    if as_files:
        paths = [tmp_path / f"{number}.png" for number in range(len(inputs))]
        for path, image in zip(paths, inputs, strict=True):
            Image.fromarray(image).save(path)
        inputs = kb.data.images.ImageFiles.read([str(path) for path in paths])
    converter = model.preprocessor.image_converter
    scale, offset = (np.float32(default if value is None else value) for value, default in ((converter.scale, 1), (converter.offset, 0)))
    logits = np.asarray(model(drawn.inputs * scale + offset, training=False))
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    worse = FixedImages(logits[::-1] + 1, path, class_names=drawn.classes)
    result = compare({"float": model, "worse": worse}, replace(drawn, inputs=inputs), latency_examples=2)
    right, wrong = (np.mean(each.argmax(axis=1) == drawn.targets) for each in (logits, logits[::-1]))
    assert [row["accuracy"] for row in result.rows] == [right, wrong]
    assert result.rows[0]["format"] == "keras"
    assert result.rows[1]["max_logit_difference"] == pytest.approx(np.abs(logits - logits[::-1] - 1).max(), abs=1e-4)
    assert "latency of one image at a time over 2 of them, decoding included" in result.notes[0]


@dataclass
class FixedImages:
    """A predictor with known logits, whatever the images."""

    all: np.ndarray
    path: Path
    format: str = "fixed"
    class_names: tuple[str, ...] | None = None

    def logits(self, inputs: Sequence[Any]) -> np.ndarray:
        return self.all[: len(inputs)]

    def bytes_on_disk(self) -> int:
        return 1


def test_detectors_are_judged_by_boxes(tmp_path: Path) -> None:
    images, boxes = framed_scenes(12)
    examples = kb.data.Examples(images, boxes, ("red", "green"), list(range(12)), "made", "test")
    model = BUILDERS["vit_detector"]().model
    # So that much scores more than the least that counts.
    for weight in model.trainable_weights:
        weight.assign_add(np.random.default_rng(1).normal(0, 0.05, weight.shape))
    path = tmp_path / "weights"
    path.write_bytes(bytes(500_000))
    perfect = FixedBoxes(
        [{"boxes": boxes.of_image(i)[0].tolist(), "labels": [("red", "green")[n] for n in boxes.of_image(i)[1]]} for i in range(12)], path
    )
    measure = partial(kb.vision.measure_detector, least_score=0.05)
    result = compare({"float": model, "perfect": perfect}, examples, latency_examples=3, measure=measure)
    assert result.rows[0]["map"] == kb.vision.measure_detector(model, examples, least_score=0.05)["map"] < 1
    assert (result.rows[1]["map"], result.rows[1]["ap50"]) == (pytest.approx(1), pytest.approx(1))
    assert result.rows[1]["difference"] == pytest.approx(1 - result.rows[0]["map"])
    assert "max_logit_difference" not in result.columns
    assert perfect.least == [0.05] + [0.3] * 6
    assert result.recommend().startswith("Deploy 'perfect'")
    assert f"mAP 1.0000 ({100 * result.rows[1]['difference']:+.2f} points), against 'float'" in result.recommend()
    assert result.plot().axes[0].get_ylabel() == "mAP"
    alone = replace(result, rows=result.rows[:1])
    assert alone.recommend() == "Deploy 'float', the reference: no other variant within 1 point of mAP of it is faster or smaller."
    with pytest.raises(ValueError, match=r"Expected measure for examples with boxes\. Received: None\. Give measure=kerasbig\.vision"):
        compare({"float": model}, examples)
    with pytest.raises(ValueError, match=r"first figure of measure to be one of accuracy, rmse, map, bits_per_byte\. Received: 'speed'"):
        compare({"float": model}, examples, measure=lambda variant, examples: {"speed": 1.0})
    with pytest.raises(TypeError, match=r"Expected 'a' to return logits\. Received: FixedBoxes, which does not"):
        compare({"a": perfect}, replace(examples, targets=np.zeros(12, "int32")))


@dataclass
class FixedBoxes:
    """An exported detector with known answers."""

    answers: list[dict[str, Any]]
    path: Path
    format: str = "fixed"
    class_names: tuple[str, ...] | None = ("red", "green")
    least: list[float] = field(default_factory=list)

    def predict(self, images: Sequence[Any], *, score_threshold: float = 0.3) -> list[dict[str, Any]]:
        self.least.append(score_threshold)
        return [{**answer, "scores": [0.9] * len(answer["labels"])} for answer in self.answers[: len(images)]]

    def bytes_on_disk(self) -> int:
        return 500_000


def test_a_detector_asked_in_process_answers_as_detect_does() -> None:
    images, _ = framed_scenes(3, side=48)
    model = BUILDERS["vit_detector"]().model
    for weight in model.trainable_weights:
        weight.assign_add(np.random.default_rng(1).normal(0, 0.3, weight.shape))
    expected = kb.vision.detection_answers(kb.vision.detect(model, images), ("red", "green"))
    assert sum(len(answer["boxes"]) for answer in expected) > 0
    model.class_names = ("red", "green")
    for answer, right in zip(compiled(model)(list(images)), expected, strict=True):
        assert answer["labels"] == right["labels"]
        np.testing.assert_allclose(answer["boxes"], right["boxes"], atol=0.011)
        np.testing.assert_allclose(answer["scores"], right["scores"], atol=1.1e-4)


def test_generators_are_judged_by_bits(tmp_path: Path) -> None:
    built = BUILDERS["gpt_generator"]()
    model, tokenizer = built.model, built.model.preprocessor.tokenizer
    texts = ["a fine film", "the story is dull"]
    nats, size = 0.0, sum(len(text) for text in texts)
    for text in texts:
        ids = [int(token) for token in np.asarray(tokenizer(text))]
        row = np.array([[tokenizer.end_token_id, *ids]])
        logits = np.asarray(model({"token_ids": row, "padding_mask": np.ones_like(row)}), "float64")[0, :-1]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        nats -= np.log(shares[range(len(ids)), ids]).sum()
    expected = nats / np.log(2) / size
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    exported = FixedWriter(path, [(-0.5 * size * np.log(2) * expected / 2, 3)] * 2)
    examples = kb.data.Examples(texts, np.zeros(2, "int32"), None, [1, 2], "made", "test")

    def measure(variant: Any, examples: kb.data.Examples) -> dict[str, float]:
        return {"bits_per_byte": kb.export.bits_per_byte(variant, examples.inputs)}

    result = compare({"float": model, "half": exported}, examples, measure=measure)
    assert [row["bits_per_byte"] for row in result.rows] == pytest.approx([expected, expected / 2], rel=1e-5)
    assert set(exported.written) == {32}
    assert not {"difference", "max_logit_difference"} & set(result.columns)
    assert f"bits per byte {expected / 2:.4f} (reference {expected:.4f}), against 'float'" in result.recommend()
    with pytest.raises(ValueError, match=r"Expected at least one text with a character in it\. Received: none"):
        kb.export.bits_per_byte(model, [""])


@dataclass
class FixedWriter:
    """An exported generator with known scores."""

    path: Path
    scores: list[tuple[float, int]]
    format: str = "fixed"
    written: list[int] = field(default_factory=list)

    def generate(self, texts: Sequence[str], *, max_tokens: int = 64) -> list[str]:
        self.written.append(max_tokens)
        return [""] * len(texts)

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        return self.scores

    def bytes_on_disk(self) -> int:
        return 1


def rows(*variants: tuple[str, float, float, int]) -> Comparison:
    """(name, accuracy, latency, bytes) a variant."""
    return Comparison(
        "Comparison",
        tuple(
            {
                "name": name,
                "format": "x",
                "accuracy": accuracy,
                "difference": accuracy - variants[0][1],
                "standard_error": 0.004,
                "bytes": size,
                "gzip_bytes": size,
                "latency_ms": latency,
                "latency_p95_ms": latency,
                "max_logit_difference": 0.0,
            }
            for name, accuracy, latency, size in variants
        ),
    )


@pytest.mark.parametrize(
    ("variants", "name"),
    [
        ([("float", 0.84, 20.0, 90), ("int8", 0.8375, 8.0, 23), ("tiny", 0.80, 1.0, 5)], "int8"),
        ([("float", 0.84, 8.0, 90), ("int8", 0.84, 9.0, 23)], "float"),
        ([("float", 0.84, 8.0, 90), ("int8", 0.84, 8.2, 23)], "int8"),
        ([("float", 0.84, 8.0, 90), ("same", 0.84, 8.0, 90)], "float"),
    ],
)
def test_recommendation_is_the_fastest_of_the_good_enough(variants: list, name: str) -> None:
    assert rows(*variants).recommend().startswith(f"Deploy {name!r}")


def test_recommendation_says_what_it_costs() -> None:
    sentence = rows(("float", 0.84, 20.0, 90_000_000), ("int8", 0.8375, 8.0, 23_000_000)).recommend()
    assert sentence == (
        "Deploy 'int8': 8.0 ms a text (2.5x as fast), 23.0 MB (26%), accuracy 0.8375 (-0.25 points, standard error 0.40), against 'float'."
    )


def test_the_report_prints_plots_and_is_json() -> None:
    report = rows(("float", 0.84, 20.0, 90_000_000), ("int8 [bold]", 0.8375, 8.0, 23_000_000))
    lines = str(report).splitlines()
    assert [cell.strip() for cell in lines[3].split("│")[:5]] == ["float", "x", "0.8400", "+0.00 points", "0.40"]
    assert "int8 [bold]" in lines[4]
    parsed = json.loads(report.to_json())
    assert parsed["rows"][1]["bytes"] == 23_000_000
    axes = report.plot().axes[0]
    assert [text.get_text() for text in axes.texts] == ["float", "int8 [bold]"]
    assert axes.lines[1].get_xydata().tolist() == [[23.0, 0.8375]]


def test_wrong_arguments_are_refused(examples: Examples, tmp_path: Path) -> None:
    good = fixed(examples, tmp_path, "a", wrong=0)
    with pytest.raises(ValueError, match="Expected at least one variant"):
        compare({}, examples)
    with pytest.raises(ValueError, match="Expected at least one example"):
        compare({"a": good}, Examples([], np.array([]), ("x", "y")))
    with pytest.raises(ValueError, match="Expected latency_examples of at least 1"):
        compare({"a": good}, examples, latency_examples=0)
    with pytest.raises(TypeError, match=r"Expected 'a' to be a Keras model or an exported one\. Received: str.*kb\.export\.load"):
        compare({"a": "saved_models/a"}, examples)
    with pytest.raises(TypeError, match=r"Expected a KerasHub task with its preprocessor\. Received: Sequential"):
        compare({"a": keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])}, examples)
    good.class_names = ("positive", "negative")
    with pytest.raises(ValueError, match="Expected 'a' to have the classes of the examples, in their order"):
        compare({"a": good}, examples)
    good.class_names, good.answers = None, {text: np.zeros(3) for text in examples.inputs}
    with pytest.raises(ValueError, match=r"Expected 'a' to return logits of shape \(400, 2\).*Received: \(400, 3\)"):
        compare({"a": good}, examples)
