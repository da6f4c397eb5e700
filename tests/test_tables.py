"""Table files and folders: what is read, and the one message of each thing that cannot be."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kerasbig.data.folders import read_folder
from kerasbig.data.tables import read_table

# What tables get wrong first: quotes, separators, line ends, other scripts, characters beyond 16 bits, near line ends.
PIECES = ['"', '""', ",", "\t", "\n", "\r\n", ";", "'", "a", "Ö", "好看", "🎬", "  ", "\u2028", "\\", "=1", "{", "#"]


def random_texts(seed: int, count: int = 40) -> list[str]:
    chosen = random.Random(seed)
    return ["x" + "".join(chosen.choices(PIECES, k=chosen.randrange(1, 9))) for _ in range(count)]


def write(path: Path, columns: dict[str, list[str]]) -> Path:
    """Writes a table by the reference writers: csv, json and pyarrow."""
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(columns), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(records)
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def refused(path: Path, match: str, encoding: str = "utf-8") -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read_table(path, encoding=encoding)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_written_is_read_back(tmp_path: Path, ending: str, seed: int) -> None:
    columns = {"text": random_texts(seed), "label": random_texts(seed + 100)}
    table = read_table(write(tmp_path / f"a{ending}", columns))
    assert table.columns == columns
    assert len(table.rows) == 40
    assert table.rows == sorted(set(table.rows))


def test_rows_are_the_lines_where_records_start(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'text,label\r\n"one\r\nand a half",a\r\n\r\n"two",b\r\nthree,c')
    table = read_table(file)
    assert table.columns == {"text": ["one\r\nand a half", "two", "three"], "label": ["a", "b", "c"]}
    assert table.rows == [2, 5, 6]
    assert table.place(1) == f"row 5 of {file}"


def test_rows_of_json_lines_count_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n{"label": 3, "text": "two"}\n')
    table = read_table(file)
    assert table.rows == [1, 3]
    assert table.columns == {"text": ["one", "two"], "label": [None, 3]}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path / f"a{ending}", {"text": ["fine"], "label": ["good"]})
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert list(read_table(file).columns) == ["text", "label"]


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "café €"), ("gb18030", "好看的电影"), ("utf-16", "ein schöner Film"), ("UTF_8", "ö")]
)
def test_other_encodings(tmp_path: Path, encoding: str, text: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"text,label\n{text},good\n", encoding=encoding)
    assert read_table(file, encoding=encoding).columns["text"] == [text]


def test_the_ending_may_be_in_capitals(tmp_path: Path) -> None:
    file = tmp_path / "A.CSV"
    file.write_text("text,label\nfine,good\n")
    assert read_table(file).columns["text"] == ["fine"]


def test_unknown_ending(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    file.write_text("x")
    refused(file, r"ends in \.csv, \.tsv, \.jsonl, \.json, \.parquet\. Received: '.*a\.xlsx'.*exports CSV")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_empty_file(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    file.touch()
    refused(file, "at least one row. Received: .*, an empty file")


@pytest.mark.parametrize("content", ["text,label\n", "\n\n", "text,label"])
def test_no_row_below_the_column_names(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    refused(file, "at least one row. Received: .*, which holds none below its column names")


@pytest.mark.parametrize(
    ("ending", "content", "match"),
    [
        (".csv", "text,label\na,b\na, well,b\n", r"Expected 2 fields, as the first row has. Received: 3 in row 3 of .*a comma in quotes"),
        (".csv", 'text,label\n"a\nb",c\nd\n', "Expected 2 fields, as the first row has. Received: 1 in row 4 of "),
        (".tsv", "text\tlabel\na\tb\tc\n", "Expected 2 fields, as the first row has. Received: 3 in row 2 of .*a tab in quotes"),
    ],
)
def test_ragged_rows(tmp_path: Path, ending: str, content: str, match: str) -> None:
    file = tmp_path / f"a{ending}"
    file.write_text(content)
    refused(file, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            'text,label\na,b\n"never closed,c\nd,e\n',
            "Expected comma-separated fields. Received: row 3 of .*unexpected end of data.*Close each quoted field",
        ),
        ('text,label\n"a" b,c\n', "Expected comma-separated fields. Received: row 2 of .*expected after"),
        ("text,label\n" + "a" * 200_000 + ",b\n", "row 2 of .*field larger than field limit .*JSON lines or Parquet"),
        ("text,text,label\na,b,c\n", "each column to have its own name. Received: 'text' more than once in the first row"),
    ],
)
def test_malformed_csv(tmp_path: Path, content: str, match: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    refused(file, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"text": "a"}\n{"text": \n', "one JSON object a line.*Received: row 2 of .*malformed: Expecting value"),
        ('{"text": "a"}\n["b"]\n', "one JSON object a line.*Received: row 2 of .*, which is a list"),
        ('[\n{"text": "a"}\n]\n', "Received: row 1 of .*looks like one JSON array. Write each object on a line of its own"),
        ("[" * 100_000 + "\n", "Received: row 1 of .*malformed"),
        ('{"text": ' + "1" * 5000 + "}\n", "Received: row 1 of .*malformed"),
    ],
)
def test_malformed_json_lines(tmp_path: Path, content: str, match: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    refused(file, match)


def test_malformed_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("text,label\na,b\n")
    refused(file, "Expected a Parquet file. Received: .*, which cannot be read: ")
    write(file, {"text": ["a" * 1000] * 100, "label": ["b"] * 100})
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused(file, "Expected a Parquet file. Received: .*, which cannot be read: ")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_not_utf8(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    file.write_bytes("text,label\nfine,good\ncafé,good\n".encode("cp1252"))
    refused(file, r"Expected utf-8 text. Received: byte 0xe9 in row 3 of .*, which is not utf-8. .*encoding='cp1252' \(--encoding cp1252")


def test_utf16_is_told_by_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\nfine,good\n", encoding="utf-16")
    refused(file, r"starts with the mark of UTF-16. Pass encoding='utf-16' \(--encoding utf-16\)")


def test_wrong_encoding_named_by_the_user(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\n好,good\n", encoding="utf-8")
    refused(file, "Expected ascii text. Received: byte 0xe5 in row 2 of .*, which is not ascii", encoding="ascii")


@pytest.mark.parametrize("encoding", ["utf-9", "zip", "hex"])
def test_unknown_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\na,b\n")
    with pytest.raises(ValueError, match=f"name of a text encoding that Python knows.*Received: encoding='{encoding}'"):
        read_table(file, encoding=encoding)


def test_binary_file(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\nfine,good\n\x00\x01,x\n")
    refused(file, "Expected a text file. Received: .*, which holds a NUL byte in row 3, as binary files do")
    file.write_text("text,label\na\0b,good\n", encoding="utf-16")
    refused(file, "which holds a NUL character in row 2", encoding="utf-16")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        file = write(tmp_path / f"a{ending}", {"text": random_texts(seed), "label": random_texts(seed + 1)})
        content = bytearray(file.read_bytes())
        for _ in range(chosen.randrange(1, 6)):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        file.write_bytes(content[: chosen.randrange(1, len(content) + 1)])
        message = None
        try:
            read_table(file)
        except ValueError as error:
            message = str(error)
        assert message is None or (str(file) in message and "\n" not in message)


def make_folder(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "good/b.txt": "好看\n",
        "good/a.TXT": "fine",
        "bad/a.txt": "dull",
        "bad/.hidden.txt": "x",
        ".git/a.txt": "x",
        "bad/a.md": "x",
        "README.md": "x",
    }
    table = read_folder(make_folder(tmp_path, files))
    assert table.columns == {"text": ["dull", "fine", "好看\n"], "label": ["bad", "good", "good"]}
    assert table.place(0) == str(tmp_path / "bad" / "a.txt")
    assert re.search(r"read 3 \.txt files, passed over 2 other entries \(\.md 2\)", caplog.text)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            {"a.md": "", "b.pdf": "", "c.pdf": ""},
            r"one sub-folder a class. Received: .* without sub-folders; it holds 3 other entries \(\.pdf 2, \.md 1\)",
        ),
        ({"reviews.csv": "", "b.pdf": ""}, r"without sub-folders.* Name the table itself: .*reviews\.csv"),
        ({}, "without sub-folders; it holds nothing"),
        (
            {"good/a.txt": "x", "bad/a.md": "", "bad/b.md": ""},
            r"at least one \.txt file .*Received: none in .*bad, which holds 2 other entries \(\.md 2\)",
        ),
        ({"good/train/a.txt": "x"}, r"Received: none in .*good, which holds 1 other entry \(folder 1\)"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, files: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_folder(make_folder(tmp_path, files))


def test_a_file_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    make_folder(tmp_path, {"good/a.txt": "x", "bad/a.txt": "x"})
    (tmp_path / "bad" / "a.txt").write_bytes(b"one\ncaf\xe9")
    with pytest.raises(ValueError, match=r"byte 0xe9 in row 2 of .*bad/a\.txt, which is not utf-8"):
        read_folder(tmp_path)
