"""kerasbig explain."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import click

from kerasbig.cli.quiet import load_tensorflow

# As in `kerasbig.explain`, which takes seconds to import; a test holds them equal.
METHOD_NAMES = ("lime", "shap", "integrated_gradients", "attention")


@click.command()
@click.argument("folder", metavar="RUN|BUNDLE")
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@click.option("--method", default="lime", show_default=True, help="lime, shap, integrated_gradients or attention.")
@click.option("--out", default="explanation.html", show_default=True, metavar="PAGE", help="The page to write.")
@click.option("--class", "targets", multiple=True, metavar="NAME", help="A class to explain; by default the three likeliest.")
@click.option(
    "--examples", type=int, default=0, metavar="N", help="Explain N test examples of the Run: words that matter, and faithfulness."
)
@click.option("--data", metavar="SRC", help="Where --examples come from; by default the Run's own test split.")
@click.option("--format", "form", metavar="FORMAT", help="Of a Bundle: saved_model, litert or hdf5.")
@click.option("--truncate", is_flag=True, help="Cut texts that are longer than the model reads.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same explanation.")
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(
    folder: str, inputs: tuple[str, ...], method: str, out: str, targets: tuple[str, ...], examples: int, data: str | None,
    form: str | None, truncate: bool, seed: int, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Says why: which words, or places of a picture, speak for and against each class.

    An INPUT is a text, or the path of an image; "-" reads them from standard input, one a line.
    """
    _check_usage(folder, inputs, method, examples, data)
    from kerasbig.files import require_new

    require_new(out, overwrite=overwrite)
    texts = [line.rstrip("\n") for line in sys.stdin] if inputs == ("-",) else list(inputs)
    load_tensorflow()
    model, name, task, run = _opened(folder, form, method)
    from kerasbig import explain as explaining
    from kerasbig import report as pages
    from kerasbig.cli.explaining import explain_boxes, explain_examples
    from kerasbig.cli.output import print_json

    if task == "object-detector":
        _refuse_for_boxes(targets, examples, form)
        each = [explain_boxes(model, path, method, seed=seed) for path in texts]
        texts = [path for path, boxes in zip(texts, each, strict=True) for _ in boxes]
        found = [explanation for boxes in each for explanation in boxes]
    else:
        of = explaining.subject(model)
        found = [explaining.explain(of, text, method, target=targets or None, seed=seed, truncate=truncate) for text in texts]
    parts = [explanation.to_html(whole=False) for explanation in found]
    if examples:
        from kerasbig.cli.answer import run_examples

        drawn, more = explain_examples(of, run_examples(run, data).inputs, examples, method, seed=seed)
        found, parts = found + drawn, parts + more
    pages.write(out, pages.RunSummary(title=f"Why {name} answers so", task=task, explanations=parts))
    if as_json:
        print_json({"explanations": [json.loads(explanation.to_json()) for explanation in found], "page": out})
        return
    _show(texts, found[: len(texts)])
    click.echo(f"Page: {out}")


def _check_usage(folder: str, inputs: tuple[str, ...], method: str, examples: int, data: str | None) -> None:
    if method not in METHOD_NAMES:
        close = difflib.get_close_matches(method, METHOD_NAMES, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise click.UsageError(f"Expected --method out of {', '.join(METHOD_NAMES)}. Received: {method!r}.{hint}")
    if examples < 0 or not (inputs or examples):
        raise click.UsageError("Expected an INPUT, or --examples of at least 1. Received: neither.")
    if data and not examples:
        raise click.UsageError("Expected --data with --examples. Received: --data alone. Say how many with --examples.")
    if examples and (Path(folder) / "manifest.json").is_file():
        raise click.UsageError(f"Expected --examples with a Run, which knows its data. Received: {folder!r}, a Bundle. Give INPUTs.")


def _refuse_for_boxes(targets: tuple[str, ...], examples: int, form: str | None) -> None:
    if targets or examples or form:
        raise click.UsageError(
            "Expected images alone for an object detector, whose best boxes are explained. Received: --class, --examples or --format."
        )


def _opened(folder: str, form: str | None, method: str) -> tuple[Any, str, str, Any]:
    """Returns the model, a name, the task's name and the Run (None for a Bundle)."""
    if (Path(folder) / "manifest.json").is_file():
        from kerasbig import export

        task = export.read_manifest(folder)["task"]
        _check_fit(folder, task, method)
        return export.load(folder, form), Path(folder).name, task, None
    if form:
        raise click.UsageError(f"Expected --format for a Bundle only. Received: {folder!r}, which is none. Leave it out.")
    from kerasbig.run import open_run

    run = open_run(folder)
    _check_fit(folder, run.task.name, method)
    return run.load_model(), Path(run.location).name, run.task.name, run


def _check_fit(folder: str, task: str, method: str) -> None:
    from kerasbig.tasks import find_task

    fit = find_task(task).explainers
    if method not in fit:
        these = f"These fit: {', '.join(fit)}." if fit else "It has no probabilities of classes: no method fits it."
        raise ValueError(f"Expected a model that {method} fits. Received: {folder!r}, a {task}. {these}")


def _show(inputs: list[str], found: list[Any]) -> None:
    """Prints the strongest words of each text, or where in each picture the strongest regions are."""
    from kerasbig.cli.output import print_table

    for name, explanation in zip(inputs, found, strict=True):
        score = explanation.scores[explanation.label]
        of_text = explanation.kind == "text"
        rows = [[label, _strongest(explanation, label)] for label in explanation.attributions]
        what = f"strongest {'words' if of_text else 'places (x, y in % of the picture)'} by {explanation.method}"
        print_table(f"{explanation.case.text if of_text else name}\n{explanation.label} {score:.4f}", ["class", what], rows)


def _strongest(explanation: Any, label: str) -> str:
    if explanation.kind == "text":
        return " ".join(f"{word} {value:+.3f}" for word, value in explanation.top(label, 6))
    height, width = explanation.case.segments.shape
    places = explanation.case.points
    return "  ".join(
        f"({100 * places[region][1] / width:.0f}, {100 * places[region][0] / height:.0f}) {value:+.3f}"
        for region, value in explanation.top(label, 4)
    )
