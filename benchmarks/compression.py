"""What compression gains and costs on the movie reviews: dynamic-range LiteRT, and 50 % pruning.

    python benchmarks/compression.py --make kerasbig-demo  trains, compresses and exports there what is not there yet
    python benchmarks/compression.py RUN PRUNED_RUN BUNDLE PRUNED_BUNDLE

`--make` takes a folder of `kerasbig demo` as it is. On the Run's own test split:

* int8: the LiteRT file against the SavedModel of the same Bundle. Accuracy over all test reviews; then the median latency
  of one review at a time over 300 of them, raw text to logits, the two taking turns; the bytes of all files needed.
* pruned: the HDF5 weights of the two Bundles. Accuracy over all test reviews; the bytes of the pruned model's compressed
  file against the float model's weights as they are (4 bytes each), and against the float model's compressed file.

About 2 minutes without the training; with it about 12.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, kerasbig, load_tensorflow, note, parser, stand_in_table, table, verdict

REVIEWS = 300
WARM_UP = 20


def main() -> None:
    """Measures and prints tables, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="RUN PRUNED_RUN BUNDLE PRUNED_BUNDLE")
    options.add_argument("--make", type=Path, metavar="FOLDER", help="make the four folders in here first")
    arguments = options.parse_args()
    if len(arguments.folders) != (0 if arguments.make or arguments.quick else 4):
        options.error("expected RUN PRUNED_RUN BUNDLE PRUNED_BUNDLE, or --make FOLDER alone")
    with tempfile.TemporaryDirectory() as scratch:
        target = arguments.make or Path(scratch)
        folders = arguments.folders or make(target, quick=arguments.quick)
        report(arguments, measure(*folders, reviews=30 if arguments.quick else REVIEWS))


def make(folder: Path, *, quick: bool) -> list[Path]:
    """Makes the four folders with public commands, as `kerasbig demo` does."""
    folder.mkdir(parents=True, exist_ok=True)
    data, start = "movie_reviews", ["--preset", "minilm-l6"]
    if quick:
        data, start = str(stand_in_table(folder / "reviews.csv", 200)), ["--size", "tiny", "--epochs", "1"]
    run, pruned = folder / "runs/sentiment", folder / "runs/sentiment-pruned"
    bundle, pruned_bundle = folder / "saved_models/sentiment", folder / "saved_models/sentiment-pruned"
    steps = {
        run: ["train", "text-classifier", "--data", data, *start, "--out", run],
        pruned: ["compress", run, "--prune", "0.5", "--out", pruned],
        bundle: ["export", run, "--to", bundle],
        pruned_bundle: ["export", pruned, "--to", pruned_bundle],
    }
    for made, words in steps.items():
        if made.exists():
            note(f"{made} is there already")
        else:
            kerasbig(*words)
    return list(steps)


def measure(run: Path, pruned_run: Path, bundle: Path, pruned_bundle: Path, *, reviews: int) -> dict[str, Any]:
    """Measures all that is compared."""
    load_tensorflow()
    import kerasbig as kb
    from kerasbig.cli.answer import run_examples
    from kerasbig.run import open_run

    examples = run_examples(open_run(run), None, "test")
    check_pruned(open_run(pruned_run))
    predictors = {
        "saved_model": kb.export.load(bundle, "saved_model"),
        "litert": kb.export.load(bundle, "litert"),
        "hdf5": kb.export.load(bundle, "hdf5"),
        "pruned_hdf5": kb.export.load(pruned_bundle, "hdf5"),
        "pruned_litert": kb.export.load(pruned_bundle, "litert"),
    }
    variants = {}
    for name, predictor in predictors.items():
        note(f"{name}: {len(examples):,} reviews")
        variants[name] = {"accuracy": accuracy(predictor, examples), "bytes": predictor.bytes_on_disk()}
    compared = {name: predictors[name] for name in ("saved_model", "litert")}
    for name, taken in latencies(compared, examples.inputs[:reviews]).items():
        variants[name] |= {"latency_ms": statistics.median(taken), "latency_p95_ms": sorted(taken)[int(0.95 * len(taken))]}
    return {
        "source": examples.source,
        "test_examples": len(examples),
        "reviews_timed": reviews,
        "litert_threads": predictors["litert"].threads,
        "variants": variants,
        "weights": {"float": weights(bundle), "pruned": weights(pruned_bundle)},
    }


