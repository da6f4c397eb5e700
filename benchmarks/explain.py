"""Explanations: whether they are faithful, add up, repeat, find what was planted, and how long one takes.

    python benchmarks/explain.py --run runs/sentiment                       a Run of movie_reviews; about half an hour on two cores
    python benchmarks/explain.py --run runs/sentiment --reviews 40          fewer reviews
    python benchmarks/explain.py --run runs/sentiment --only time           one part: time, faithful, pictures, seed or planted
    python benchmarks/explain.py --run RUN --images-run runs/digits         pictures, too: a Run of an image classifier
    python benchmarks/explain.py --run RUN --bundle saved_models/sentiment  times LIME and SHAP on its LiteRT file as well
    python benchmarks/explain.py --quick                                    a tiny model: shows that it runs

Faithful: the words that a method calls important are left out, one twentieth of a review at a time; the area under the
probability of the likeliest class is compared with that of 5 random orders, review by review (Wilcoxon, one side). Pictures:
the same of an image classifier's test split, with regions instead of words. Time: LIME
with 500 samples and SHAP with 300 evaluations of one review, the median over reviews of every length, after one that warms up;
the first in the process stands beside it. Planted: models built by hand, whose answer depends on one word or one patch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import finish, load_tensorflow, note, parser, stand_in_lines, table, verdict

METHODS = ("lime", "shap", "integrated_gradients")
PARTS = ("time", "faithful", "pictures", "seed", "planted")
TIMED = 7


def main() -> None:
    """Measures the parts and prints tables, then one line of JSON."""
    options = parser(__doc__)
    options.add_argument("--run", metavar="RUN", help="a trained text classifier")
    options.add_argument("--bundle", metavar="BUNDLE", help="its Bundle, to be timed beside it")
    options.add_argument("--reviews", type=int, default=200, help="test reviews for the faithful part (default: 200)")
    options.add_argument("--images-run", metavar="RUN", help="a trained image classifier, for the pictures part")
    options.add_argument("--pictures", type=int, default=100, help="test images for the pictures part (default: 100)")
    options.add_argument("--only", choices=PARTS, action="append", help="a part alone; may be given several times")
    arguments = options.parse_args()
    if not (arguments.run or arguments.quick):
        options.error("expected --run RUN, or --quick")
    if arguments.quick:
        arguments.reviews = arguments.pictures = 8
    chosen = [part for part in arguments.only or PARTS if part != "pictures" or arguments.images_run or arguments.quick]
    if not chosen:
        options.error("expected --images-run RUN for the pictures part")
    load_tensorflow()
    model, reviews = subject_of(arguments)
    parts = {"time": times, "faithful": faithful, "pictures": pictures, "seed": repeats, "planted": planted}
    result: dict[str, Any] = {}
    verdicts: list[dict[str, Any]] = []
    for name in chosen:
        note(f"{name} ...")
        result[name], found = parts[name](model, reviews, arguments)
        verdicts += found
    finish("explain", arguments, result, verdicts)


def subject_of(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """Returns the model and the texts of its test split that have more than one word."""
    import kerasbig as kb

    if arguments.run:
        from kerasbig.cli.answer import run_examples
        from kerasbig.run import open_run

        run = open_run(arguments.run)
        model, texts = run.load_model(), run_examples(run, None).inputs
    else:
        texts = stand_in_lines(20)[0]
        model = kb.text.bert_classifier(("negative", "positive"), size="tiny", vocabulary=kb.text.learn_wordpiece(texts, 120))
    return model, [text for text in texts if len(text.split()) > 1]


def faithful(model: Any, reviews: list[str], arguments: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Measures the methods on reviews."""
    return against_random(model, reviews[: arguments.reviews], "reviews")


