"""The house: imports run only forward, `import kerasbig` is light, files stay small."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kerasbig

PACKAGE = Path(kerasbig.__file__).parent
# What each part may import of its siblings; `files`, `remote`, `arguments` and `decoding` are the basement that all may use.
MAY_IMPORT = {
    "remote": set(),
    "files": set(),
    "arguments": set(),
    "decoding": set(),
    "data": set(),
    "text": {"data"},
    "distribute": set(),
    "compress": {"data", "export"},
    "export": {"data"},
    "explain": {"data"},
    "serve": {"export"},
    "report": set(),
    "vision": {"data"},
    "tasks": {"data", "text", "vision", "distribute", "compress", "explain", "export", "report"},
    "run": {"tasks"},
    "cli": {"data", "text", "vision", "distribute", "compress", "explain", "export", "serve", "report", "tasks", "run"},
}


def siblings(file: Path) -> set[str]:
    """Returns the parts of kerasbig that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kerasbig":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kerasbig.")}
    return found


def files() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.parent != PACKAGE or file.stem not in ("__init__", "__main__")]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_forward(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert siblings(file) - {part, "files", "remote", "arguments", "decoding"} <= MAY_IMPORT[part]


def test_every_part_is_in_the_rule():
    assert {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in files()} == set(MAY_IMPORT)


def test_tfmot_is_imported_in_one_file():
    using = [
        file.name for file in files() if "tensorflow_model_optimization" in file.read_text(encoding="utf-8") and file.parent.name != "cli"
    ]
    assert using == ["_tfmot.py"]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{node.name} has {lines} lines"


PROBE = """
import json, os, sys, time
before = dict(os.environ)
start = time.process_time()  # of this process alone: tests beside it do not count
import kerasbig
seconds = time.process_time() - start
loaded = {name: name in sys.modules for name in ("tensorflow", "keras")}
print(json.dumps({"seconds": seconds, "env": dict(os.environ) == before, **loaded}))
"""


def test_import_is_light():
    runs = [json.loads(subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(run["seconds"] for run in runs) < 0.2
    assert all(run["env"] and not run["tensorflow"] and not run["keras"] for run in runs)


WHOLE = """
import json, os, sys
before = dict(os.environ)
import kerasbig as kb
for name in kb.__all__:
    part = getattr(kb, name)
    for public in part.__all__:
        getattr(part, public)
changed = {key for key in set(before) | set(os.environ) if before.get(key) != os.environ.get(key)}
print(json.dumps({"changed": sorted(changed), "tf_keras": "tf_keras" in sys.modules}))
"""


def test_using_every_part_changes_no_environment_and_loads_no_tf_keras():
    out = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True, check=True).stdout
    result = json.loads(out.splitlines()[-1])
    # TensorFlow itself sets TF2_BEHAVIOR and the like; nothing of ours or of TF-MOT's may stay.
    assert not [key for key in result["changed"] if "KERAS" in key or "LEGACY" in key]
    assert not result["tf_keras"]


def test_unknown_part():
    with pytest.raises(AttributeError, match="module 'kerasbig' has no attribute 'vison'"):
        _ = kerasbig.vison


def test_command_line_starts_fast():
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "kerasbig", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - start < 3
