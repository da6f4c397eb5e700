"""Faces: who is it, among people trained on; and is it the same person, of people never seen.

    python benchmarks/faces.py --faces FOLDER            about 6 minutes on two quiet cores
    python benchmarks/faces.py --faces FOLDER --rows verification

FOLDER has one sub-folder a person with at least ten photographs each, such as "The Database of Faces" of AT&T Laboratories Cambridge
(40 people). `identification`: `face_classifier` is fitted to the first five photographs a person and tested on the others.
`verification`: it is fitted to all photographs of three quarters of the people, the first by number; figures are over all pairs of
photographs of the others. Both have the command's defaults for a fixed number of steps; nothing is chosen by the photographs that count.
`threshold` is `kerasbig train face-classifier --unseen 0.2` on the same three quarters: a fifth of them is set aside to choose a
threshold that accepts 1 % of the different, and the row says what it accepts of the people that neither saw.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import finish, kerasbig, load_tensorflow, note, parser, table, verdict

ROWS = ("identification", "verification", "threshold")
TRAINED, PHOTOS = 0.75, 5
TARGETS = [("identification", "accuracy", ">=", 0.97), ("verification", "auc", ">=", 0.97), ("verification", "eer", "<=", 0.09)]


def main() -> None:
    """Measures and prints a table, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--faces", type=Path, metavar="FOLDER", help="one sub-folder a person")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    if arguments.faces is None and not arguments.quick:
        options.error("--faces FOLDER is needed, or --quick for drawn patterns")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        people = photos_of(arguments.faces or write_patterns(work / "patterns"))
        for name in arguments.rows:
            rows[name] = measure(name, people, work / name, arguments)
    table(["row", "figure"], [[name, ", ".join(f"{key} {value}" for key, value in row.items())] for name, row in rows.items()])
    verdicts = [verdict(f"{name}, {key}", rows[name][key], sign, target) for name, key, sign, target in TARGETS if name in rows]
    finish("faces", arguments, {"rows": rows}, verdicts)


def measure(name: str, people: dict[str, list[Path]], work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates one row."""
    names = list(people)
    if name == "identification":
        train = copied({person: files[:PHOTOS] for person, files in people.items()}, work / "train")
        test = copied({person: files[PHOTOS:] for person, files in people.items()}, work / "test")
    else:
        known = names[: round(len(names) * TRAINED)]
        train = copied({person: people[person] for person in known}, work / "train")
        test = copied({person: people[person] for person in names if person not in known}, work / "test")
    return measure_command(train, test, work, arguments) if name == "threshold" else measure_fit(train, test, arguments)


def measure_fit(train: Path, test: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits to all photographs of one folder and measures those of another."""
    load_tensorflow()
    import keras

    import kerasbig as kb
    from kerasbig.tasks import FACE_SIDE, find_task

    task = find_task("face-classifier")
    examples = replace(kb.data.read(train, "face-classifier"), role="train")
    keras.utils.set_random_seed(arguments.seed)
    side = 16 if arguments.quick else FACE_SIDE
    names = ("size", "stem", "patch_size", "dropout", "drop_path", "embedding_dim", "head", "scale")
    chosen = {key: task.defaults[key] for key in names}
    model = kb.vision.face_classifier(examples.classes, image_shape=(side, side, 3), **chosen)
    batches = kb.data.batches(
        examples, model, batch_size=task.defaults["batch_size"], augment=task.defaults["augment"], seed=arguments.seed
    )
    epochs = 1 if arguments.quick else math.ceil(task.steps[0] / len(batches))
    steps = epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 10, warmup_target=1e-3, warmup_steps=steps // 10)
    kb.vision.compile_face_classifier(model, kb.distribute.AdamW(rate, weight_decay=0.01))
    note(f"{batches.padding}; {epochs} epochs")
    started = time.perf_counter()
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    seconds = time.perf_counter() - started
    figures = task.measure(model, task.read(test, "face-classifier", classes=examples.classes), examples.classes).metrics
    return {key: round(value, 4) for key, value in figures.items()} | {
        "people": len(examples.classes),
        "photos": len(examples),
        "epochs": epochs,
        "seconds": round(seconds),
    }


def measure_command(train: Path, test: Path, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains by the command with people set aside, and measures the threshold on others."""
    tiny = ["--image-size", "16", "--epochs", "1"] if arguments.quick else []
    words = ["--data", train, "--test", "0.1", "--unseen", "0.2", "--seed", str(arguments.seed), "--precision", "float32", *tiny]
    _, seconds = kerasbig("train", "face-classifier", *words, "--out", work / "run")
    figures = json.loads(kerasbig("evaluate", work / "run", "--data", test, "--json")[0])
    config = json.loads((work / "run" / "config.json").read_text(encoding="utf-8"))
    names = ("far_at_threshold", "tar_at_threshold", "auc", "eer")
    return {name: round(figures[name], 4) for name in names} | {
        "photos": config["data"]["examples"]["train"],
        "epochs": config["options"]["epochs"],
        "seconds": round(seconds),
    }


def photos_of(folder: Path) -> dict[str, list[Path]]:
    """Returns the photographs of each person, people and photographs in the order of their numbers."""
    people = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=by_number)
    found = {person.name: sorted((file for file in person.iterdir() if file.is_file()), key=by_number) for person in people}
    note(f"{len(found)} people, {sum(map(len, found.values()))} photographs")
    return found


def by_number(path: Path) -> tuple[Any, ...]:
    """Sorts s2 before s10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))


def copied(people: dict[str, list[Path]], folder: Path) -> Path:
    """Copies the photographs into one sub-folder a person."""
    for name, files in people.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / name)
    return folder


def write_patterns(folder: Path) -> Path:
    """Writes ten noisy pictures of a pattern for each of eight "people"."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for person in range(8):
        pattern = random.integers(0, 256, (16, 16, 3))
        (folder / f"p{person}").mkdir(parents=True)
        for number in range(10):
            image = np.clip(pattern + random.normal(0, 20, pattern.shape), 0, 255).astype("uint8")
            Image.fromarray(image).save(folder / f"p{person}" / f"{number}.png")
    return folder


if __name__ == "__main__":
    main()
