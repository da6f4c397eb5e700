"""LIME: a linear model of what the model does around one example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerasbig.explain.explanation import Explanation
from kerasbig.explain.regions import ImageCase, require
from kerasbig.explain.scores import Scores, scoring
from kerasbig.explain.subjects import chosen, prepare, require_several, subject
from kerasbig.explain.words import TextCase, one_space


def lime(
    model: Any,
    example: Any,
    *,
    target: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    samples: int = 500,
    seed: int = 0,
    truncate: bool = False,
    regions: int = 50,
    baseline: Any = None,
    progress: bool = True,
) -> Explanation:
    """Explains one answer by LIME: words or superpixels are left out at random, and a linear model is fitted to the scores.

    Args:
        model: As for `kerasbig.explain.subject`.
        example: A text, or an image (H, W, C) in the units that the model takes.
        target: The class, or the classes, to explain; by default the three likeliest.
        class_names: Names of the classes, where the model does not know them.
        samples: How many variants of the example the model is asked about; equal ones are computed once.
        seed: Decides what is left out.
        truncate: Whether a text beyond the model's length is cut; otherwise that is an error.
        regions: About how many superpixels an image is cut into.
        baseline: What a left out superpixel shows, as for `kerasbig.explain.regions.cut`.
        progress: Whether to show a bar on standard error.

    Returns:
        An `Explanation` whose `checks["r2"]` says how well the linear model of the first class fits, from 0 to 1.

    Raises:
        ImportError: If `lime` is not installed.
        TypeError: If the example is not of the model's kind, or the model is a generator.
        ValueError: If the example is empty, of one word, blank or too long; a class does not exist; `samples` is below 10.

    Example:
        >>> from kerasbig.explain import lime
        >>> says = lambda texts: np.array([[1.0 - ("fine" in text), "fine" in text] for text in texts], float)
        >>> lime(says, "a fine film", class_names=("bad", "good"), target="good", samples=50, progress=False).top(most=1)[0][0]
        'fine'

    Source: Ribeiro et al., 2016, "Why should I trust you?", arXiv:1602.04938.
    """
    if samples < 10:
        raise ValueError(f"Expected samples of at least 10. Received: samples={samples}")
    of = subject(model, class_names)
    case = prepare(of, example, "lime", regions=regions, baseline=baseline, truncate=truncate)
    require_several(case, "lime", of)
    with scoring(of, "lime", samples, progress=progress) as scores:
        whole = np.ones(case.count, bool)
        names = scores.names(case.keep(whole))
        before = scores([case.keep(whole)])[0]
        columns = chosen(names, before, target)
        fit = _fit_text if isinstance(case, TextCase) else _fit_image
        found = fit(case, scores, columns, samples, seed)  # type: ignore[arg-type]
    weights = {}
    for column in columns:
        values = np.zeros(case.count)
        for unit, weight in found.local_exp[column]:
            values[unit] = weight
        weights[names[column]] = values if isinstance(case, TextCase) else spread(values, case.segments)
    return Explanation(
        kind="text" if isinstance(case, TextCase) else "image",
        method="lime",
        case=case,
        attributions=weights,
        base_value={names[column]: float(found.intercept[column]) for column in columns},
        scores=dict(zip(names, before.tolist(), strict=True)),
        settings={"samples": samples, "units": case.count},
        seed=seed,
        checks={"r2": _r2(found.score), "computed": float(scores.computed)},
    )


def _fit_text(case: TextCase, scores: Scores, columns: list[int], samples: int, seed: int) -> Any:
    explainer = require("lime.lime_text").LimeTextExplainer(
        split_expression=lambda text: list(case.tokens),
        # Each place of a word counts by itself; what is left out becomes a space.
        bow=False,
        mask_string=" ",
        feature_selection="none",
        random_state=seed,
    )

    def ask(texts: list[str]) -> np.ndarray:
        return scores([text if text == case.text else one_space(text) for text in texts])

    return explainer.explain_instance(case.text, ask, labels=columns[::-1], num_features=case.count, num_samples=samples)


def _fit_image(case: ImageCase, scores: Scores, columns: list[int], samples: int, seed: int) -> Any:
    module = require("lime.lime_image")

    class Explainer(module.LimeImageExplainer):  # type: ignore[name-defined]
        """LIME's own, but for how variants are made: it copies pixel by pixel, in batches of 10, under a bar of its own."""

        def data_labels(
            self, image: Any, covered: Any, segments: Any, ask: Callable[[Any], Any], num_samples: int, batch_size: int = 10
        ) -> tuple[np.ndarray, np.ndarray]:
            data = self.random_state.randint(0, 2, num_samples * case.count).reshape((num_samples, case.count))
            data[0, :] = 1
            answers = [ask([case.keep(row.astype(bool)) for row in data[i : i + batch_size]]) for i in range(0, num_samples, batch_size)]
            return data, np.concatenate(answers)

    explainer = Explainer(feature_selection="none", random_state=seed)
    return explainer.explain_instance(
        case.image, scores, labels=columns[::-1], top_labels=None, hide_color=0, num_samples=samples, batch_size=64,
        segmentation_fn=lambda image: case.segments, random_seed=seed,
    )  # fmt: skip


def spread(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Gives each pixel its share of its region's attribution: the sums stay what they are."""
    return (values / np.bincount(segments.ravel()))[segments]


def _r2(score: Any) -> float:
    """Returns the coefficient of determination; where the model says the same of every variant, the fit is perfect."""
    return float(score) if np.isfinite(score) else 1.0
