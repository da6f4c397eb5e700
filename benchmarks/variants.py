"""What each way to compress costs and gains: the fine-tuned BERT of the movie reviews, pruned, clustered, for int8, distilled.

    python benchmarks/variants.py --folder runs/variants                 three seeds: hours; goes on after a kill
    python benchmarks/variants.py --folder runs/variants --seeds 0       one seed
    python benchmarks/variants.py --quick                                minutes: a tiny model, figures mean nothing

Everything is made with public commands, `kerasbig train`, `compress` and `export`, one process each; what is in the folder
already is not made again. Accuracy is that of the test split: of the plain model, and, for the int8 rows, of the LiteRT
file itself. Bytes are those of the HDF5 file that `kerasbig export` writes, against the same weights raw, 4 bytes each;
"kernels" counts only the tensors that the step took. Latency is that of LiteRT files at batch 1, in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, kerasbig, load_tensorflow, note, parser, stand_in_table, table, verdict

# Name, arguments of `kerasbig compress`, --quantize of the export.
VARIANTS: dict[str, tuple[list[str], str]] = {
    "pruned 50 %": (["--prune", "0.5"], "dynamic"),
    "pruned 80 %": (["--prune", "0.8"], "dynamic"),
    "pruned 90 %": (["--prune", "0.9"], "dynamic"),
    "pruned 2:4": (["--prune", "2:4"], "dynamic"),
    "16 clusters": (["--cluster", "16"], "dynamic"),
    "QAT int8": (["--qat"], "int8"),
    "80 % + 16 + int8": (["--prune", "0.8", "--cluster", "16", "--qat", "--embeddings"], "int8"),
    "distilled to 3 layers": (["--distill-to", "3"], "none"),
}
REVIEWS = 200


def main() -> None:
    """Makes what is missing, measures, and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="where the Runs and Bundles are made and kept")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    options.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME", help="default: all")
    options.add_argument("--precision", default="mixed_bfloat16", help="float32 on a processor without bfloat16 (default: mixed_bfloat16)")
    arguments = options.parse_args()
    if not arguments.folder and not arguments.quick:
        options.error("expected --folder, or --quick")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        if arguments.quick:
            arguments.variants = ["80 % + 16 + int8", "distilled to 3 layers"]
        seeds = [0] if arguments.quick else arguments.seeds
        rows = {seed: make_and_measure(folder / f"seed-{seed}", seed, arguments) for seed in seeds}
        times = latencies(folder / f"seed-{seeds[0]}", arguments)
    report(arguments, rows, times)