def check_pruned(run: Any) -> None:
    """Stops if the second Run is not a pruned one."""
    pruning = (run.options.get("compression") or {}).get("prune") or {}
    if pruning.get("sparsity") != 0.5:
        raise SystemExit(f"Expected PRUNED_RUN to be pruned with --prune 0.5. Received: {run.folder}, with {pruning or 'no pruning'}.")


def accuracy(predictor: Any, examples: Any) -> float:
    """Returns the share of the examples that are answered right."""
    return float((predictor.logits(examples.inputs).argmax(axis=1) == examples.targets).mean())


def latencies(predictors: dict[str, Any], texts: list[str]) -> dict[str, list[float]]:
    """Times one text at a time, in milliseconds, the predictors taking turns; each has met every length before."""
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for text in [*texts[:WARM_UP], *texts]:
        for name, predictor in predictors.items():
            started = time.perf_counter()
            predictor.logits([text])
            taken[name].append((time.perf_counter() - started) * 1000)
    return {name: values[-len(texts) :] for name, values in taken.items()}


def weights(bundle: Path) -> dict[str, float]:
    """Returns the size of a Bundle's HDF5 file, of its weights uncompressed, and the share of zeros in them."""
    import h5py

    counts = {"raw_bytes": 0, "weights": 0, "zeros": 0}

    def count(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item[()]
            counts["raw_bytes"] += values.nbytes
            counts["weights"] += values.size
            counts["zeros"] += int((values == 0).sum())

    file = bundle / "model.weights.h5"
    with h5py.File(file) as opened:
        opened.visititems(count)
    return {"file_bytes": file.stat().st_size, "raw_bytes": counts["raw_bytes"], "zeros": counts["zeros"] / counts["weights"]}


def report(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Prints the tables and the JSON."""
    variants, stored = result["variants"], result["weights"]
    print(f"{result['source']}, {result['test_examples']:,} test reviews, {result['reviews_timed']} timed one at a time\n")
    rows = []
    for name, row in variants.items():
        times = [f"{row[key]:.2f}" if key in row else "" for key in ("latency_ms", "latency_p95_ms")]
        rows.append([name, f"{row['accuracy']:.4f}", f"{row['bytes'] / 1e6:.2f}", *times])
    table(["variant", "accuracy", "MB", "median ms", "p95 ms"], rows)
    rows = [
        [name, f"{row['raw_bytes'] / 1e6:.2f}", f"{row['file_bytes'] / 1e6:.2f}", f"{row['zeros']:.1%}"] for name, row in stored.items()
    ]
    table(["HDF5 weights", "as they are, MB", "compressed, MB", "zeros"], rows)
    exact, small, pruned = variants["saved_model"], variants["litert"], variants["pruned_hdf5"]
    compressed = stored["pruned"]["file_bytes"] / stored["float"]["file_bytes"]
    result["pruned_over_compressed_float_file"] = compressed
    print(f"The pruned model's compressed file is {compressed:.1%} of the float model's compressed file.\n")
    wanted = [
        verdict("int8: times as fast as the SavedModel", exact["latency_ms"] / small["latency_ms"], ">=", 2.5, "x"),
        verdict("int8: bytes of the SavedModel's", 100 * small["bytes"] / exact["bytes"], "<=", 27, " %"),
        verdict("int8: accuracy lost", 100 * (exact["accuracy"] - small["accuracy"]), "<=", 0.5, " points"),
        verdict("pruned: accuracy lost", 100 * (variants["hdf5"]["accuracy"] - pruned["accuracy"]), "<=", 1, " points"),
        verdict("pruned: bytes of the float weights'", 100 * stored["pruned"]["file_bytes"] / stored["float"]["raw_bytes"], "<=", 76, " %"),
    ]
    finish("compression", arguments, result, wanted)


if __name__ == "__main__":
    main()
