"""Taking validation and test examples out of one set: by seed, with the share of each class kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kerasbig.data.boxes import Boxes
from kerasbig.data.examples import Examples


def divide_examples(examples: Examples, fractions: Mapping[str, float], seed: int) -> dict[str, Examples]:
    """Takes a fraction of each class away for each named split; what remains is for training.

    Unlike scikit-learn's stratified split, which can leave a rare class out of a small split, it gives each split at
    least one example of each class. Images with boxes are divided by the rarest class among their boxes.

    Args:
        examples: All examples, in any order.
        fractions: The share of the examples for each split other than training.
        seed: Decides which.

    Returns:
        Shuffled examples of "train" and of each split named.

    Raises:
        ValueError: If a class, or for boxes the whole, has too few examples for one in each split.

    Example:
        >>> examples = Examples(list("abcdef"), np.array([0, 1] * 3, "int32"), ("bad", "good"), [1, 2, 3, 4, 5, 6], "a.csv", "all")
        >>> parts = divide_examples(examples, {"test": 0.34}, seed=0)
        >>> len(parts["train"]), sorted(parts["test"].targets.tolist())
        (4, [0, 1])
    """
    needed = len(fractions) + 1
    drawn = isinstance(examples.targets, Boxes)
    ids = _rarest_classes(examples.targets, needed) if drawn else _class_ids(examples)
    counts = np.bincount(ids, minlength=1 if examples.classes is None else len(examples.classes))
    require_total(examples, needed) if drawn else _require_counts(examples, counts, needed)
    random = np.random.default_rng(seed)
    pools = [random.permutation(np.flatnonzero(ids == i)) for i in range(len(counts))]
    chosen: dict[str, np.ndarray] = {}
    for place, (role, fraction) in enumerate(fractions.items()):
        left = np.array([len(pool) for pool in pools])
        shares = _shares(counts, np.maximum(left - (len(fractions) - place), 0), fraction, 0 if drawn else 1)
        chosen[role] = np.concatenate([pool[:share] for pool, share in zip(pools, shares, strict=True)])
        pools = [pool[share:] for pool, share in zip(pools, shares, strict=True)]
    chosen["train"] = np.concatenate(pools)
    return {role: examples.take(random.permutation(indices), role) for role, indices in chosen.items()}


def require_total(examples: Examples, needed: int) -> None:
    """Raises ValueError if there are fewer examples than splits."""
    if len(examples) < needed:
        raise ValueError(
            f"Expected at least {needed} examples, one for each split. Received: {len(examples)} in {examples.source}. Add examples."
        )


def _class_ids(examples: Examples) -> np.ndarray:
    ids: np.ndarray = np.zeros(len(examples), "int32") if examples.classes is None else examples.targets
    return ids


def _rarest_classes(boxes: Boxes, needed: int) -> np.ndarray:
    """Returns int (N,): the rarest class among the boxes of each image; images of too few kinds are of one kind together."""
    counts = np.bincount(boxes.classes, minlength=1)
    # One kind more for images without a box.
    ids = np.array([min(boxes.of_image(i)[1], key=lambda c: (counts[c], c), default=len(counts)) for i in range(len(boxes))], "int64")
    small = np.flatnonzero(np.bincount(ids) < needed)
    return np.where(np.isin(ids, small), small[0], ids) if len(small) else ids


def _shares(counts: np.ndarray, most: np.ndarray, fraction: float, least: int) -> np.ndarray:
    """Divides a fraction of all examples among the classes by largest remainder, with `least` to `most` of each."""
    exact = counts * fraction
    shares = np.clip(np.floor(exact).astype(int), least, most)
    missing = max(round(counts.sum() * fraction), 1) - shares.sum()
    by_remainder = np.argsort(shares - exact, kind="stable")
    able = by_remainder[(shares < most)[by_remainder]]
    shares[able[: max(missing, 0)]] += 1
    return shares


def _require_counts(examples: Examples, counts: np.ndarray, needed: int) -> None:
    """Raises if a class has too few examples for one in each split."""
    if counts.min() >= needed:
        return
    if examples.classes is None:
        require_total(examples, needed)
    small = np.flatnonzero(counts < needed)
    name, count = (examples.classes or ())[small[0]], counts[small[0]]
    others = f" ({len(small) - 1} other classes are too small, too)" if len(small) > 1 else ""
    wanted = "one for each split" if needed > 1 else "to learn from"
    raise ValueError(
        f"Expected at least {needed} example{'s' if needed > 1 else ''} of each class, {wanted}. "
        f"Received: {count} of class {name!r} in {examples.source}{others}. Add examples of it, or join or remove the class."
    )
