"""Images: what the classifier learns from small data sets, how fast it trains, and how fast photographs become batches.

    python benchmarks/vision.py --make-peer peer-env       all rows, about 45 minutes; installs PyTorch + transformers there, once
    python benchmarks/vision.py --peer-python peer-env/bin/python --rows training
    python benchmarks/vision.py --rows digits pipeline     some of them

`digits` and `fashion_mnist` are `kerasbig train image-classifier` and `kerasbig evaluate` in processes of their own: the
minutes are those of the training, the report included; the accuracy is that of the test split (digits: 20 % held out;
Fashion-MNIST: its own 10,000).
`training` trains a ViT of 12 layers, 192 wide, on batches of 32 images of 64
patches in bfloat16, in turns with PyTorch + transformers if it is there; a figure is the median over the rounds. `pipeline`
writes 640 x 480 JPEGs of noise and shapes, as large as photographs are, and counts the images per second that
`kerasbig.data.batches` decodes, resizes to 224 x 224 and augments, with nothing kept in memory. TensorFlow keeps the memory of
tensors for the next ones in all rows, and XLA fuses what lies between the matrix products, as in the command line's trainings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Peer, add_peer, finish, kerasbig, load_tensorflow, make_peer, note, parser, table, verdict

from kerasbig.cli.quiet import keep_memory
from kerasbig.cli.xla import allow_fusing, fused_between_products

# The options of each row beside the defaults, its least accuracy, and the most minutes.
RECIPES: dict[str, tuple[list[str], float, float]] = {
    "digits": ([], 0.975, 5),
    # Two blocks, no dropout, and only the small changes of "faces": 30 minutes are few epochs.
    "fashion_mnist": (
        ["--size", "lite-2", "--dropout", "0", "--drop-path", "0", "--augment", "faces", "--epochs", "14"],
        0.905,
        30,
    ),
}
PEER = Path(__file__).parent / "peers" / "transformers_vit.py"
# VIT_SIZES["tiny"], as transformers names it.
SHAPE = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 32,
    "patch_size": 4,
    "num_labels": 10,
}
BATCH_SIZE, STEPS, ROUNDS = 32, 10, 7
LEAST_GAIN = 1.3
ROWS = (*RECIPES, "training", "pipeline")
LEAST_IMAGES_PER_SECOND = 200
PHOTOS, WIDTH, HEIGHT, MODEL_SIDE = 512, 640, 480, 224


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    options.add_argument("--seed", type=int, default=0)
    add_peer(options)
    arguments = options.parse_args()
    keep_memory()
    allow_fusing()
    rows: dict[str, Any] = {}
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.rows:
            if name == "pipeline":
                rows[name] = measure_pipeline(Path(scratch), quick=arguments.quick)
                verdicts.append(verdict(f"{name}, images/s", rows[name]["images_per_second"], ">=", LEAST_IMAGES_PER_SECOND))
                continue
            if name == "training":
                rows[name] = measure_speed(Path(scratch), arguments)
                if "gain" in rows[name]:
                    verdicts.append(verdict("training, images/s against the peer", rows[name]["gain"], ">=", LEAST_GAIN, "x"))
                continue
            extra, least, most = RECIPES[name]
            rows[name] = measure_training(name, extra, Path(scratch), arguments)
            verdicts.append(verdict(f"{name}, accuracy", rows[name]["accuracy"], ">=", least))
            verdicts.append(verdict(f"{name}, minutes", rows[name]["minutes"], "<=", most))
    table(["row", "figure"], [[name, ", ".join(f"{key} {value}" for key, value in row.items())] for name, row in rows.items()])
    finish("vision", arguments, {"rows": rows}, verdicts)


def measure_training(name: str, extra: list[str], scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains on a sample and measures the test split."""
    run = scratch / name
    data = name
    if arguments.quick:
        data, extra = "digits", ["--size", "lite-2", "--epochs", "1", "--precision", "float32"]
    _, seconds = kerasbig("train", "image-classifier", "--data", data, "--seed", str(arguments.seed), *extra, "--out", run)
    answer, _ = kerasbig("evaluate", run, "--json")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return {
        "accuracy": json.loads(answer)["accuracy"],
        "minutes": round(seconds / 60, 2),
        "examples_per_second": config["training"]["examples_per_second"],
        "precision": config["precision"]["policy"],
        "size": config["options"]["size"],
        "epochs": config["options"]["epochs"],
    }