def pictures(model: Any, reviews: list[str], arguments: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Measures the methods on the test images of an image classifier, or of a tiny one with random weights."""
    import kerasbig as kb

    if not arguments.images_run:
        import numpy as np

        noise = list(np.random.default_rng(0).uniform(0, 255, (arguments.pictures, 32, 32, 3)).astype("float32"))
        return against_random(kb.vision.vit_classifier(("a", "b"), size="lite-2", image_shape=(32, 32, 3), patch_size=8), noise, "pictures")
    from kerasbig.cli.answer import run_examples
    from kerasbig.run import open_run

    run = open_run(arguments.images_run)
    return against_random(run.load_model(), list(run_examples(run, None).inputs[: arguments.pictures]), "pictures")


def against_random(model: Any, chosen: list[Any], what: str) -> tuple[Any, list[dict[str, Any]]]:
    """Measures each method against random orders, and how far its attributions are from what they should sum to."""
    import kerasbig as kb

    rows, verdicts, figures = [], [], {}
    for method in METHODS:
        started = time.perf_counter()
        found = [kb.explain.explain(model, text, method, truncate=True, progress=False) for text in chosen]
        seconds = (time.perf_counter() - started) / len(found)
        measured = kb.explain.faithfulness(model, [each for each in found if each.case.count > 1]).figures()
        gaps = {
            name: max(each.checks[name] for each in found) for name in ("additivity_gap", "completeness_gap") if name in found[0].checks
        }
        figures[method] = {**measured, **gaps, "seconds_each": seconds}
        note(f"{method}: {figures[method]}")
        columns = ("deletion_area", "random_deletion_area", "deletion_p", "insertion_area", "random_insertion_area", "insertion_p")
        rows.append([method, *(f"{measured[name]:.3g}" for name in columns), f"{seconds:.2f}"])
        better = measured["deletion_p"] if measured["deletion_area"] < measured["random_deletion_area"] else 1.0
        verdicts.append(verdict(f"{what}, {method}: deletion area against random, p", better, "<", 0.01))
        for name, most in (("additivity_gap", 1e-3), ("completeness_gap", 0.01)):
            if name in gaps:
                verdicts.append(verdict(f"{what}, {method}: largest {name.replace('_', ' ')}", gaps[name], "<=", most))
    table([f"{len(chosen)} {what}", "deletion", "random", "p", "insertion", "random", "p", "s each"], rows)
    return figures, verdicts


def times(model: Any, reviews: list[str], arguments: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Times one explanation, on reviews from the shortest to the longest."""
    import kerasbig as kb

    by_length = sorted(reviews, key=len)
    chosen = [by_length[(2 * i + 1) * len(by_length) // (2 * TIMED)] for i in range(TIMED)]
    models = {"Run": model} | ({"LiteRT": kb.export.load(arguments.bundle, "litert")} if arguments.bundle else {})
    asked: dict[str, Any] = {
        "lime, 500 samples": lambda of, text: kb.explain.lime(of, text, samples=500, truncate=True, progress=False),
        "shap, 300 evaluations": lambda of, text: kb.explain.shap(of, text, evaluations=300, truncate=True, progress=False),
    }
    rows, figures = [], {}
    for name, of in models.items():
        for what, ask in asked.items():
            taken = [seconds(ask, of, text) for text in [chosen[TIMED // 2], *chosen]]
            figures[f"{what} ({name})"] = {"first": taken[0], "median": statistics.median(taken[1:]), "longest": max(taken[1:])}
            rows.append([f"{what} ({name})", *(f"{value:.2f}" for value in figures[f"{what} ({name})"].values())])
    table(["one review, s", "first in the process", "median", "longest"], rows)
    verdicts = [
        verdict(f"one review, {what}", min(figures[f"{what} ({name})"]["median"] for name in models), "<=", 8.0, " s") for what in asked
    ]
    return figures, verdicts


def seconds(ask: Any, of: Any, text: str) -> float:
    """Returns how long one explanation takes."""
    started = time.perf_counter()
    ask(of, text)
    return time.perf_counter() - started


def repeats(model: Any, reviews: list[str], arguments: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Counts explanations that differ when they are made a second time with the same seed."""
    import kerasbig as kb

    differing = sum(
        len({kb.explain.explain(model, text, method, seed=1, truncate=True, progress=False).to_json() for _ in range(2)}) > 1
        for method in (*METHODS, "attention")
        for text in reviews[:3]
    )
    return {"differing": differing}, [verdict("explanations that differ, same seed twice", differing, "<=", 0)]


def planted(model: Any, reviews: list[str], arguments: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Counts how often what is planted ranks first."""
    import numpy as np

    import kerasbig as kb

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from planted import PLANTED, planted_bert, planted_cnn, planted_images, planted_texts

    count = 5 if arguments.quick else 100
    bert, cnn = kb.explain.subject(planted_bert()), planted_cnn()
    texts, (images, corners) = planted_texts(count), planted_images(count)
    shares: dict[str, float] = {}
    for method in METHODS:
        words = [kb.explain.explain(bert, text, method, progress=False).top(most=1)[0][0] == PLANTED for text in texts]
        patches = []
        for image, (row, column) in zip(images, corners, strict=True):
            found = kb.explain.explain(cnn, image, method, progress=False)
            patches.append(found.top("marked", 1)[0][0] in found.case.segments[row : row + 8, column : column + 8])
        shares |= {f"{method}, word": float(np.mean(words)), f"{method}, patch": float(np.mean(patches))}
    table(["planted", "ranks first"], [[name, f"{share:.0%}"] for name, share in shares.items()])
    return shares, [verdict(f"planted: {name} ranks first", share, ">=", 0.99) for name, share in shares.items()]


if __name__ == "__main__":
    main()
