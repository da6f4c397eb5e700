"""Faces: who is it, among people trained on; and is it the same person, of people never seen.

    python benchmarks/faces.py --faces FOLDER            about 10 minutes on two quiet cores
    python benchmarks/faces.py --faces FOLDER --rows verification

FOLDER has one sub-folder a person with at least ten photographs each, such as "The Database of Faces" of AT&T Laboratories Cambridge
(40 people). Each row is `kerasbig train face-classifier` and `kerasbig evaluate` in processes of their own, with the command's
defaults. `identification`: the first five photographs a person are to train on and the others to test. `verification`: three quarters of
the people, the first by number, are to train on; figures are over all pairs of photographs of the others. Both are so little that none
is kept for validation: the epoch is chosen by the loss on the photographs trained on, and nothing is chosen by those that count.
`threshold` sets a fifth of the people to train on aside to choose a threshold that accepts 1 % of the different, and counts what it
accepts of the people that neither saw.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from common import finish, kerasbig, note, parser, table, verdict

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
    known = names if name == "identification" else names[: round(len(names) * TRAINED)]
    most = PHOTOS if name == "identification" else None
    train = copied({person: people[person][:most] for person in known}, work / "train")
    if name == "identification":
        tested = copied({person: people[person][PHOTOS:] for person in known}, work / "test")
        data = ["--data", f"train={train},validation={train},test={tested}"]
    elif name == "verification":
        tested = copied({person: people[person] for person in names if person not in known}, work / "test")
        data = ["--data", f"train={train},validation={train},test={train}"]
    else:
        tested = copied({person: people[person] for person in names if person not in known}, work / "test")
        data = ["--data", train, "--test", "0.1", "--unseen", "0.2"]
    tiny = ["--size", "lite-2", "--image-size", "16", "--epochs", "1", "--precision", "float32"] if arguments.quick else []
    _, seconds = kerasbig("train", "face-classifier", *data, "--seed", str(arguments.seed), *tiny, "--out", work / "run")
    own = [] if name == "identification" else ["--data", tested]
    figures = json.loads(kerasbig("evaluate", work / "run", *own, "--json")[0])
    config = json.loads((work / "run" / "config.json").read_text(encoding="utf-8"))
    chosen = {key: round(value, 4) for key, value in figures.items() if isinstance(value, float) and key != "examples_per_second"}
    return chosen | {
        "people": len(known),
        "examples": config["data"]["examples"],
        "seconds": round(seconds),
        "precision": config["precision"]["policy"],
        "epochs": config["options"]["epochs"],
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
