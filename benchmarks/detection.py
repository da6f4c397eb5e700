"""Average precision of `vit_detector`, trained from scratch with plain `fit`, on test images it has never seen; and of its LiteRT files.

    python benchmarks/detection.py                       digit_scenes, 96 x 96; about 10 minutes on two quiet cores
    python benchmarks/detection.py --bccd FOLDER         also BCCD's blood cells, a folder of Pascal VOC with its own split;
                                                         half an hour more

    python benchmarks/detection.py --files               also the LiteRT files of the first: float, dynamic, and int8 after 300
                                                         steps of training for it under the float model; minutes more

The files find boxes in the test images one at a time, in turns, from pixels to boxes, in one thread each; average precision counts
scores from 0.05.
BCCD is at https://github.com/Shenggan/BCCD_Dataset (its folder `BCCD`). `--steps` and `--bccd-steps` shorten either.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, load_tensorflow, note, parser, table, verdict


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one data set is learnt.

    Attributes:
        model: What `vit_detector` takes beside the classes.
        augment: What is done to the training images, as `kerasbig.data.BoxAugmentation` takes it.
        steps: Batches to train on.
        batch_size: Images a batch.
        learning_rate: The peak.
        targets: The least `map` and `ap50`, and the most minutes.
    """

    model: dict[str, Any]
    augment: dict[str, Any]
    steps: int
    batch_size: int
    learning_rate: float
    targets: dict[str, float]


RECIPES = {
    "digit_scenes": Recipe(
        model={"size": "lite-4", "image_shape": (96, 96, 3), "patch_size": 8, "stem": True, "pyramid": (4,)},
        augment={"shift": 0.1, "zoom": 0.15, "colour": 0.1},
        steps=1000,
        batch_size=16,
        learning_rate=1e-3,
        targets={"map": 0.40, "ap50": 0.60, "minutes": 10},
    ),
    "bccd": Recipe(
        model={"size": "lite-4", "image_shape": (240, 320, 3), "patch_size": 16, "stem": True, "pyramid": (8, 16, 32)},
        augment={"shift": 0.2, "zoom": 0.3, "flip": True, "colour": 0.2, "mosaic": 0.3},
        steps=1600,
        batch_size=8,
        learning_rate=5e-4,
        targets={"ap50": 0.60, "minutes": 60},
    ),
}
INT8_STEPS, INT8_LEARNING_RATE = 300, 2e-4


def main() -> None:
    """Trains, measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--bccd", metavar="FOLDER", help="the folder of BCCD: Annotations, ImageSets, JPEGImages")
    options.add_argument("--files", action="store_true", help="also measure the LiteRT files of digit_scenes' model")
    options.add_argument("--steps", type=int, help=f"batches for digit_scenes (default: {RECIPES['digit_scenes'].steps})")
    options.add_argument("--bccd-steps", type=int, help=f"batches for BCCD (default: {RECIPES['bccd'].steps})")
    options.add_argument("--precision", default="float32", help="float32 (default) or mixed_bfloat16")
    options.add_argument("--seed", type=int, default=0, help="default: 0")
    arguments = options.parse_args()
    load_tensorflow()
    model, splits, found = measure("digit_scenes", "digit_scenes", arguments.steps, arguments)
    rows, files = {"digit_scenes": found}, measure_files(model, splits, arguments) if arguments.files else {}
    if arguments.bccd:
        rows["bccd"] = measure("bccd", arguments.bccd, arguments.bccd_steps, arguments)[2]
    figures = [[name, *(f"{row[key]:.3f}" for key in ("map", "ap50", "ap75")), f"{row['minutes']:.1f}"] for name, row in rows.items()]
    table(["test split", "mAP", "AP50", "AP75", "minutes"], figures)
    wanted = [
        verdict(f"{name}, {key}", row[key], "<=" if key == "minutes" else ">=", limit, "")
        for name, row in rows.items()
        for key, limit in RECIPES[name].targets.items()
    ]
    if files:
        columns = ("megabytes", "milliseconds", "map")
        table(["LiteRT file", "MB", "median ms", "mAP"], [[name, *(f"{row[key]:.3f}" for key in columns)] for name, row in files.items()])
        plain, int8 = files["float"], files["int8, trained for it"]
        wanted.append(verdict("int8 file, bytes of the float one", int8["megabytes"] / plain["megabytes"], "<=", 0.30))
        wanted.append(verdict("int8 file, mAP lost", plain["map"] - int8["map"], "<=", 0.01))
        wanted.append(verdict("int8 file, times as fast", plain["milliseconds"] / int8["milliseconds"], ">=", 1.5, "x"))
    finish("detection", arguments, {"rows": rows, "files": files}, wanted)


def measure(name: str, source: str, steps: int | None, arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Trains on one data set and returns the model, the splits and the figures of the test split."""
    import keras

    import kerasbig as kb

    recipe = RECIPES[name]
    splits = kb.data.load(source, "object-detector")
    steps = steps or recipe.steps
    if arguments.quick:
        splits = dataclasses.replace(splits, train=splits.train.take(range(16), "train"), test=splits.test.take(range(8), "test"))
        steps = 2
    keras.utils.set_random_seed(arguments.seed)
    model = kb.vision.vit_detector(splits.classes, **recipe.model, dtype=arguments.precision)
    note(f"{name}: {model.count_params():,} parameters, {steps} steps of {recipe.batch_size}")
    started = time.perf_counter()
    train(model, model, splits, recipe, steps, recipe.learning_rate, arguments)
    minutes = (time.perf_counter() - started) / 60
    found = kb.vision.measure_detector(model, splits.test)
    note(f"{name}: {found}, {minutes:.1f} minutes")
    return model, splits, {**found, "minutes": minutes, "parameters": model.count_params(), "steps": steps, "images": len(splits.test)}


