"""What `kerasbig predict` and a Run's page show of a face classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig import data, report, vision
from kerasbig.cli.output import note, print_json, print_table
from kerasbig.data import Examples
from kerasbig.data.image_folders import Skipped, read_image_folder
from kerasbig.data.sources import missing
from kerasbig.remote import require_local
from kerasbig.run import GALLERY_FILE, Run

# Pairs shown of each kind of error.
SHOWN = 8


def show_faces(run: Run, paths: Sequence[str], *, enrol: str | None, verify: bool, as_json: bool) -> None:
    """Enrols people if asked to, then tells who is on photographs, or whether two show the same person.

    Args:
        run: A Run of a face classifier.
        paths: Photographs.
        enrol: A folder with a sub-folder of photographs for each new person; they are kept with the Run.
        verify: Whether to compare two photographs.
        as_json: Whether to print one JSON object.

    Raises:
        ValueError: If `verify` is asked for other than two photographs.
    """
    if verify and len(paths) != 2:
        raise ValueError(f"Expected two photographs to compare. Received: {len(paths)}. Name two.")
    model = run.load_model()
    result: dict[str, Any] = {} if enrol is None else {"enrolled": enrol_folder(run, model, enrol)}
    if verify:
        pair = vision.verify(model, *paths)
        answers: list[dict[str, Any]] = [{"similarity": pair.similarity, "same": pair.same, "threshold": pair.threshold}]
        rows = [[" and ".join(paths), "the same" if pair.same else "different", f"{pair.similarity:.4f}"]]
    else:
        answers = vision.answer_faces(model, paths) if paths else []
        rows = [
            [path, answer["identity"] or f"unknown (nearest: {answer['nearest']})", f"{answer['similarity']:.4f}"]
            for path, answer in zip(paths, answers, strict=True)
        ]
    if as_json:
        print_json({**result, "predictions": answers})
    elif rows:
        print_table(run.location, ["image", "people" if verify else "identity", "similarity"], rows)


def enrol_folder(run: Run, model: keras.Model, folder: str) -> list[str]:
    """Enrols each person of a folder and keeps them with the Run.

    Args:
        run: The Run, on this machine.
        model: Its model; its gallery is made or added to.
        folder: One sub-folder of photographs a person.

    Returns:
        The names.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If the Run is at an address, or a sub-folder holds no photograph.
    """
    require_local(run.location)
    path = Path(folder)
    if not path.is_dir():
        raise missing(path)
    table = read_image_folder(path, Skipped(False))
    photos: dict[str, list[str]] = {}
    for photo, name in zip(table.columns["image"], table.columns["label"], strict=True):
        photos.setdefault(name, []).append(photo)
    gallery = getattr(model, "gallery", None) or vision.Gallery(model)
    for name, files in photos.items():
        gallery.enrol(name, files)
    gallery.save(run.folder / GALLERY_FILE)
    model.gallery = gallery
    note(f"Enrolled in {run.location}: {', '.join(photos)}")
    return list(photos)


def compared_faces(examples: Examples, pairs: vision.Pairs, threshold: float | None) -> report.Faces | None:
    """Gathers what a page shows of pairs of faces; None where there are not pairs of both kinds.

    Args:
        examples: What was measured on.
        pairs: All pairs.
        threshold: From which similarity on two faces are taken to be the same person's.
    """
    if not pairs.measurable:
        return None
    false, true, _ = vision.roc(pairs.similarities, pairs.same)
    order = np.argsort(pairs.similarities, kind="stable")
    different, alike = order[~pairs.same[order]][::-1], order[pairs.same[order]]
    return report.Faces(
        similarities=pairs.similarities,
        same=pairs.same,
        false_accepts=false,
        true_accepts=true,
        threshold=threshold,
        unseen=examples.role == "unseen",
        most_alike=[_pair(examples, pairs, number) for number in different[:SHOWN]],
        least_alike=[_pair(examples, pairs, number) for number in alike[:SHOWN]],
    )


def _pair(examples: Examples, pairs: vision.Pairs, number: int) -> dict[str, Any]:
    both = pairs.indices[number].tolist()
    return {
        "pictures": [data.thumbnail(examples.inputs, index) for index in both],
        "names": [(examples.classes or ())[examples.targets[index]] for index in both],
        "similarity": float(pairs.similarities[number]),
    }