def make_and_measure(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Makes the Runs and Bundles of one seed and measures each."""
    folder.mkdir(parents=True, exist_ok=True)
    start = ["--data", "movie_reviews", "--preset", "minilm-l6", "--precision", arguments.precision]
    if arguments.quick:
        start = ["--data", str(stand_in_table(folder / "reviews.csv", 200)), "--size", "mini", "--epochs", "1"]
    base = folder / "float"
    step(base / "run", "train", "text-classifier", *start, "--seed", str(seed), "--out", base / "run")
    step(base / "bundle", "export", base / "run", "--to", base / "bundle", "--quantize", "none")
    # Static int8 without training for it, to compare with.
    step(base / "int8", "export", base / "run", "--to", base / "int8", "--format", "litert", "--quantize", "int8")
    rows = {"float": measure(base / "run", base / "bundle", None), "static int8": {"accuracy": file_accuracy(base / "run", base / "int8")}}
    for name in arguments.variants:
        words, quantize = VARIANTS[name]
        if arguments.quick:
            words = [*(["2" if word == "3" else word for word in words]), "--epochs", "1"]
        made = folder / name.replace(" ", "-").replace("%", "percent").replace(":", "by")
        step(made / "run", "compress", base / "run", *words, "--out", made / "run")
        step(made / "bundle", "export", made / "run", "--to", made / "bundle", "--format", "hdf5,litert", "--quantize", quantize)
        rows[name] = measure(made / "run", made / "bundle", words)
        if quantize == "int8":
            rows[name]["accuracy"] = file_accuracy(made / "run", made / "bundle")
        note(f"{name}: {rows[name]}")
    return rows


def step(made: Path, *words: Any) -> None:
    """Runs a command unless what it makes is there."""
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        kerasbig(*words)


def measure(run: Path, bundle: Path, words: list[str] | None) -> dict[str, float]:
    """Reads a Run's accuracy and measures its HDF5 file: the whole, and the tensors that compression took."""
    import h5py

    row: dict[str, float] = {"accuracy": json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]["accuracy"]}
    sizes = {"raw": 0, "stored": 0, "raw_taken": 0, "stored_taken": 0}

    def count(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or not item.shape:
            return
        # Indices of a clustered tensor are packed; they say what shape they stand for.
        raw, stored = 4 * math.prod(int(size) for size in item.attrs.get("shape", item.shape)), item.id.get_storage_size()
        taken = raw > 100_000 and ("embed" not in name or "--embeddings" in (words or []))
        sizes["raw"], sizes["stored"] = sizes["raw"] + raw, sizes["stored"] + stored
        if taken:
            sizes["raw_taken"], sizes["stored_taken"] = sizes["raw_taken"] + raw, sizes["stored_taken"] + stored

    file = bundle / "model.weights.h5"
    with h5py.File(file) as opened:
        opened.visititems(count)
    row |= {"file_share": file.stat().st_size / sizes["raw"], "kernel_share": sizes["stored_taken"] / sizes["raw_taken"]}
    row |= {"raw_bytes": sizes["raw"], "file_bytes": file.stat().st_size, "litert_bytes": (bundle / "model.tflite").stat().st_size}
    return row


def file_accuracy(run: Path, bundle: Path) -> float:
    """Measures the LiteRT file itself on the test split."""
    load_tensorflow()
    import kerasbig as kb
    from kerasbig.cli.answer import run_examples
    from kerasbig.run import open_run

    record = bundle / "accuracy.json"
    if not record.is_file():
        examples = run_examples(open_run(run), None, "test")
        logits = kb.export.load(bundle, "litert").logits(examples.inputs)
        record.write_text(json.dumps(float((logits.argmax(axis=1) == examples.targets).mean())), encoding="utf-8")
    return float(json.loads(record.read_text(encoding="utf-8")))


def latencies(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Times the LiteRT files of one seed, one review at a time, in turns; medians in milliseconds."""
    load_tensorflow()
    import kerasbig as kb
    from kerasbig.cli.answer import run_examples
    from kerasbig.run import open_run

    texts = run_examples(open_run(folder / "float/run"), None, "test").inputs[: 20 if arguments.quick else REVIEWS]
    folders = {"float": folder / "float/bundle", "static int8": folder / "float/int8"}
    folders |= {name: folder / name.replace(" ", "-").replace("%", "percent").replace(":", "by") / "bundle" for name in arguments.variants}
    predictors = {name: kb.export.load(path, "litert") for name, path in folders.items()}
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for text in [*texts[:5], *texts]:
        for name, predictor in predictors.items():
            started = time.perf_counter()
            predictor.logits([text])
            taken[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values[-len(texts) :]) for name, values in taken.items()}


def report(arguments: argparse.Namespace, rows: dict[int, dict[str, dict[str, float]]], times: dict[str, float]) -> None:
    """Prints the tables and the JSON."""
    names = list(next(iter(rows.values())))

    def median(name: str, key: str) -> float:
        return statistics.median(seed[name][key] for seed in rows.values())

    def lost(name: str) -> float:
        return statistics.median(100 * (seed["float"]["accuracy"] - seed[name]["accuracy"]) for seed in rows.values())

    lines = []
    for name in names:
        shares = [f"{median(name, key):.3f}" if key in rows[next(iter(rows))][name] else "" for key in ("kernel_share", "file_share")]
        lines.append([name, f"{median(name, 'accuracy'):.4f}", f"{-lost(name):+.2f}", *shares, f"{times[name]:.2f}"])
    table(["variant", "accuracy", "points", "kernels, of raw", "file, of raw", "LiteRT, ms"], lines)
    limits = {
        "pruned 50 %": (0.5, 0.60), "pruned 80 %": (3, 0.31), "pruned 90 %": (7, 0.18), "pruned 2:4": (1, None),
        "16 clusters": (1, 0.14), "QAT int8": (0.5, None), "80 % + 16 + int8": (4, None),
    }  # fmt: skip
    wanted = []
    for name, (points, share) in limits.items():
        if name in names:
            wanted.append(verdict(f"{name}: points lost", lost(name), "<=", points))
            if share is not None:
                wanted.append(verdict(f"{name}: kernels, of raw", median(name, "kernel_share"), "<=", share))
    if "80 % + 16 + int8" in names:
        shares = [seed["80 % + 16 + int8"]["file_bytes"] / seed["float"]["raw_bytes"] for seed in rows.values()]
        wanted.append(verdict("80 % + 16 + int8: file, of the float bytes", statistics.median(shares), "<=", 0.10))
    if "QAT int8" in names:
        gained = statistics.median(100 * (seed["QAT int8"]["accuracy"] - seed["static int8"]["accuracy"]) for seed in rows.values())
        wanted.append(verdict("QAT over static int8, points", gained, ">=", 0))
    if "distilled to 3 layers" in names:
        kept = statistics.median(seed["distilled to 3 layers"]["accuracy"] / seed["float"]["accuracy"] for seed in rows.values())
        wanted.append(verdict("distilled to 3 layers: accuracy kept", kept, ">=", 0.97))
        wanted.append(verdict("distilled to 3 layers: times as fast", times["float"] / times["distilled to 3 layers"], ">=", 1.8, "x"))
    finish("variants", arguments, {"seeds": list(rows), "rows": {str(seed): row for seed, row in rows.items()}, "litert_ms": times}, wanted)


if __name__ == "__main__":
    main()