def measure_speed(scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Counts the images per second of training steps, in turns with the peer."""
    load_tensorflow()
    import keras
    import numpy as np

    import kerasbig as kb

    python = make_peer(arguments.make_peer) if arguments.make_peer else arguments.peer_python
    side, steps = SHAPE["image_size"], 2 if arguments.quick else STEPS
    keras.utils.set_random_seed(arguments.seed)
    classes = [str(i) for i in range(SHAPE["num_labels"])]
    model = kb.vision.vit_classifier(
        classes, size="tiny", image_shape=(side, side, 3), patch_size=SHAPE["patch_size"], dtype="mixed_bfloat16"
    )
    kb.vision.compile_image_classifier(model, kb.distribute.AdamW(5e-5, weight_decay=0.05))
    model.preprocessor = None  # the batch is scaled pixels already
    random = np.random.default_rng(0)
    batch = random.normal(size=(BATCH_SIZE, side, side, 3)).astype("float32"), random.integers(0, SHAPE["num_labels"], BATCH_SIZE)
    peer = Peer(python, PEER, SHAPE, scratch) if python else None
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    # Entered once: each time XLA would compile anew.
    with fused_between_products():
        for _ in range((1 if arguments.quick else ROUNDS) + 1):  # the first one warms up
            started = time.perf_counter()
            for _ in range(steps):
                model.train_on_batch(*batch)
            speeds["ours"].append(steps * BATCH_SIZE / (time.perf_counter() - started))
            if peer:
                speeds["peer"].append(steps * BATCH_SIZE / peer.ask({"batch": BATCH_SIZE, "steps": steps})["seconds"])
    medians = {side: round(statistics.median(values[1:]), 1) for side, values in speeds.items() if values}
    if not peer:
        return medians
    gain = statistics.median(a / b for a, b in zip(speeds["ours"][1:], speeds["peer"][1:], strict=True))
    return {**medians, "gain": round(gain, 3), "peer_versions": peer.close()}


def measure_pipeline(scratch: Path, *, quick: bool) -> dict[str, Any]:
    """Counts how many photographs a second become batches."""
    load_tensorflow()
    import numpy as np

    import kerasbig as kb

    count = 64 if quick else PHOTOS
    folder = write_photos(scratch / "photos", count)
    kilobytes = sum(file.stat().st_size for file in folder.rglob("*.jpg")) / count / 1e3
    examples = kb.data.read(folder, "image-classifier")
    model = kb.vision.vit_classifier(examples.classes, size="lite-2", image_shape=(MODEL_SIDE, MODEL_SIDE, 3))
    found = {"kilobytes_an_image": round(kilobytes, 1)}
    for augment in ("none", "light", "strong"):
        batches = kb.data.batches(examples, model, batch_size=32, shuffle=True, augment=augment, cache=False)
        speeds = []
        for _ in range(2 if quick else 4):
            started = time.perf_counter()
            seen = sum(len(targets) for _, targets in batches)
            speeds.append(seen / (time.perf_counter() - started))
        # The first pass traces the graph.
        found[f"images_per_second_{augment}"] = round(float(np.median(speeds[1:])), 1)
    return {"images_per_second": found["images_per_second_light"], **found}


def write_photos(folder: Path, count: int) -> Path:
    """Writes JPEGs that cost as much to decode as photographs: coloured noise at several scales, in two classes."""
    import numpy as np
    from PIL import Image

    note(f"writing {count} photographs")
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3)).astype("uint8")
        image = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), "float32")
        image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype("uint8")
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=90)
    return folder


if __name__ == "__main__":
    main()
