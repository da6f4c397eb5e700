"""What a Run's page and `kerasbig predict --draw` show of a detector."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasbig import data, report, vision
from kerasbig.data import Examples

# What scores less is not shown; the figures count it.
SHOWN_SCORE = 0.3
PICTURES, MISTAKES = 12, 12
PICTURE_SIDE = 320


def found_objects(examples: Examples, detections: Sequence[vision.Detections], figures: vision.CocoFigures) -> report.Objects:
    """Gathers what a page shows of a detector.

    Args:
        examples: What it was measured on.
        detections: What it found in each image.
        figures: How well.
    """
    classes = examples.classes or ()
    truth = examples.targets
    counts = np.bincount(truth.classes[~truth.ignored], minlength=len(classes))
    rows = [
        {"name": name, "boxes": int(counts[i]), **figure, "precision": figures.precision[0, :, i].tolist()}
        for i, (name, figure) in enumerate(zip(classes, figures.class_figures(), strict=True))
    ]
    verdicts = vision.judge(truth, [each.above(SHOWN_SCORE) for each in detections])
    by_image: dict[int, list[vision.Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_image[verdict.image].append(verdict)
    chosen = np.unique(np.linspace(0, len(examples) - 1, PICTURES).round().astype(int)).tolist()
    return report.Objects(
        classes=rows,
        pictures=[_picture(examples, image, by_image[image]) for image in chosen],
        kinds=dict(Counter(verdict.kind for verdict in verdicts).most_common()),
        mistakes=[_mistake(examples, verdict) for verdict in vision.worst(verdicts, MISTAKES)],
    )


def _picture(examples: Examples, image: int, verdicts: Sequence[vision.Verdict]) -> dict[str, Any]:
    classes = examples.classes or ()
    found = [verdict for verdict in verdicts if verdict.kind != "missed"]
    return {
        "picture": _drawn(examples, image, found),
        "name": data.names_of(examples)[image],
        "found": [
            {"label": classes[one.class_id], "colour": data.class_colour(one.class_id), "score": one.score, "kind": one.kind}
            for one in found
        ],
        "missed": [classes[one.class_id] for one in verdicts if one.kind == "missed"],
    }


def _mistake(examples: Examples, verdict: vision.Verdict) -> dict[str, Any]:
    label = (examples.classes or ())[verdict.class_id]
    picture, name = _drawn(examples, verdict.image, [verdict]), data.names_of(examples)[verdict.image]
    return {"picture": picture, "name": name, "kind": verdict.kind, "label": label, "score": verdict.score}


def _drawn(examples: Examples, image: int, verdicts: Sequence[vision.Verdict]) -> str:
    boxes = np.array([verdict.box for verdict in verdicts]).reshape(-1, 4)
    colours = [data.class_colour(verdict.class_id) for verdict in verdicts]
    drawn = data.draw_boxes(data.pixels_of(examples.inputs, image), boxes, colours, side=PICTURE_SIDE)
    return data.data_address(drawn, "JPEG")


def write_drawings(paths: Sequence[str], answers: Sequence[Mapping[str, Any]], classes: Sequence[str], out: str) -> list[Path]:
    """Draws what was found on each image and writes the pictures.

    Args:
        paths: The images.
        answers: What `kerasbig predict --json` prints of each.
        classes: Names of the classes.
        out: The file to write; of several images `out-1.png`, `out-2.png` and so on.

    Returns:
        What was written.
    """
    target = Path(out)
    written = []
    for number, (path, answer) in enumerate(zip(paths, answers, strict=True), start=1):
        file = target if len(paths) == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        colours = [data.class_colour(list(classes).index(label)) for label in answer["labels"]]
        texts = [f"{label} {score:.2f}" for label, score in zip(answer["labels"], answer["scores"], strict=True)]
        data.draw_boxes(data.decode(path), np.array(answer["boxes"]), colours, texts).save(file)
        written.append(file)
    return written
