"""What a detector got right and wrong, by hand."""

from __future__ import annotations

import numpy as np

from kerasbig.data import Boxes
from kerasbig.vision import Detections, Verdict, judge, worst

OBJECT, OTHER = [0, 0, 10, 10], [50, 50, 60, 60]


def kinds(found: list[tuple[list[float], int, float]], boxes=(OBJECT,), classes=(0,), ignored=(False,)) -> list[str]:
    detections = (
        Detections(*(np.array(part) for part in zip(*found, strict=True))) if found else Detections(np.zeros((0, 4)), *np.zeros((2, 0)))
    )
    return [verdict.kind for verdict in judge(Boxes.of([boxes], [classes], [ignored]), [detections])]


def test_each_kind():
    assert kinds([(OBJECT, 0, 0.9)]) == ["right"]
    assert kinds([]) == ["missed"]
    assert kinds([(OBJECT, 1, 0.9)]) == ["wrong class", "missed"]
    assert kinds([([4, 4, 14, 14], 0, 0.9)]) == ["badly placed", "missed"]
    assert kinds([(OTHER, 0, 0.9)]) == ["nothing there", "missed"]
    assert kinds([([0, 0, 10, 9], 0, 0.5), (OBJECT, 0, 0.9)]) == ["right", "found twice"]


def test_an_ignored_box_is_neither_right_nor_missed():
    assert kinds([(OBJECT, 0, 0.9)], ignored=(True,)) == []
    assert kinds([], ignored=(True,)) == []


def test_the_surest_comes_first_to_its_object_and_takes_the_one_it_fits_best():
    near = [0, 0, 10, 12]
    assert kinds([(OBJECT, 0, 0.4), (near, 0, 0.8)], (OBJECT, near), (0, 0), (False, False)) == ["right", "right"]


def test_worst_are_the_surest_mistakes_and_the_largest_that_were_missed():
    def wrong(score: float) -> Verdict:
        return Verdict(0, "nothing there", (0, 0, 1, 1), 0, score)

    def missed(side: float) -> Verdict:
        return Verdict(0, "missed", (0, 0, side, side), 0, 0.0)

    right = Verdict(0, "right", (0, 0, 1, 1), 0, 1.0)
    some = [right, *(wrong(score) for score in (0.4, 0.9, 0.6)), *(missed(side) for side in (3, 9, 5))]
    assert [(one.kind, one.score or one.box[2]) for one in worst(some, 4)] == [
        ("nothing there", 0.9),
        ("nothing there", 0.6),
        ("missed", 9),
        ("missed", 5),
    ]
    assert len(worst(some, 20)) == 6
    assert len(worst([wrong(0.5)] * 8, 4)) == 4
