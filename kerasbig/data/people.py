"""Setting people aside, whom a face model is measured on and never trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kerasbig.data.examples import Examples, Splits, concatenated
from kerasbig.data.image_examples import of_classes


def set_people_aside(splits: Splits[Examples], share: float, seed: int) -> Splits[Examples]:
    """Takes a share of the people out of all three splits; all their photographs become `unseen`.

    Args:
        splits: Labelled photographs.
        share: Which share of the people, above 0 and below 1.
        seed: Decides who.

    Returns:
        `Splits` whose `unseen` has classes of its own.

    Raises:
        ValueError: If the share is out of its range, or does not leave two people on either side.

    Example:
        >>> def part(role):
        ...     return Examples(list("abcd"), np.arange(4, dtype="int32"), ("s1", "s2", "s3", "s4"), [1, 2, 3, 4], "people", role)
        >>> splits = set_people_aside(Splits(part("train"), part("validation"), part("test")), 0.5, seed=0)
        >>> len(splits.train), len(splits.unseen), set(splits.classes) & set(splits.unseen.classes)
        (2, 6, set())
    """
    count = len(splits.classes or ())
    aside = round(count * share)
    if not 0 < share < 1 or aside < 2 or count - aside < 2:
        raise ValueError(
            f"Expected unseen to be a share that leaves at least two people to train on and two to set aside. "
            f"Received: unseen={share} of {count} people in {splits.train.source}. Use another share, or add people."
        )
    order = np.random.default_rng(seed).permutation(count)
    left, gone = np.sort(order[aside:]), np.sort(order[:aside])
    parts = {role: getattr(splits, role) for role in ("train", "validation", "test")}
    unseen = concatenated([of_classes(part, gone) for part in parts.values()])
    return Splits(**{role: of_classes(part, left) for role, part in parts.items()}, unseen=replace(unseen, role="unseen"))
