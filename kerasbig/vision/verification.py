"""Do two photographs show the same person? Pairs, the threshold for a false-accept rate, and how well it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE_ACCEPT_RATE = 1e-2
# Of more pairs of different people, so many are drawn.
MOST_PAIRS = 2_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of photographs, and how alike they are.

    Attributes:
        indices: int (P, 2): the numbers of the two.
        similarities: float32 (P,): the cosine between their embeddings.
        same: bool (P,): whether both show one person.
    """

    indices: np.ndarray
    similarities: np.ndarray
    same: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> Pairs:
        """Makes all pairs; of different people at most two million, drawn by seed.

        Args:
            embeddings: float32 (N, D), unit vectors.
            targets: int (N,): who is on each.
            seed: Decides what is drawn.

        Example:
            >>> pairs = Pairs.of(np.eye(3, dtype="float32"), np.array([0, 0, 1]))
            >>> pairs.indices.tolist(), pairs.same.tolist()
            ([[0, 1], [0, 2], [1, 2]], [True, False, False])
        """
        count = len(targets)
        if count * (count - 1) // 2 <= MOST_PAIRS:
            indices = np.stack(np.triu_indices(count, 1), axis=1)
        else:
            drawn = np.random.default_rng(seed).integers(0, count, (MOST_PAIRS, 2))
            people = [np.flatnonzero(targets == person) for person in np.unique(targets)]
            alike = [np.stack(np.triu_indices(len(each), 1), axis=1) for each in people]
            together = [each[places] for each, places in zip(people, alike, strict=True)]
            indices = np.concatenate([*together, drawn[targets[drawn[:, 0]] != targets[drawn[:, 1]]]])
        first, second = indices.T
        similarities = np.concatenate(
            [np.sum(embeddings[a] * embeddings[b], axis=1) for a, b in zip(_parts(first), _parts(second), strict=True)]
        ).astype("float32")
        return cls(indices, similarities, np.asarray(targets)[first] == np.asarray(targets)[second])

    @property
    def measurable(self) -> bool:
        """Whether there are pairs of both kinds."""
        return bool(self.same.any() and not self.same.all())


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Cuts into pieces that do not fill the memory with embeddings."""
    return np.array_split(values, max(1, len(values) // 100_000))


def choose_threshold(
    similarities: Sequence[float] | np.ndarray, same: Sequence[bool] | np.ndarray, false_accept_rate: float = FALSE_ACCEPT_RATE
) -> float:
    """Chooses from which similarity on two photographs are taken to show the same person.

    Args:
        similarities: float (P,), of pairs of people that the model was not trained on, for a rate that holds for new people.
        same: bool (P,).
        false_accept_rate: Which share of the pairs of different people may be taken for the same, at most.

    Returns:
        The lowest such threshold, put halfway to the next higher similarity.

    Raises:
        ValueError: If there is no pair of different people, or the rate is not between 0 and 1.

    Example:
        >>> choose_threshold([0.9, 0.5, 0.25, 0.0], [True, False, False, False], 0.34)
        0.375
    """
    values, same = _checked(similarities, same)
    if not 0 <= false_accept_rate < 1:
        raise ValueError(f"Expected false_accept_rate from 0 to below 1. Received: false_accept_rate={false_accept_rate}")
    different = np.sort(values[~same])[::-1]
    if not len(different):
        raise ValueError(f"Expected pairs of different people to choose a threshold by. Received: {len(values)} pairs, all of the same.")
    refused = different[int(false_accept_rate * len(different) + 1e-9)]
    above = values[values > refused]
    return float((refused + above.min()) / 2) if len(above) else float(np.nextafter(refused, np.inf))


def roc(similarities: Sequence[float] | np.ndarray, same: Sequence[bool] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tells what each threshold would accept, from none to all.

    Args:
        similarities: float (P,).
        same: bool (P,); both kinds have to occur.

    Returns:
        Three float64 (T,): false-accept rates, true-accept rates, and the thresholds, descending; the first is infinite.

    Raises:
        ValueError: If there are not pairs of both kinds.

    Example:
        >>> false, true, thresholds = roc([0.9, 0.8, 0.1], [True, False, True])
        >>> false.tolist(), true.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    values, same = _checked(similarities, same)
    if not same.any() or same.all():
        raise ValueError(
            f"Expected pairs of the same and of different people. Received: {int(same.sum())} and {int((~same).sum())}. "
            "Give at least two photographs of one person, and one of another."
        )
    order = np.argsort(-values, kind="stable")
    values, same = values[order], same[order]
    last = np.append(values[1:] != values[:-1], True)
    false, true = np.cumsum(~same)[last] / np.sum(~same), np.cumsum(same)[last] / np.sum(same)
    return np.append(0.0, false), np.append(0.0, true), np.append(np.inf, values[last])


def measure_verification(similarities: Sequence[float] | np.ndarray, same: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Measures how well similarities tell pairs of the same person from pairs of different people.

    Args:
        similarities: float (P,).
        same: bool (P,); both kinds have to occur.

    Returns:
        `auc`, the area under the ROC curve; `eer`, the rate at which as many are wrongly accepted as wrongly refused (on the
        line between two thresholds); `tar_at_far_1e-2`, the share of the same that is accepted where at most 1 % of the
        different are.

    Raises:
        ValueError: If there are not pairs of both kinds.

    Example:
        >>> measure_verification([0.9, 0.8, 0.7, 0.1], [True, True, False, False])
        {'auc': 1.0, 'eer': 0.0, 'tar_at_far_1e-2': 1.0}
    """
    false, true, _ = roc(similarities, same)
    gap = false - (1 - true)  # from -1 to 1, ascending
    place = int(np.argmax(gap >= 0))
    share = -gap[place - 1] / (gap[place] - gap[place - 1])
    return {
        "auc": float(np.trapezoid(true, false)),
        "eer": float(false[place - 1] + share * (false[place] - false[place - 1])),
        "tar_at_far_1e-2": float(true[false <= FALSE_ACCEPT_RATE].max()),
    }


def measure_threshold(pairs: Pairs, threshold: float) -> dict[str, float]:
    """Tells which shares of the different and of the same a threshold accepts.

    Example:
        >>> pairs = Pairs.of(np.eye(3, dtype="float32"), np.array([0, 0, 1]))
        >>> measure_threshold(pairs, 0.5)
        {'far_at_threshold': 0.0, 'tar_at_threshold': 0.0}
    """
    accepted = pairs.similarities >= threshold
    return {
        "far_at_threshold": float(accepted[~pairs.same].mean()),
        "tar_at_threshold": float(accepted[pairs.same].mean()),
    }


def _checked(similarities: Sequence[float] | np.ndarray, same: Sequence[bool] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, alike = np.asarray(similarities, "float64"), np.asarray(same, bool)
    if values.ndim != 1 or values.shape != alike.shape or not np.isfinite(values).all():
        raise ValueError(
            "Expected one finite similarity a pair, and whether it shows the same person. "
            f"Received: similarities of shape {values.shape}, same of shape {alike.shape}."
        )
    return values, alike
