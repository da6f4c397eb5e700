"""The pages: their figures against scikit-learn, and that they are whole, safe and self-contained."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from sklearn import metrics

from kerasbig.report import RunSummary, measures, overview, write
from kerasbig.report.page import format_number

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags and text, and fails on a tag that is closed out of order."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += " " + " ".join(data.split())

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", self.source)


def summary(classes: tuple[str, ...] | None = ("negative", "positive"), count: int = 200, **more: Any) -> RunSummary:
    random = np.random.default_rng(0)
    if classes is None:
        targets = random.normal(size=count).astype("float32")
        logits = (targets + random.normal(0, 0.5, count))[:, None]
    else:
        targets = random.integers(0, len(classes), count)
        logits = random.normal(size=(count, len(classes)))
        logits[np.arange(count), targets] += 1
    given: dict[str, Any] = {
        "inputs": [f"text number {i}" for i in range(count)],
        "rows": range(2, count + 2),
        "targets": targets,
        "logits": logits,
        "classes": classes,
        "history": [{"loss": 0.7, "val_loss": 0.6, "learning_rate": 1e-4}, {"loss": 0.4, "val_loss": 0.65, "learning_rate": 5e-5}],
        "metrics": {"accuracy": 0.84375, "examples": 2121},
    }
    return RunSummary("A run", "text-classifier", **(given | more))


@pytest.fixture
def written(tmp_path: Path):
    def make(made: RunSummary) -> Page:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a missing glyph is a warning of Matplotlib
            return Page(write(tmp_path / "report.html", made))

    return make


def test_measures_equal_scikit_learn() -> None:
    random = np.random.default_rng(1)
    targets, logits = random.integers(0, 4, 500), random.normal(size=(500, 4)) * 2
    targets[targets == 3] = 2  # a class that is predicted but never true
    probabilities = measures.softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = probabilities.argmax(axis=1)
    matrix = measures.confusion(targets, predicted, 4)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, predicted, labels=range(4)))
    expected = metrics.precision_recall_fscore_support(targets, predicted, labels=range(4), zero_division=np.nan)
    for index, scores in enumerate(measures.class_scores(matrix)):
        for value, reference in zip(scores.values(), (column[index] for column in expected[:3]), strict=True):
            assert value == pytest.approx(reference) or (value is None and np.isnan(reference))


def test_calibration_error_equals_a_loop() -> None:
    random = np.random.default_rng(2)
    targets, probabilities = random.integers(0, 3, 400), measures.softmax(random.normal(size=(400, 3)) * 2)
    result = measures.calibration(probabilities, targets)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    error, counts = 0.0, []
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        counts.append(inside.sum())
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert result.error == pytest.approx(error)
    np.testing.assert_array_equal(result.counts, counts)
    perfect = measures.calibration(np.eye(3)[targets], targets)
    assert perfect.error == 0.0
    assert perfect.counts.tolist() == [0] * 9 + [400]


def test_mistakes_are_the_confident_ones_first(written) -> None:
    made = summary()
    page = written(made)
    probabilities = measures.softmax(made.logits)
    predicted = probabilities.argmax(axis=1)
    wrong = [i for i in np.argsort(-probabilities.max(axis=1)) if predicted[i] != made.targets[i]]
    shown = re.findall(r'<td class="text" dir="auto">text number (\d+)</td>', page.source)
    assert [int(number) for number in shown] == wrong[:20]
    assert f"{len(wrong)} of 200 predictions are wrong" in page.text
    assert f'<td class="n">{wrong[0] + 2}</td>' in page.source


def test_a_classification_page_has_every_section_and_figure(written) -> None:
    made = summary(
        notes=["Twelve texts were cut."],
        facts={"padding": "4.1% of the computed tokens", "examples per second": 41.234},
        class_counts={"train": [30, 10], "test": [0, 0]},
        comparison=[{"name": "int8", "accuracy": 0.842, "difference": -0.001, "bytes": 23_000_000, "latency_ms": 9.0}],
        config={"optimizer": {"learning_rate": 8e-05}},
        versions={"keras": "3.15.1"},
    )
    page = written(made)
    assert page.headings == [
        "Notes",
        "Training",
        "Confusion",
        "Calibration",
        "Worst examples",
        "Data and speed",
        "Variants",
        "To repeat it",
    ]
    for piece in (
        "0.8438",
        "2,121",
        "Best epoch: 1 of 2, by val loss",
        "41.23",
        "75.0 %",
        "23.0 MB",
        "-0.10 points",
        "9.00 ms",
        "3.15.1",
        "8e-05",
    ):
        assert piece in page.text, piece
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    error = measures.calibration(measures.softmax(made.logits), made.targets).error
    assert f"{100 * error:.1f} points" in page.text
    counts = re.findall(r'<td(?: class="right")? style="--p: [\d.]+">([\d,]+)<small>([\d.]+) %', page.source)
    matrix = metrics.confusion_matrix(made.targets, made.logits.argmax(axis=1))
    assert [int(count) for count, _ in counts] == matrix.ravel().tolist()
    np.testing.assert_allclose([float(share) for _, share in counts], (100 * matrix / matrix.sum(axis=1, keepdims=True)).ravel(), atol=0.05)


def test_a_regression_page_shows_residuals_instead(written) -> None:
    made = summary(None)
    page = written(made)
    assert page.headings == ["Training", "Predicted and true values", "Worst examples"]
    shown = re.findall(r"text number (\d+)", page.source)
    residuals = np.abs(made.logits[:, 0] - made.targets)
    assert [int(number) for number in shown] == np.argsort(-residuals)[:20].tolist()


def test_the_smallest_page_and_all_right(written) -> None:
    page = written(RunSummary("Only a title", "text-classifier"))
    assert page.headings == []
    right = np.eye(2)[[0, 1, 1]] * 5
    page = written(
        RunSummary("All right", "t", inputs=["a", "b", "c"], rows=[1, 2, 3], targets=[0, 1, 1], logits=right, classes=("x", "y"))
    )
    assert "None of the 3 predictions is wrong." in page.text


def test_a_page_is_self_contained_and_runs_nothing(written) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    made = summary((evil, "b"), inputs=[evil] * 200, notes=[evil], facts={evil: evil}, config={"a": evil}, versions={"v": evil})
    page = written(RunSummary(**(vars(made) | {"title": evil, "comparison": [{"name": evil, "accuracy": 1.0, "bytes": 1}]})))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), value
    assert "default-src 'none'" in page.source
    assert not re.findall(r"(?:url\(|@import)(?!#)", page.source)
    assert page.text.count("<script>alert(1)</script>") > 5


def test_ids_are_unique_and_every_reference_is_met(written) -> None:
    page = written(summary(comparison=[{"name": "a", "accuracy": 1.0, "bytes": 1}]))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page.source)) <= set(ids)


def test_plots_follow_the_colours_of_the_page(written) -> None:
    page = written(summary())
    assert "currentColor" in page.source
    assert "#010203" not in page.source
    assert "#ffffff" not in re.sub(r"<style>.*?</style>", "", page.source, count=1, flags=re.DOTALL)


def test_any_script_and_broken_text_are_written(written) -> None:
    classes = ("非常负面", "عربي", "हिन्दी", "😀", "naïve")
    texts = ["这部电影非常好看" * 200, "half a pair \ud83d", "null \0", "مرحبا", "\u202egnp"] * 40
    page = written(summary(classes, inputs=texts, comparison=[{"name": "小", "accuracy": 1.0, "bytes": 1}]))
    for name in classes:
        assert name in page.text
    assert "\\ud83d" in page.text
    assert "…" in page.text
    assert "这部电影非常好看" * 80 not in page.text


def test_many_classes_become_a_list_of_confusions(written) -> None:
    made = summary(tuple(f"class {i}" for i in range(31)), 600)
    page = written(made)
    assert "31 classes are too many for a matrix" in page.text
    matrix = metrics.confusion_matrix(made.targets, made.logits.argmax(axis=1), labels=range(31))
    np.fill_diagonal(matrix, 0)
    first = re.search(r'<td dir="auto">class (\d+)</td><td dir="auto">class (\d+)</td><td class="n">(\d+)</td>', page.source)
    assert matrix[int(first[1]), int(first[2])] == int(first[3]) == matrix.max()


@pytest.mark.parametrize(
    ("history", "monitor", "expected"),
    [
        ([{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.7}], None, (1, "loss")),
        ([{"loss": 1.0, "val_accuracy": 0.9}, {"loss": 0.5, "val_accuracy": 0.8}], "val_accuracy", (0, "val_accuracy")),
        ([{"loss": 1.0, "val_loss": np.nan}, {"loss": 0.5, "val_loss": 0.9}], None, (1, "val_loss")),
        ([{"loss": 1.0}, {"loss": 0.5, "val_loss": 0.9}], None, (1, "val_loss")),
    ],
)
def test_best_epoch(history: list, monitor: str | None, expected: tuple, written) -> None:
    assert measures.best_epoch(history, monitor) == expected
    page = written(RunSummary("Curves", "t", history=history, monitor=monitor))
    assert f"Best epoch: {expected[0] + 1} of {len(history)}, by {expected[1].replace('_', ' ')}" in page.text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, summary()).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_matplotlib_keeps_its_settings(written) -> None:
    before = dict(matplotlib.rcParams)
    written(summary())
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_an_old_page_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    class Broken(str):
        def __html__(self) -> str:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write(path, RunSummary(Broken("x"), "t"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_overview_marks_the_best_of_each_metric(tmp_path: Path) -> None:
    runs = [
        {"name": "<b>a</b>", "metrics": {"accuracy": 0.84, "loss": 0.5, "examples": 10}, "link": "a b#1/report.html"},
        {"name": "b", "metrics": {"accuracy": 0.82, "loss": 0.4, "examples": 12}},
        {"name": "c", "metrics": {"rmse": float("nan")}},
    ]
    page = Page(overview(tmp_path / "runs.html", runs))
    assert re.findall(r'class="best">([^<]+)<', page.source) == ["0.84", "0.4"]
    assert ("a", {"href": "a%20b%231/report.html"}) in page.tags
    assert "<b>a</b>" in page.text
    widths = [float(width) for width in re.findall(r'style="width: ([\d.]+)%"', page.source)]
    assert widths == [100.0, 100.0, 83.3, 97.6, 80.0, 100.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [1]}, "Expected as many inputs as rows, targets and logits. Received: .*'rows': 1"),
        ({"logits": np.zeros((200, 3))}, r"Expected logits of shape \(200, 2\).*Received: logits of shape \(200, 3\)"),
        ({"logits": np.full((200, 2), np.nan)}, "Expected finite logits and targets"),
        ({"targets": np.full(200, 2)}, "Expected class ids from 0 to 1 as targets. Received: from 2 to 2"),
        ({"class_counts": {"train": [1, 2, 3]}}, r"Expected class_counts\['train'\] to have one number a class"),
        ({"monitor": "val_f1"}, r"Expected monitor to be one of the history's keys.*Received: monitor='val_f1'"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summary(**change)


def test_an_overview_needs_runs_with_metrics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected at least one run"):
        overview(tmp_path / "a.html", [])
    with pytest.raises(ValueError, match=r"Expected each run to have name and metrics. Received: run 1 with \['name'\]"):
        overview(tmp_path / "a.html", [{"name": "a"}])


def test_a_page_needs_no_tensorflow() -> None:
    script = "import sys, kerasbig.report.page; assert not {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_for_people() -> None:
    values = [10605, 0.84375, 8e-05, None, float("nan"), "text", True, 43.0, 12345.6, np.float32(0.5), np.int64(7), float("inf")]
    assert [format_number(value) for value in values] == [
        "10,605", "0.8438", "8e-05", "–", "–", "text", "True", "43", "12,346", "0.5", "7", "inf",
    ]  # fmt: skip
