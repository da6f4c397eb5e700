"""kerasbig evaluate and kerasbig predict."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kerasbig.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    from kerasbig.data import Examples
    from kerasbig.run import Run

SPLITS = ("train", "validation", "test", "all")


@click.command()
@click.argument("run")
@click.option("--data", metavar="SRC", help="What to measure on; by default the test split of the Run's own data.")
@click.option("--split", type=click.Choice(SPLITS), help="By default test for the Run's own data, all for other data.")
@click.option("--text", metavar="COLUMN", help="The column of texts; by default the Run's.")
@click.option("--label", metavar="COLUMN", help="The column of labels; by default the Run's.")
@click.option("--encoding", help="Encoding of text files; by default the Run's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    run: str, data: str | None, split: str | None, text: str | None, label: str | None, encoding: str | None, as_json: bool
) -> None:
    """Measures a Run on labelled data."""
    load_tensorflow()
    from kerasbig.cli.output import metric_text, print_json, print_table
    from kerasbig.run import open_run

    opened = open_run(run)
    examples = run_examples(opened, data, split, text=text, label=label, encoding=encoding)
    model = opened.load_model()
    started = time.perf_counter()
    logits = opened.task.predict_logits(model, examples.inputs)
    seconds = time.perf_counter() - started
    metrics = opened.task.measure(logits, examples.targets, opened.classes)
    result = {**metrics, "examples": len(examples), "examples_per_second": round(len(examples) / seconds, 1)}
    if as_json:
        print_json({**result, "split": examples.role, "source": examples.source})
    else:
        rows = [[name, metric_text(float(value))] for name, value in result.items()]
        print_table(f"{run} on {examples.source} ({examples.role})", ["metric", "value"], rows)


def run_examples(
    run: Run, data: str | None, split: str | None = None, *, text: str | None = None, label: str | None = None, encoding: str | None = None
) -> Examples:
    """Returns the examples to measure a Run on: a split of its own data, or the whole of other data with its classes.

    Args:
        run: The Run.
        data: A source; None for the Run's own.
        split: "train", "validation", "test" or "all"; by default "test" of the Run's own data or of given files.
        text: The column of texts; the Run's if None.
        label: The column of labels; the Run's if None.
        encoding: The encoding; the Run's if None.
    """
    options = run.options
    source = data or options["data"]
    shared: dict[str, Any] = {
        "text": text or options["text"],
        "label": label or options["label"],
        "encoding": encoding or options["encoding"],
        "regression": run.classes is None,
        "classes": run.classes,
    }
    own = _same_source(source, options["data"])
    split = split or ("test" if own or "test=" in source else "all")
    if split == "all":
        return run.task.read(source, run.task.name, **shared)
    fractions = {name: options[name] for name in ("validation", "test", "seed")}
    splits = run.task.load(source, run.task.name, **shared, **fractions)
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}[split]


def _same_source(one: str, other: str) -> bool:
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


@click.command()
@click.argument("run")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def predict(run: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Answers for each INPUT, a text; "-" reads texts from standard input, one a line."""
    texts = [line.rstrip("\n") for line in sys.stdin] if inputs == ("-",) else list(inputs)
    empty = [i for i, text in enumerate(texts, 1) if not text.strip()]
    if empty or not texts:
        raise ValueError(
            f"Expected a text in each INPUT. Received {len(empty)} empty, the first is number {empty[0]}."
            if empty
            else "Expected a text. Received none."
        )
    load_tensorflow()
    from kerasbig.cli.output import print_json, print_table
    from kerasbig.export import predictions
    from kerasbig.run import open_run

    opened = open_run(run)
    answers = predictions(opened.task.predict_logits(opened.load_model(), texts), opened.classes)
    if as_json:
        print_json({"predictions": answers})
    elif opened.classes is None:
        print_table(run, ["text", "value"], [[text, f"{answer['value']:.4f}"] for text, answer in zip(texts, answers, strict=True)])
    else:
        rows = [[text, a["label"], f"{a['probabilities'][a['label']]:.4f}"] for text, a in zip(texts, answers, strict=True)]
        print_table(run, ["text", "label", "probability"], rows)
