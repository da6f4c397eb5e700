"""A text file to windows of tokens: megabytes a second, memory, and how busy the cores are.

    python benchmarks/packing.py                           1 GB of text; minutes
    python benchmarks/packing.py --megabytes 100           less of it
    python benchmarks/packing.py --quick                   seconds: too little text for its figures to mean anything

The text is drawn by chance from 60,000 made-up words, which come as often as words do (Zipf), in sentences and paragraphs,
with numbers and, one paragraph in ten, Chinese characters. A byte-level vocabulary of 8,192 tokens is learnt on its beginning.

One fresh process then does what a training does: it builds a generator, finds the documents (`kerasbig.data.load`), tokenizes
them into a mapped file and packs them (`kerasbig.data.batches`), and takes one shuffled epoch of batches without training on
them. Its resident memory is what the system counts (VmHWM), TensorFlow included; JAX, which only the tests install and
TensorFlow imports where it is there, is not. Memory "with all processes" also has the processes that tokenize, shared pages
counted once (the sum of Pss, sampled). Busy is processor time by time and cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, load_tensorflow, note, parser, table, verdict

LIMIT_MIB = 1024
SEQUENCE_LENGTH, BATCH_SIZE, VOCABULARY_SIZE = 256, 8, 8192
SYLLABLES = [first + second for first in "bcdfghklmnprstvw" for second in ("a", "e", "i", "o", "u", "an", "er", "ing", "ion", "st")]


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=1000, help="size of the text (default %(default)s)")
    options.add_argument("--part", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    arguments = options.parse_args()
    if arguments.part:
        print(json.dumps(pack(arguments.part)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        file, megabytes = Path(scratch) / "text.txt", 12 if arguments.quick else arguments.megabytes
        note(f"writing {megabytes} MB of text")
        write_text(file, megabytes * 1_000_000)
        note("loading, tokenizing and packing it in a process of its own")
        found, all_processes = measured([sys.executable, __file__, "--part", str(file)])
    report(arguments, found, all_processes)


def write_text(file: Path, size: int) -> None:
    """Writes so many bytes of text."""
    written = 0
    with open(file, "w", encoding="utf-8", newline="") as stream:
        for paragraph in paragraphs(np.random.default_rng(0)):
            stream.write(paragraph)
            written += len(paragraph.encode())
            if written >= size:
                return


def paragraphs(random: np.random.Generator) -> Iterator[str]:
    """Yields paragraphs without end."""
    words = np.array(["".join(random.choice(SYLLABLES, random.choice([1, 1, 2, 2, 3, 4]))) for _ in range(60_000)])
    chances = 1 / (np.arange(len(words)) + 3)
    edges = np.cumsum(chances / chances.sum())
    marks = np.array([" "] * 16 + [", "] * 2 + [". ", f" {random.integers(2000)} ", "'s "])
    while True:
        if random.random() < 0.1:
            yield "".join(map(chr, 0x4E00 + (random.pareto(1.1, 200) * 20).astype(int) % 5000)) + "。\n\n"
            continue
        chosen = words[np.searchsorted(edges, random.random(120)).clip(max=len(words) - 1)]
        yield "".join(np.char.add(chosen, marks[random.integers(len(marks), size=120)])) + "\n\n"


def pack(file: Path) -> dict[str, Any]:
    """Does what a training does before its first step, and an epoch of batches; returns seconds and memory of each step."""
    sys.modules["jax"] = None
    load_tensorflow()
    import kerasbig as kb
    from kerasbig.data.token_workers import number_of_cores

    with open(file, encoding="utf-8") as stream:
        vocabulary = kb.text.learn_bpe([stream.readline() for _ in range(2000)], VOCABULARY_SIZE)
    model = kb.text.gpt_generator(size="tiny", vocabulary=vocabulary, sequence_length=SEQUENCE_LENGTH)
    found: dict[str, Any] = {"before": {"seconds": 0.0, "peak_mib": peak_mib()}}
    started = time.perf_counter()
    splits = kb.data.load(file, "text-generator", validation=0.005, test=0.005)
    found["load"] = {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}

    started, used = time.perf_counter(), sum(os.times()[:4])
    dataset = kb.data.batches(splits.train, model, batch_size=BATCH_SIZE, cache_dir=file.parent / "tokens")
    seconds = time.perf_counter() - started
    busy = (sum(os.times()[:4]) - used) / seconds / number_of_cores()
    found["tokenize"] = {"seconds": seconds, "peak_mib": peak_mib(), "busy": busy}

    started = time.perf_counter()
    tokens = sum(int(inputs["padding_mask"].sum()) for inputs, _, _ in dataset.as_numpy_iterator())
    found["epoch"] = {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}

    started = time.perf_counter()
    kb.data.batches(splits.train, model, batch_size=BATCH_SIZE, cache_dir=file.parent / "tokens")
    found["again"] = {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}
    return {"steps": found, "bytes": splits.train.bytes, "tokens": tokens, "windows": -(-tokens // SEQUENCE_LENGTH)}


def peak_mib() -> float:
    """Returns the most resident memory this process has had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measured(command: list[str]) -> tuple[dict[str, Any], float]:
    """Runs a command; returns what it prints as JSON, and the most memory (MiB) that it and its processes had together."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples: list[float] = []

    def sample() -> None:
        while process.poll() is None:
            samples.append(pss_mib(process.pid))
            time.sleep(0.2)

    thread = threading.Thread(target=sample)
    thread.start()
    printed, _ = process.communicate()
    thread.join()
    if process.returncode:
        raise SystemExit(f"The process that packs ended with exit code {process.returncode}.")
    return json.loads(printed.splitlines()[-1]), max(samples)


def pss_mib(process: int) -> float:
    """Returns the memory of a process and all that it has started, each shared page counted once."""
    total = 0.0
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        total = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            total += sum(pss_mib(int(child)) for child in children.read_text(encoding="utf-8").split())
    except OSError:  # it has just ended
        pass
    return total


def report(arguments: argparse.Namespace, found: dict[str, Any], all_processes: float) -> None:
    """Prints the table and the JSON."""
    steps, megabytes = found["steps"], found["bytes"] / 1e6
    labels = {
        "before": "TensorFlow and a tiny generator",
        "load": "load: the documents are found and checked",
        "tokenize": "batches: tokenized on all cores",
        "epoch": "one shuffled epoch of batches",
        "again": "batches again: the file is found",
    }
    rates = {name: megabytes / step["seconds"] for name, step in steps.items() if step["seconds"]}
    rows = [
        [label, f"{steps[name]['seconds']:.1f}", f"{rates[name]:,.1f}" if name in rates else "", f"{steps[name]['peak_mib']:,.0f}"]
        for name, label in labels.items()
    ]
    table(["step", "s", "MB/s", "peak MiB"], rows)
    busy = steps["tokenize"]["busy"]
    rate = found["windows"] / steps["epoch"]["seconds"]
    print(f"{megabytes:,.1f} MB of text, {found['tokens']:,} tokens, {rate:,.0f} windows/s in the epoch")
    print(f"cores busy while tokenizing: {busy:.0%}; memory with all processes: {all_processes:,.0f} MiB\n")
    peak = max(step["peak_mib"] for step in steps.values())
    wanted = [verdict("resident memory", peak, "<", LIMIT_MIB, " MiB")]
    result = {**found, "megabytes_per_second": rates, "peak_mib": peak, "peak_mib_all_processes": all_processes, "busy": busy}
    finish("packing", arguments, result, wanted)


if __name__ == "__main__":
    main()
