"""load and read: columns, classes, splits, and the message of each thing that cannot be used."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import kerasbig as kb
from kerasbig.data.examples import Examples, Splits


def csv_file(path: Path, labels: list[str], header: str = "text,label") -> Path:
    path.write_text(f"{header}\n" + "".join(f"text number {i},{label}\n" for i, label in enumerate(labels)), encoding="utf-8")
    return path


def jsonl_file(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """200 sorted rows: 60 bad, 140 good."""
    return csv_file(tmp_path / "reviews.csv", ["bad"] * 60 + ["good"] * 140)


def parts(splits: Splits) -> dict[str, Examples]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def refused(match: str, source: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        kb.data.load(source, **options)
    assert "\n" not in str(caught.value)


# What is loaded


def test_each_example_is_in_one_split_with_its_own_label_and_row(file: Path) -> None:
    splits = kb.data.load(file)
    lines = file.read_text().splitlines()
    names = splits.classes or ()
    for role, part in parts(splits).items():
        assert part.role == role
        assert part.source == str(file)
        assert part.targets.dtype == np.int32
        for text, target, row in zip(part.inputs, part.targets, part.rows, strict=True):
            assert lines[row - 1] == f"{text},{names[target]}"
    assert sorted(row for part in parts(splits).values() for row in part.rows) == list(range(2, 202))


def test_splits_are_stratified_and_shuffled(file: Path) -> None:
    splits = kb.data.load(file)
    assert splits.classes == ("bad", "good")
    assert {role: Counter(part.targets.tolist()) for role, part in parts(splits).items()} == {
        "train": {0: 42, 1: 98},
        "validation": {0: 6, 1: 14},
        "test": {0: 12, 1: 28},
    }
    for part in parts(splits).values():
        assert part.rows != sorted(part.rows)
        assert part.targets.tolist() != sorted(part.targets.tolist())


def test_the_seed_decides_the_split(file: Path) -> None:
    rows = [kb.data.load(file, seed=seed).test.rows for seed in (0, 0, 1)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


@pytest.mark.parametrize("seed", range(30))
def test_any_mix_of_classes_is_split_fairly(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    counts = {f"class {i}": chosen.choice([3, 4, 5, 8, 20, 57]) for i in range(chosen.randrange(2, 12))}
    labels = [name for name, count in counts.items() for _ in range(count)]
    chosen.shuffle(labels)
    validation, test = chosen.uniform(0.02, 0.45), chosen.uniform(0.02, 0.45)
    splits = kb.data.load(csv_file(tmp_path / "a.csv", labels), validation=validation, test=test, seed=seed)
    assert sum(map(len, parts(splits).values())) == len(labels)
    for role, fraction in (("validation", validation), ("test", test)):
        got = Counter(parts(splits)[role].targets.tolist())
        assert set(got) == set(range(len(counts)))
        for i, name in enumerate(splits.classes or ()):
            assert abs(got[i] - counts[name] * fraction) < 1 or got[i] == 1 or counts[name] <= 5
        # Only classes too small for their share may move the total.
        if all(count * fraction >= 1 and count * (1 - validation - test) >= 1 for count in counts.values()):
            assert len(parts(splits)[role]) == round(len(labels) * fraction)
    assert set(splits.train.targets.tolist()) == set(range(len(counts)))


def test_three_of_a_class_are_enough(tmp_path: Path) -> None:
    splits = kb.data.load(csv_file(tmp_path / "a.csv", ["rare"] * 3 + ["often"] * 300))
    assert [Counter(part.targets.tolist())[1] for part in parts(splits).values()] == [1, 1, 1]


def test_regression(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("review,rating\n" + "".join(f"text {i},{i / 8 - 3}\n" for i in range(50)))
    splits = kb.data.load(file, regression=True)
    assert splits.classes is None
    assert [len(part) for part in parts(splits).values()] == [35, 5, 10]
    for part in parts(splits).values():
        assert part.targets.dtype == np.float32
        np.testing.assert_array_equal(part.targets, [int(text.split()[1]) / 8 - 3 for text in part.inputs])


@pytest.mark.parametrize(
    ("header", "regression", "expected"),
    [
        ("review,class", False, ("review", "class")),
        ("Sentence,SENTIMENT", False, ("Sentence", "SENTIMENT")),
        ("content,category", False, ("content", "category")),
        ("comment,score", True, ("comment", "score")),
        ("text,label", True, ("text", "label")),
    ],
)
def test_obvious_columns(tmp_path: Path, header: str, regression: bool, expected: tuple[str, str]) -> None:
    file = csv_file(tmp_path / "a.csv", ["0", "1"] * 10, header)
    found = kb.data.load(file, regression=regression)
    named = kb.data.load(file, regression=regression, text=expected[0], label=expected[1])
    assert found.train.inputs == named.train.inputs
    np.testing.assert_array_equal(found.train.targets, named.train.targets)


def test_the_likeliest_column_is_taken(tmp_path: Path) -> None:
    records = [{"rating": i, "sentiment": "ab"[i % 2], "comment": "no", "text": f"yes {i}"} for i in range(20)]
    examples = kb.data.read(jsonl_file(tmp_path / "a.jsonl", records))
    assert examples.inputs == [f"yes {i}" for i in range(20)]
    assert examples.classes == ("a", "b")
    assert kb.data.read(tmp_path / "a.jsonl", regression=True).targets.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0, 10, 9], ("0", "1", "9", "10")),
        (["b", "10", "9"], ("10", "9", "b")),
        ([True, False], ("False", "True")),
        (["-1", "1", "0"], ("-1", "0", "1")),
        ([" 正面", "负面 "], ("正面", "负面")),
    ],
)
def test_class_names(tmp_path: Path, labels: list[Any], expected: tuple[str, ...]) -> None:
    records = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels * 5)]
    splits = kb.data.load(jsonl_file(tmp_path / "a.jsonl", records))
    assert splits.classes == expected
    for part in parts(splits).values():
        for text, target in zip(part.inputs, part.targets, strict=True):
            assert expected[target] == str(records[int(text.split()[1])]["label"]).strip()


def test_parquet_with_integer_labels(tmp_path: Path) -> None:
    table = pyarrow.table({"text": pyarrow.array(["好看", "难看"] * 10).dictionary_encode(), "label": pyarrow.array([1, 0] * 10, "int8")})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    examples = kb.data.read(tmp_path / "a.parquet")
    assert examples.inputs[:2] == ["好看", "难看"]
    assert examples.classes == ("0", "1")
    assert examples.targets.tolist()[:2] == [1, 0]
    assert examples.rows == list(range(1, 21))


def test_classes_can_be_given_in_an_order(file: Path) -> None:
    splits = kb.data.load(file, classes=["good", "bad"])
    assert splits.classes == ("good", "bad")
    assert Counter(splits.test.targets.tolist()) == {0: 28, 1: 12}


def test_folder(tmp_path: Path) -> None:
    for name, count in (("good", 20), ("bad", 10)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} {i}\n")
    splits = kb.data.load(tmp_path)
    names = splits.classes or ()
    assert [len(part) for part in parts(splits).values()] == [21, 3, 6]
    assert all(text.startswith(names[target]) for text, target in zip(splits.train.inputs, splits.train.targets, strict=True))


def test_texts_are_not_changed(tmp_path: Path) -> None:
    texts = ["  leading", "trailing \n", "\u00a0both\t", 'quoted "', "E\u0301"]
    assert kb.data.read(jsonl_file(tmp_path / "a.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts)])).inputs == texts


# Your own files


def test_own_files_for_each_split(tmp_path: Path) -> None:
    files = {name: csv_file(tmp_path / f"{name}.csv", labels) for name, labels in
             (("train", ["b", "a", "c"] * 4), ("validation", ["a", "b"]), ("test", ["c"]))}  # fmt: skip
    for source in (files, ",".join(f"{name}={path}" for name, path in files.items())):
        splits = kb.data.load(source)
        assert [len(part) for part in parts(splits).values()] == [12, 2, 1]
        assert splits.classes == ("a", "b", "c")
        assert splits.test.targets.tolist() == [2]
        assert [part.source for part in parts(splits).values()] == [str(path) for path in files.values()]
        assert [part.role for part in parts(splits).values()] == ["train", "validation", "test"]


def test_a_split_without_a_file_is_taken_from_training(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "train, all.csv", ["a", "b"] * 50)
    test = csv_file(tmp_path / "test.csv", ["b", "a"] * 5)
    splits = kb.data.load(f"test={test},train={train}")
    assert [len(part) for part in parts(splits).values()] == [90, 10, 10]
    assert splits.validation.source == str(train)
    assert [len(part) for part in parts(kb.data.load({"train": train})).values()] == [70, 10, 20]


def test_a_path_may_hold_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv_file(tmp_path / "lr=1.csv", ["a", "b"] * 20)
    monkeypatch.chdir(tmp_path)
    assert len(kb.data.load("lr=1.csv").train) == 28


def test_read_keeps_order_and_takes_the_classes_of_a_run(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "new.csv", ["good", "good"])
    examples = kb.data.read(file, classes=("bad", "good"))
    assert examples.role == "all"
    assert examples.inputs == ["text number 0", "text number 1"]
    assert examples.targets.tolist() == [1, 1]
    assert examples.rows == [2, 3]


# What is refused


def test_missing_file(file: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"Expected a file, a folder or a sample's name \(movie_reviews, .*not there. Did you mean '.*reviews.csv'"
    ):
        kb.data.load(file.with_name("reveiws.csv"))
    with pytest.raises(FileNotFoundError, match="Did you mean 'movie_reviews'"):
        kb.data.load("movie_review")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        kb.data.read(file.parent / "none" / "zzz")


def test_a_preset_is_no_data() -> None:
    refused(r"Received: 'minilm-l6', which is a pretrained model: pass it as preset \(--preset\)", "minilm-l6")


def test_missing_column(file: Path) -> None:
    refused(
        r"Expected a column 'lable' in .*reviews.csv. Received: columns 'text', 'label'. Did you mean 'label'\? .*--label",
        file,
        label="lable",
    )
    refused("Expected a column 'Text' in .* Did you mean 'text'", file, text="Text")
    refused("Expected a column 'zzz' in .* Received: columns 'text', 'label'. Name the column with text=", file, text="zzz")
    refused("Expected two columns, one of texts and one of labels. Received: text='text' and label='text'", file, label="text")


def test_no_obvious_column(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "a.csv", ["a", "b"], "body,labels")
    refused("Expected a text column named text, sentence, review, content or comment in .* Received: columns 'body', 'labels'. Name", file)
    refused("Expected a label column named label, class, sentiment or category in .* Did you mean 'labels'", file, text="body")
    refused("Expected a label column named rating, score, value or label", file, text="body", regression=True)
    semicolons = tmp_path / "b.csv"
    semicolons.write_text("text;label\na;b\n")
    refused("The fields look separated by semicolons: save it with commas", semicolons)


@pytest.mark.parametrize("empty", ["", "  ", "\u3000"])
def test_empty_text_or_label(tmp_path: Path, empty: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"text,label\nfine,good\n{empty},bad\nx,bad\n{empty},bad\n")
    refused(r"Expected a text in each row of column 'text'. Received: 4 rows, of which 2 are empty, the first in row 3 of .*a\.csv", file)
    file.write_text(f"text,label\nfine,good\nx,bad\nx,{empty}\n")
    refused(r"Expected a label in each row of column 'label'. Received: 3 rows, of which 1 is empty, in row 4 of .*a\.csv", file)
    refused("Expected a value in each row", file, regression=True)


def test_a_key_that_a_row_lacks_is_empty(tmp_path: Path) -> None:
    file = jsonl_file(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"label": 0}, {"text": None, "label": 0}])
    refused("Received: 3 rows, of which 2 are empty, the first in row 2", file)


def test_empty_file_in_a_folder_is_named(tmp_path: Path) -> None:
    for name in ("a/1.txt", "b/1.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(" \n" if name[0] == "b" else "x")
    refused(r"of which 1 is empty, in .*b/1\.txt", tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    refused("at least two classes in column 'label'. Received: one, 'good', in all 9 rows of ", csv_file(tmp_path / "a.csv", ["good"] * 9))


def test_class_too_small_to_split(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "a.csv", ["a"] * 20 + ["b"] * 2 + ["c"])
    refused(r"Expected at least 3 examples of each class, one for each split. Received: 2 of class 'b' in .* \(1 other", file)
    test = csv_file(tmp_path / "b.csv", ["a"] * 3)
    refused("Expected at least 2 examples of each class, .* Received: 1 of class 'c'", {"train": file, "test": test})
    file = csv_file(tmp_path / "c.csv", ["a"] * 20 + ["b"] * 20)
    refused("Received: 0 of class 'c'", file, classes=("a", "b", "c"))
    refused("Expected at least 3 examples, one for each split. Received: 2", csv_file(tmp_path / "d.csv", ["1", "2"]), regression=True)


def test_a_number_where_text_should_be(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label,body\n1,a,x\n-2.5,b,y\n")
    refused(r"Expected text in column 'text'. Received: only numbers, such as '1' in row 2 of .*columns are 'text', 'label', 'body'", file)
    assert kb.data.read(file, text="body").inputs == ["x", "y"]
    refused(
        r"Expected text in column 'text'. Received: 5 \(int\) in row 2 of .*Write it as a string",
        jsonl_file(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"text": 5, "label": 0}]),
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": [1.5, 2.5], "label": ["a", "b"]}), tmp_path / "a.parquet")
    refused(r"Received: 1\.5 \(float\) in row 1 of ", tmp_path / "a.parquet")


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine", "label": 1}\n{"text": "\\ud83c", "label": 0}\n')
    refused("Expected valid Unicode in column 'text'. Received: .*ud83c.*half of a surrogate pair, in row 2 of ", file)


def test_a_label_that_is_no_name(tmp_path: Path) -> None:
    file = jsonl_file(tmp_path / "a.jsonl", [{"text": "x", "label": "a"}, {"text": "x", "label": ["a", "b"]}])
    refused(r"Expected a name or a number as label in column 'label'. Received: \['a', 'b'\] \(list\) in row 2", file)


@pytest.mark.parametrize("value", ["good", "nan", "inf", "1e300", "3;5", True])
def test_regression_label_that_is_no_finite_number(tmp_path: Path, value: Any) -> None:
    file = jsonl_file(tmp_path / "a.jsonl", [{"text": "x", "rating": 1}, {"text": "y", "rating": value}])
    refused(f"Expected a finite number as label in column 'rating'.* Received: {value!r} in row 2 of ", file, regression=True)


def test_many_numbers_are_no_classes(tmp_path: Path) -> None:
    measured = csv_file(tmp_path / "a.csv", [str(i / 7) for i in range(20)])
    refused(r"Received: 20 different numbers in 20 rows of .* Pass regression=True \(--regression\)", measured)
    refused("Received: 101 different numbers", csv_file(tmp_path / "b.csv", [str(i % 101) for i in range(1010)]))
    assert len(kb.data.load(csv_file(tmp_path / "c.csv", [str(i % 100) for i in range(1000)])).classes or ()) == 100


def test_label_unseen_in_training(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "train.csv", ["good", "bad"] * 10)
    test = csv_file(tmp_path / "test.csv", ["good", "god", "ugly", "ugly"])
    match = r"classes known from training: 'bad', 'good'. Received: 'god' in row 3 of .*test\.csv \(3 rows in all\). Did you mean 'good'"
    refused(match, {"train": train, "test": test})
    with pytest.raises(ValueError, match=match):
        kb.data.read(test, classes=("bad", "good"))


@pytest.mark.parametrize(("validation", "test"), [(0, 0.2), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (0.1, 1.2), (float("nan"), 0.2)])
def test_fractions_out_of_range(file: Path, validation: float, test: float) -> None:
    refused(
        f"fractions above 0 that together stay below 1. Received: validation={validation}, test={test}",
        file,
        validation=validation,
        test=test,
    )


def test_options_that_cannot_be(file: Path) -> None:
    refused("Expected a seed of 0 or more. Received: seed=-1", file, seed=-1)
    refused(
        "Expected task to be one of text-classifier, text-generator, .*. Received: task='text-clasifier'. Did you mean 'text-classifier'",
        file,
        task="text-clasifier",
    )
    refused("Expected no classes for a regression", file, regression=True, classes=("a", "b"))
    refused(r"at least two different class names. Received: classes=\('a', 'a'\)", file, classes=("a", "a"))
    refused("at least two different class names. Received: classes='good'", file, classes="good")


def test_own_files_that_are_one_file(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "hard.csv")
    os.symlink(file, tmp_path / "soft.csv")
    for other in (file, tmp_path / "hard.csv", tmp_path / "soft.csv", file.parent / "." / ".." / tmp_path.name / file.name):
        refused("Expected a file of its own for each split. Received: .* for train and test", {"train": file, "test": other})
    other = csv_file(tmp_path / "other.csv", ["bad"])
    refused("for validation and test", f"train={file},validation={other},test={other}")


def test_own_files_named_wrong(file: Path) -> None:
    refused("Expected files for train, validation, test. Received: 'val'. Did you mean 'validation'", f"train={file},val={file}")
    refused("Expected a training file. Received: files for test only. Add train=FILE", f"test={file}")
    refused("Expected a training file. Received: files for no split only", {})
    refused("Expected one file a split. Received: two for 'train'", f"train={file},train={file}")
    refused("Expected a file for 'test'. Received: an empty name", f"train={file},test=")
    with pytest.raises(FileNotFoundError, match="which is not there"):
        kb.data.load(f"train={file},test={file}x")
    with pytest.raises(ValueError, match=r"Expected one file, folder or sample. Received: .*such as b\.csv"):
        kb.data.read("train=a.csv,test=b.csv")


# Examples and the package


def test_examples_that_do_not_fit_together() -> None:
    ids = np.array([0, 1], "int32")
    with pytest.raises(ValueError, match=r"as many inputs as targets and rows. Received: 1 inputs, 2 targets, 2 rows"):
        Examples(["a"], ids, ("x", "y"), [1, 2], "a.csv", "all")
    with pytest.raises(ValueError, match=r"role to be one of train, validation, test, unseen, all. Received: role='dev'"):
        Examples(["a", "b"], ids, ("x", "y"), [1, 2], "a.csv", "dev")
    with pytest.raises(ValueError, match=r"class ids from 0 to 0.*targets from 0 to 1"):
        Examples(["a", "b"], ids, ("x",), [1, 2], "a.csv", "all")
    one = Examples(["a", "b"], ids, ("x", "y"), [1, 2], "a.csv", "all")
    two = Examples(["a", "b"], ids, ("y", "x"), [1, 2], "a.csv", "all")
    with pytest.raises(ValueError, match=r"same classes in each split. Received: train=\('x', 'y'\)"):
        Splits(one, two, one)


def test_reading_data_is_light(file: Path) -> None:
    program = (
        "import sys, os; before = dict(os.environ); import kerasbig as kb; import kerasbig.data.samples;"
        f"kb.data.load({str(file)!r}); assert kb.data.samples()[0].name == 'movie_reviews';"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'pyarrow', 'pandas', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_are_there() -> None:
    assert [name for name in kb.data.__all__ if not hasattr(kb.data, name)] == []
    with pytest.raises(AttributeError, match=r"No kerasbig\.data attribute nothing"):
        kb.data.nothing  # noqa: B018


# The sample itself


@pytest.mark.slow
def test_movie_reviews() -> None:
    splits = kb.data.load("movie_reviews")
    assert [len(part) for part in parts(splits).values()] == [7424, 1060, 2121]
    assert splits.classes == ("negative", "positive")
    assert sum(int(part.targets.sum()) for part in parts(splits).values()) == 5242
    assert splits.train.source == "movie_reviews"
    ratings = kb.data.read("movie_reviews", regression=True)
    labels = kb.data.read("movie_reviews")
    assert ratings.inputs == labels.inputs
    np.testing.assert_array_equal(ratings.targets > 0, labels.targets == 1)
