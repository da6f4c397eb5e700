"""Average precision of `vit_detector`, trained from scratch with plain `fit`, on test images it has never seen.

    python benchmarks/detection.py                       digit_scenes, 96 x 96; about 10 minutes on two quiet cores
    python benchmarks/detection.py --bccd FOLDER         also BCCD's blood cells, a folder of Pascal VOC with its own split;
                                                         about an hour more

BCCD is at https://github.com/Shenggan/BCCD_Dataset (its folder `BCCD`). `--steps` and `--bccd-steps` shorten either.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from common import finish, load_tensorflow, note, parser, table, verdict


@dataclass(frozen=True)
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
        steps=1500,
        batch_size=16,
        learning_rate=1e-3,
        targets={"map": 0.40, "ap50": 0.60, "minutes": 10},
    ),
    "bccd": Recipe(
        model={"size": "lite-6", "image_shape": (240, 320, 3), "patch_size": 16, "stem": True, "pyramid": (8, 16, 32)},
        augment={"shift": 0.2, "zoom": 0.3, "flip": True, "colour": 0.2, "mosaic": 0.3},
        steps=5000,
        batch_size=8,
        learning_rate=5e-4,
        targets={"ap50": 0.60, "minutes": 60},
    ),
}


def main() -> None:
    """Trains, measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--bccd", metavar="FOLDER", help="the folder of BCCD: Annotations, ImageSets, JPEGImages")
    options.add_argument("--steps", type=int, help=f"batches for digit_scenes (default: {RECIPES['digit_scenes'].steps})")
    options.add_argument("--bccd-steps", type=int, help=f"batches for BCCD (default: {RECIPES['bccd'].steps})")
    options.add_argument("--precision", default="float32", help="float32 (default) or mixed_bfloat16")
    options.add_argument("--seed", type=int, default=0, help="default: 0")
    arguments = options.parse_args()
    load_tensorflow()
    rows = {"digit_scenes": measure("digit_scenes", "digit_scenes", arguments.steps, arguments)}
    if arguments.bccd:
        rows["bccd"] = measure("bccd", arguments.bccd, arguments.bccd_steps, arguments)
    figures = [[name, *(f"{row[key]:.3f}" for key in ("map", "ap50", "ap75")), f"{row['minutes']:.1f}"] for name, row in rows.items()]
    table(["test split", "mAP", "AP50", "AP75", "minutes"], figures)
    wanted = [
        verdict(f"{name}, {key}", row[key], "<=" if key == "minutes" else ">=", limit, "")
        for name, row in rows.items()
        for key, limit in RECIPES[name].targets.items()
    ]
    finish("detection", arguments, {"rows": rows}, wanted)


def measure(name: str, source: str, steps: int | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains on one data set and returns the figures of its test split."""
    import keras

    import kerasbig as kb

    recipe = RECIPES[name]
    splits = kb.data.load(source, "object-detector")
    train, test = splits.train, splits.test
    steps = steps or recipe.steps
    if arguments.quick:
        train, test, steps = train.take(range(16), "train"), test.take(range(8), "test"), 2
    keras.utils.set_random_seed(arguments.seed)
    model = kb.vision.vit_detector(splits.classes, **recipe.model, dtype=arguments.precision)
    batches = kb.data.batches(
        train, model, batch_size=recipe.batch_size, augment=kb.data.BoxAugmentation(**recipe.augment), seed=arguments.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=recipe.learning_rate, warmup_steps=steps // 20
    )
    model.compile(kb.distribute.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0), jit_compile=not arguments.quick)
    note(f"{name}: {model.count_params():,} parameters, {steps} steps of {recipe.batch_size}")
    started = time.perf_counter()
    per_epoch = min(steps, len(batches))
    model.fit(batches.repeat(), epochs=steps // per_epoch, steps_per_epoch=per_epoch, shuffle=False, verbose=2)
    minutes = (time.perf_counter() - started) / 60
    found = kb.vision.measure_detector(model, test)
    return {**found, "minutes": minutes, "parameters": model.count_params(), "steps": steps, "images": len(test)}


if __name__ == "__main__":
    main()
