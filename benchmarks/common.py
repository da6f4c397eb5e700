"""What the benchmark programs share: machine facts, tables, JSON, verdicts, and the stand-in data of `--quick`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PEER_PACKAGES = ("torch==2.13.0", "transformers", "numpy", "safetensors")
PACKAGES = ("kerasbig", "tensorflow", "keras", "keras-hub", "numpy")
COMPARISONS: dict[str, Callable[[float, float], bool]] = {">=": float.__ge__, "<=": float.__le__, "<": float.__lt__}


def parser(docstring: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help is the program's docstring, with the options of all programs."""
    made = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the JSON to this file")
    made.add_argument("--quick", action="store_true", help="tiny stand-ins: shows that the program runs; its figures mean nothing")
    return made


def add_peer(options: argparse.ArgumentParser) -> None:
    """Adds the options that name the environment of the peer."""
    peers = options.add_mutually_exclusive_group()
    peers.add_argument("--peer-python", type=Path, metavar="PATH", help="the Python of an environment with torch and transformers")
    peers.add_argument("--make-peer", type=Path, metavar="FOLDER", help="make that environment here first, if it is not there")


def make_peer(folder: Path) -> Path:
    """Makes an environment for the peer alone and returns its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        note(f"installing {' '.join(PEER_PACKAGES)} into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True, stdout=sys.stderr)
    return python


PAUSE_SECONDS = 0.5


class Peer:
    """The other side, in a process and an environment of its own, waiting for its turn.

    Args:
        python: The Python of that environment.
        program: One of `peers/` that answers a line of JSON with another.
        config: What it builds its model from.
        folder: Where the config is written.
    """

    def __init__(self, python: Path, program: Path, config: Mapping[str, Any], folder: Path):
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        command = [str(python), str(program), str(folder / "config.json")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._versions = self._read()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Gives it a job, waits for the answer, and lets the threads of both sides fall asleep: they wait actively at first."""
        assert self._process.stdin
        time.sleep(PAUSE_SECONDS)
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        time.sleep(PAUSE_SECONDS)
        return answer

    def close(self) -> dict[str, Any]:
        """Ends it and returns its versions."""
        self._process.communicate()
        return self._versions

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The peer ended; what it said stands above.")
        return json.loads(line)


def machine() -> dict[str, Any]:
    """Returns the processor's name, the cores this process may use, the memory and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        memory = None
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_end": load,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of Python and of packages."""
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under columns; all but the first are right-aligned."""
    widths = [max(len(str(row[i])) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [str(cell).rjust(width) if i else str(cell).ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    print()


def verdict(what: str, value: float, comparison: str, target: float, unit: str = "") -> dict[str, Any]:
    """Compares a figure with its target."""
    passed = COMPARISONS[comparison](float(value), float(target))
    return {"what": what, "value": value, "comparison": comparison, "target": target, "unit": unit, "passed": passed}


def finish(name: str, arguments: argparse.Namespace, result: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]] = ()) -> None:
    """Prints the verdicts, the machine, the versions and one line of JSON; writes the JSON where `--json` says.

    Exits with 1 if a target was missed, except with `--quick`, whose figures mean nothing.
    """
    if verdicts:
        rows = [
            [row["what"], f"{row['value']:.3g}{row['unit']}", f"{row['comparison']} {row['target']:g}{row['unit']}", _word(row["passed"])]
            for row in verdicts
        ]
        table(["target", "measured", "wanted", ""], rows)
    facts, packages = machine(), versions()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, load {facts['load_at_end']}")
    print(" · ".join(f"{package} {version}" for package, version in packages.items()) + "\n")
    content = {"benchmark": name, "quick": arguments.quick, **result, "verdicts": list(verdicts), "machine": facts, "versions": packages}
    line = json.dumps(content)
    print(line)
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    if not arguments.quick and not all(row["passed"] for row in verdicts):
        sys.exit(1)


def kerasbig(*arguments: str | os.PathLike[str]) -> tuple[str, float]:
    """Runs `kerasbig` with arguments in a process of its own; returns its standard output and its seconds."""
    words = [os.fspath(argument) for argument in arguments]
    note(f"kerasbig {' '.join(words)}")
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, "-m", "kerasbig", *words], stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(f"kerasbig {words[0]} ended with exit code {finished.returncode}.")
    return finished.stdout, time.perf_counter() - started


def note(message: str) -> None:
    """Prints one line about what is going on to standard error."""
    print(message, file=sys.stderr, flush=True)


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up lines, which would bury the table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from kerasbig.cli import quiet

    quiet.load_tensorflow()


def stand_in_lines(count: int) -> tuple[list[str], list[str]]:
    """Makes short reviews and their labels, for `--quick`."""
    chance = random.Random(0)
    labels = ["positive" if i % 2 else "negative" for i in range(count)]
    words = {"positive": ("fine", "great", "lovely"), "negative": ("dull", "awful", "weak")}
    lines = [" ".join([*chance.choices(("the", "film", "story", "was", "a"), k=chance.randint(2, 18)), *chance.choices(words[label])])
             for label in labels]  # fmt: skip
    return lines, labels


def stand_in_table(file: Path, count: int) -> Path:
    """Writes such reviews as a CSV."""
    lines, labels = stand_in_lines(count)
    file.write_text("text,label\n" + "".join(f"{line},{label}\n" for line, label in zip(lines, labels, strict=True)), encoding="utf-8")
    return file


def stand_in_preset(folder: Path) -> Path:
    """Saves a tiny BERT with random weights as a KerasHub preset."""
    import kerasbig as kb

    vocabulary = kb.text.learn_wordpiece(stand_in_lines(64)[0], 120)
    kb.text.bert_classifier(("negative", "positive"), size="tiny", vocabulary=vocabulary).save_to_preset(str(folder))
    return folder


def _word(passed: bool) -> str:
    return "pass" if passed else "MISSED"


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
