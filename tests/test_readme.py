"""README's example and its commands are true."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from conftest import review_lines

from kerasbig.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
def test_python_example_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    lines, targets = review_lines(120)
    with open(tmp_path / "reviews.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("review", "sentiment"))
        writer.writerows((line, ("negative", "positive")[target]) for line, target in zip(lines, targets, strict=True))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "saved_models/sentiment/manifest.json").is_file()
    assert '"label"' in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["kerasbig"] or words[1].startswith("-"):
                continue
            # What follows `--` of `launch` is a command of its own.
            parts = [words[1:], []] if "--" not in words else [words[1 : words.index("--")], words[words.index("--") + 1 :]]
            for part in filter(None, parts):
                known = {option for parameter in app.commands[part[0]].params for option in parameter.opts}
                assert {word.split("=")[0] for word in part[1:] if word.startswith("--")} <= known | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