def train(fitted: Any, model: Any, splits: Any, recipe: Recipe, steps: int, rate: float, arguments: argparse.Namespace) -> None:
    """Fits a model, or the distiller that it is the student of, with a warm-up and a cosine decay."""
    import keras

    import kerasbig as kb

    batches = kb.data.batches(
        splits.train, model, batch_size=recipe.batch_size, augment=kb.data.BoxAugmentation(**recipe.augment), seed=arguments.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 20, warmup_target=rate, warmup_steps=steps // 20)
    optimizer = kb.distribute.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)
    losses = {} if fitted is model else {"loss": model.loss}
    fitted.compile(optimizer, **losses, jit_compile=not arguments.quick)
    per_epoch = min(steps, len(batches))
    fitted.fit(batches.repeat(), epochs=steps // per_epoch, steps_per_epoch=per_epoch, shuffle=False, verbose=2)


def measure_files(model: Any, splits: Any, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Exports a detector and its twin that was trained for int8, and measures what the files find and cost."""
    import keras

    import kerasbig as kb
    from kerasbig.export.image_predictors import LiteRTObjectDetector

    recipe = RECIPES["digit_scenes"]
    twin = kb.vision.vit_detector(splits.classes, **recipe.model, dtype=arguments.precision)
    twin.set_weights(model.get_weights())
    inputs = [batch[0] for batch in kb.data.batches(splits.train, twin, batch_size=recipe.batch_size).take(20)]
    kb.compress.quantize_model(twin, calibration=inputs)
    keras.utils.set_random_seed(arguments.seed)
    distiller = kb.compress.distill(model, twin)
    train(distiller, twin, splits, recipe, 2 if arguments.quick else INT8_STEPS, INT8_LEARNING_RATE, arguments)
    forms = {"float": (model, None), "dynamic": (model, "dynamic"), "int8, trained for it": (twin, "int8")}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name.split(",")[0] for name in forms}
        for name, (exported, quantize) in forms.items():
            kb.export.litert(exported, folders[name], quantize=quantize)
        # Threads of several files, each spinning for its next turn, would time each other.
        files = {name: LiteRTObjectDetector(folder, threads=1) for name, folder in folders.items()}
        sizes = {name: file.bytes_on_disk() / 1e6 for name, file in files.items()}
        answers, taken = in_turns(files, splits.test.inputs)
    rows = {
        name: {"megabytes": sizes[name], "milliseconds": statistics.median(taken[name]), "map": precision(answers[name], splits.test)}
        for name in forms
    }
    note(f"files: {rows}")
    return rows


def in_turns(files: dict[str, Any], images: Any) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """Lets each file answer for each image; returns the answers and the milliseconds, those of the first ten images left out."""
    answers: dict[str, list[Any]] = {name: [] for name in files}
    taken: dict[str, list[float]] = {name: [] for name in files}
    for image in images:
        for name, file in files.items():
            started = time.perf_counter()
            answers[name] += file.predict([image], score_threshold=0.05)
            taken[name].append((time.perf_counter() - started) * 1000)
    return answers, {name: values[10:] or values for name, values in taken.items()}


def precision(answers: list[Any], test: Any) -> float:
    """Returns the mAP of answers as `kerasbig predict` gives them."""
    import numpy as np

    import kerasbig as kb

    numbers = {label: number for number, label in enumerate(test.classes)}
    found = [
        kb.vision.Detections(
            np.array(answer["boxes"], "float32").reshape(-1, 4),
            np.array([numbers[label] for label in answer["labels"]], "int32"),
            np.array(answer["scores"], "float32"),
        )
        for answer in answers
    ]
    return float(kb.vision.coco_figures(test.targets, found, len(numbers)).metrics["map"])


if __name__ == "__main__":
    main()
