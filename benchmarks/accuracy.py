"""Accuracy on the test split of the movie reviews: `kerasbig train` against PyTorch + transformers.

    python benchmarks/accuracy.py --make-peer peer-env     installs PyTorch + transformers there, once, and measures
    python benchmarks/accuracy.py --peer-python peer-env/bin/python
    python benchmarks/accuracy.py                          ours alone

Both fine-tune the checkpoint `minilm-l6`. For each seed, ours is `kerasbig train text-classifier` and `kerasbig evaluate`
in processes of their own; the peer (`benchmarks/peers/transformers_bert.py`) then gets the same three splits, the epochs,
batch size, sequence length, peak rate, warm-up, decay form, weight decay and precision of that Run, and keeps the epoch
with the lowest validation loss, as ours does. It too groups reviews by length and pads to the longest of a batch. The
two take turns, seed by seed. A seed decides the splits as well as the training. About 20 minutes for three seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_peer, finish, kerasbig, load_tensorflow, make_peer, note, parser, stand_in_preset, stand_in_table, table, verdict

FLOOR, NEAR = 0.835, 0.5  # accuracy; points below the peer
PEER = Path(__file__).parent / "peers" / "transformers_bert.py"


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options.add_argument("--data", default="movie_reviews", help="default: %(default)s")
    options.add_argument("--preset", default="minilm-l6", help="for the peer it must be a Hugging Face folder (default: %(default)s)")
    add_peer(options)
    arguments = options.parse_args()
    peer_python = make_peer(arguments.make_peer) if arguments.make_peer else arguments.peer_python
    with tempfile.TemporaryDirectory() as scratch:
        extra: list[str] = []
        if arguments.quick:
            arguments.seeds, extra = [0], ["--epochs", "1"]
            arguments.data = str(stand_in_table(Path(scratch) / "reviews.csv", 100))
            if peer_python is None:
                load_tensorflow()
                arguments.preset = str(stand_in_preset(Path(scratch) / "preset"))
        rows = [measure(seed, arguments, extra, peer_python, Path(scratch)) for seed in arguments.seeds]
    report(arguments, rows)


def measure(seed: int, arguments: argparse.Namespace, extra: list[str], peer_python: Path | None, scratch: Path) -> dict[str, Any]:
    """Trains and measures both with one seed."""
    run = scratch / f"seed-{seed}"
    words = ["text-classifier", "--data", arguments.data, "--preset", arguments.preset, "--seed", str(seed)]
    _, seconds = kerasbig("train", *words, *extra, "--out", run)
    answer, evaluate_seconds = kerasbig("evaluate", run, "--json")
    evaluated, config = json.loads(answer), json.loads((run / "config.json").read_text(encoding="utf-8"))
    row = {
        "seed": seed,
        "test_examples": evaluated["examples"],
        "precision": config["precision"]["policy"],
        "ours": {
            "accuracy": evaluated["accuracy"],
            "loss": evaluated["loss"],
            "fit_seconds": config["training"]["seconds"],
            "seconds": round(seconds + evaluate_seconds, 1),
        },
    }
    if peer_python is not None:
        row["peer"] = measure_peer(run, peer_python, scratch)
    return row


def measure_peer(run: Path, peer_python: Path, scratch: Path) -> dict[str, Any]:
    """Hands a Run's splits and options to the peer and returns its figures."""
    load_tensorflow()
    from kerasbig.cli.answer import run_examples
    from kerasbig.data.presets import resolve_bert_preset
    from kerasbig.run import open_run

    opened = open_run(run)
    parts = {role: run_examples(opened, None, role) for role in ("train", "validation", "test")}
    names = ("epochs", "batch_size", "sequence_length", "learning_rate", "warmup", "weight_decay", "dropout", "seed")
    job = {
        "checkpoint": resolve_bert_preset(opened.options["preset"]),
        "classes": len(opened.classes or ()),
        "bfloat16": opened.config["precision"]["policy"] == "mixed_bfloat16",
        "options": {name: opened.options[name] for name in names},
        "splits": {role: {"inputs": part.inputs, "targets": part.targets.tolist()} for role, part in parts.items()},
    }
    job_file, result_file = scratch / "job.json", scratch / "result.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    note(f"{peer_python} {PEER.name}")
    started = time.perf_counter()
    subprocess.run(
        [str(peer_python), str(PEER), str(job_file), str(result_file)],
        check=True, stdout=sys.stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return json.loads(result_file.read_text(encoding="utf-8")) | {"seconds": round(seconds, 1)}


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints the table and the JSON."""
    sides = [side for side in ("ours", "peer") if side in rows[0]]
    medians = {side: statistics.median(row[side]["accuracy"] for row in rows) for side in sides}
    seconds = {side: statistics.median(row[side]["seconds"] for row in rows) for side in sides}
    print(f"{arguments.data}, {arguments.preset}: accuracy on {rows[0]['test_examples']:,} test reviews, {rows[0]['precision']}\n")
    lines = [_line(f"seed {row['seed']}", *(row.get(side) for side in ("ours", "peer"))) for row in rows]
    both = [{"accuracy": medians[side], "seconds": seconds[side]} if side in sides else None for side in ("ours", "peer")]
    table(["", "ours", "peer", "ours - peer", "ours, s", "peer, s"], [*lines, _line("median", *both)])
    wanted = [verdict("accuracy, median", medians["ours"], ">=", FLOOR)]
    difference = None
    if "peer" in medians:
        difference = 100 * (medians["ours"] - medians["peer"])
        wanted.append(verdict("ours - peer, medians", difference, ">=", -NEAR, " points"))
        print("peer: " + " · ".join(f"{name} {version}" for name, version in rows[0]["peer"]["versions"].items()) + "\n")
    result = {"data": arguments.data, "preset": arguments.preset, "rows": rows, "medians": medians, "difference_points": difference}
    finish("accuracy", arguments, result, wanted)


def _line(label: str, ours: dict[str, Any] | None, peer: dict[str, Any] | None) -> list[str]:
    difference = f"{100 * (ours['accuracy'] - peer['accuracy']):+.2f} points" if ours and peer else ""
    accuracies = [f"{side['accuracy']:.4f}" if side else "" for side in (ours, peer)]
    return [label, *accuracies, difference, *(f"{side['seconds']:.0f}" if side else "" for side in (ours, peer))]


if __name__ == "__main__":
    main()
