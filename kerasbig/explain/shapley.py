"""SHAP: what each word or region adds, over the orders in which they may come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasbig.explain.explanation import Explanation
from kerasbig.explain.local_models import spread
from kerasbig.explain.paths import Path, path_of
from kerasbig.explain.regions import require
from kerasbig.explain.scores import Scores, numpy_seed, scoring
from kerasbig.explain.subjects import chosen, prepare, require_method, require_several, subject
from kerasbig.explain.uncompiled import uncompiled
from kerasbig.explain.words import TextCase

logger = logging.getLogger(__name__)

# The largest difference between the sum of all attributions and what they have to explain.
LARGEST_GAP = 1e-3
# Samples of gradients are doubled until they miss by this share at most, or up to so many.
SAMPLED_GAP, MOST_SAMPLES = 0.05, 3200
AT_ONCE = 50


def shap(
    model: Any,
    example: Any,
    *,
    target: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    algorithm: str = "partition",
    evaluations: int = 300,
    background: np.ndarray | None = None,
    seed: int = 0,
    truncate: bool = False,
    regions: int = 50,
    baseline: Any = None,
    progress: bool = True,
) -> Explanation:
    """Explains one answer by SHAP values, which sum to what the model says less what it says of nothing.

    Args:
        model: As for `kerasbig.explain.subject`.
        example: A text, or an image (H, W, C) in the units that the model takes.
        target: The class, or the classes, to explain; by default the three likeliest.
        class_names: Names of the classes, where the model does not know them.
        algorithm: "partition" asks the model about variants with groups of neighbours left out, for any model. "gradient" averages
            gradients between the example and a background, for a BERT classifier (of its embeddings) or a Keras image model.
        evaluations: How many variants, or gradients, the model is asked for.
        background: For "gradient": images (N, H, W, C) to compare with; by default the mean colour alone.
        seed: Decides between groups of equal weight, or which gradients are drawn.
        truncate: Whether a text beyond the model's length is cut; otherwise that is an error.
        regions: About how many superpixels an image is cut into.
        baseline: What a left out superpixel shows, as for `kerasbig.explain.regions.cut`.
        progress: Whether to show a bar on standard error.

    Returns:
        An `Explanation`; `checks["additivity_gap"]` is how far the sum is from what it should be, 1e-3 at most. For "gradient",
        `checks["sampling_gap"]` is what the sample missed before it was spread over the attributions by their variance.

    Raises:
        ImportError: If `shap` is not installed.
        TypeError: If the example is not of the model's kind, or the model is a generator.
        ValueError: If the example is empty, of one word, blank or too long; a class does not exist; `evaluations` is below 10, the
            algorithm is unknown or does not fit the model.
        RuntimeError: If the values do not sum to what they explain: the model answers the same input differently.

    Example:
        >>> from kerasbig.explain import shap
        >>> says = lambda texts: np.array([[1.0 - ("fine" in text), "fine" in text] for text in texts], float)
        >>> shap(says, "a fine film", class_names=("bad", "good"), target="good", progress=False).top(most=1)
        [('fine', 1.0)]

    Source: Lundberg and Lee, 2017, arXiv:1705.07874; Owen values over a partition as in the library `shap`; expected gradients:
    Erion et al., 2021, arXiv:1906.10670.
    """
    if algorithm not in ("partition", "gradient"):
        raise ValueError(f"Expected algorithm to be partition or gradient. Received: algorithm={algorithm!r}")
    if evaluations < 10:
        raise ValueError(f"Expected evaluations of at least 10. Received: evaluations={evaluations}")
    of = subject(model, class_names)
    case = prepare(of, example, "shap", regions=regions, baseline=baseline, truncate=truncate)
    kind = "text" if isinstance(case, TextCase) else "image"
    if algorithm == "gradient":
        require_method(of, kind, "integrated_gradients")
    else:
        require_several(case, "shap", of)
    whole = np.ones(case.count, bool)
    with scoring(of, "shap", evaluations, progress=progress) as scores:
        names = scores.names(case.keep(whole))
        before = scores([case.keep(whole)])[0]
        columns = chosen(names, before, target)
        if algorithm == "partition":
            values, base, checks = _partition(case, scores, columns, evaluations, seed)
            after = before[columns]
        else:
            path = path_of(of, case)
            values, base, checks = _gradient(path, columns, evaluations, seed, background)
            after = path.scores(path.end[None])[0, columns]
    gap = float(np.abs(values.reshape(len(columns), -1).sum(axis=1) + base - after).max())
    if gap > LARGEST_GAP:
        raise RuntimeError(
            f"Expected SHAP values that sum to the answer within {LARGEST_GAP}. Received: a gap of {gap:.2g}. The model answers the same "
            "input differently from call to call: switch its dropout and random layers off."
        )
    if kind == "image" and algorithm == "partition":
        values = np.stack([spread(row, case.segments) for row in values])  # type: ignore[union-attr]
    return Explanation(
        kind=kind,
        method="shap",
        case=case,
        attributions={names[column]: row for column, row in zip(columns, values, strict=True)},
        base_value={names[column]: float(value) for column, value in zip(columns, base, strict=True)},
        scores=dict(zip(names, before.tolist(), strict=True)),
        settings={"algorithm": algorithm, "evaluations": evaluations, "units": case.count},
        seed=seed,
        checks={"additivity_gap": gap, **checks, "computed": float(scores.computed)},
    )


def partition_tree(points: np.ndarray) -> np.ndarray:
    """Groups neighbours into a balanced tree: halves of halves along the longer side.

    Args:
        points: float (M, D), M of 2 or more.

    Returns:
        float64 (M - 1, 4) in the form of `scipy.cluster.hierarchy.linkage`: two groups, their distance, the size; the last row
        is the whole.

    Example:
        >>> partition_tree(np.array([[0.0], [1.0], [2.0]])).tolist()
        [[1.0, 2.0, 0.6666666666666666, 2.0], [0.0, 3.0, 1.0, 3.0]]
    """
    rows: list[list[float]] = []

    def group(members: np.ndarray) -> int:
        if len(members) == 1:
            return int(members[0])
        spans = np.ptp(points[members], axis=0)
        ordered = members[np.argsort(points[members, spans.argmax()], kind="stable")]
        left, right = group(ordered[: len(ordered) // 2]), group(ordered[len(ordered) // 2 :])
        rows.append([left, right, len(members) / len(points), len(members)])
        return len(points) + len(rows) - 1

    group(np.arange(len(points)))
    return np.array(rows)


def _partition(
    case: Any, scores: Scores, columns: list[int], evaluations: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Returns values (K, M) and base values (K,) of K classes by the library's partition explainer."""
    package = require("shap")

    def ask(variants: np.ndarray) -> np.ndarray:
        return scores(list(variants))[:, columns]

    # One row, which only names the example: the masker makes the variants.
    with numpy_seed(seed), uncompiled():
        # Its own identity is compiled as well.
        explainer = package.PartitionExplainer(ask, _masker(case), link=lambda value: value, linearize_link=False)
        found = explainer(np.array([[0]]), max_evals=evaluations, batch_size=AT_ONCE, silent=True)
    return found.values[0].T, found.base_values[0], {}


def _masker(case: Any) -> Callable[..., Any]:
    """Returns a masker of the library's kind that leaves out units of an example."""

    def mask_units(mask: np.ndarray, row: Any) -> tuple[np.ndarray]:
        kept = case.keep(np.asarray(mask, bool))
        return (np.array([kept], object) if isinstance(kept, str) else kept[None],)

    masker: Any = mask_units
    masker.shape = (1, case.count)
    masker.mask_shapes = lambda row: [(case.count,)]
    masker.clustering = partition_tree(case.points)
    masker.immutable_outputs = True
    return mask_units


def _gradient(
    path: Path, columns: list[int], evaluations: int, seed: int, background: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Returns values and base values of K classes by the library's gradient explainer, which sum to the answer."""
    package = require("shap")
    others = path.start[None] if background is None else np.asarray(background, "float32")
    if others.shape[1:] != path.end.shape or not len(others):
        raise ValueError(f"Expected background to be images of shape (N, *{path.end.shape}). Received: {others.shape}.")
    base = path.scores(others)[:, columns].mean(axis=0)
    wanted = path.scores(path.end[None])[0, columns] - base
    explainer = package.GradientExplainer(path.model(), others, batch_size=AT_ONCE)
    samples = evaluations
    while True:
        with numpy_seed(seed):
            found, variances, _ = explainer.shap_values(
                path.end[None],
                nsamples=samples,
                ranked_outputs=np.array([columns]),
                output_rank_order="custom",
                rseed=seed,
                return_variances=True,
            )
        values = np.moveaxis(np.asarray(found)[0], -1, 0)  # (K, ...)
        spreads = np.stack([np.asarray(variance)[0] for variance in variances])
        missed = wanted - values.reshape(len(columns), -1).sum(axis=1)
        gap = float((np.abs(missed) / np.maximum(np.abs(wanted), 0.01)).max())
        if gap <= SAMPLED_GAP or 2 * samples > MOST_SAMPLES:
            break
        samples *= 2
    if gap > SAMPLED_GAP:
        logger.warning(
            "%d sampled gradients miss %.0f %% of the change of the score: take another background, or partition.", samples, 100 * gap
        )
    for row, spread_of_row, miss in zip(values, spreads, missed, strict=True):
        total = spread_of_row.sum()
        row += miss * (spread_of_row / total if total > 0 else 1 / row.size)
    return np.stack([path.by_unit(row) for row in values]), base, {"sampling_gap": gap, "gradients": float(samples)}
