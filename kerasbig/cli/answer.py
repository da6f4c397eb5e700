"""kerasbig evaluate and kerasbig predict."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kerasbig.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    from kerasbig.data import Examples
    from kerasbig.run import Run

SPLITS = ("train", "validation", "test", "unseen", "all")


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
    metrics = opened.task.measure(model, examples, opened.classes).metrics
    seconds = time.perf_counter() - started
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
        split: "train", "validation", "test", "unseen" or "all"; by default "test" of the Run's own data or of given files.
        text: The column of texts; the Run's if None.
        label: The column of labels; the Run's if None.
        encoding: The encoding; the Run's if None.
    """
    options = run.options
    source = data or options["data"]
    own = _same_source(source, options["data"])
    shared: dict[str, Any] = {
        "text": text or options["text"],
        "label": label or options["label"],
        "encoding": encoding or options["encoding"],
        "regression": bool(options.get("regression")),
        "separator": options.get("separator"),
        "image": options.get("image"),
        "images": options.get("images") if own else None,
        "skip_bad": bool(options.get("skip_bad")),
        "classes": run.classes,
    }
    unseen = options.get("unseen", 0.0)
    split = split or ("test" if own or "test=" in source else "all")
    if split == "all":
        return run.task.read(source, run.task.name, **shared)
    fractions = {name: options[name] for name in ("validation", "test", "seed")}
    if unseen:
        # Who was set aside is drawn from all, and so are the others found again.
        shared |= {"unseen": unseen, "classes": None}
    splits = run.task.load(source, run.task.name, **shared, **fractions)
    found: Examples | None = getattr(splits, split)
    if found is None:
        raise ValueError("Expected a Run with people set aside (--unseen) for the split 'unseen'. Received: one without. Train with them.")
    return found


def _same_source(one: str, other: str) -> bool:
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


@click.command()
@click.argument("run")
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("--max-tokens", type=int, default=64, show_default=True, help="Text generator: most tokens to write.")
@click.option("--method", default="greedy", show_default=True, help="Text generator: greedy, sample, beam or contrastive.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="sample: below 1 for likelier words, above for rarer.")
@click.option("--top-k", type=int, default=0, show_default=True, help="sample: draw from the likeliest only; 0 for all. contrastive: 4.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="sample: draw from the likeliest that reach this probability.")
@click.option("--num-beams", type=int, default=4, show_default=True, help="beam: how many texts are followed.")
@click.option("--penalty-alpha", type=float, default=0.6, show_default=True, help="contrastive: weight against repetition, 0 to 1.")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1 against words that were there.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Ends before this; may be given several times.")
@click.option("--seed", type=int, default=0, show_default=True, help="sample: the same seed gives the same text.")
@click.option("--draw", metavar="PNG", help="Object detector: write the image with its boxes; of several images FILE-1.png and so on.")
@click.option("--verify", is_flag=True, help="Faces: tell whether two photographs show the same person.")
@click.option("--enrol", metavar="FOLDER", help="Faces: first take in new people, one sub-folder of photographs each; kept with the Run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    run: str,
    inputs: tuple[str, ...],
    draw: str | None,
    verify: bool,
    enrol: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Answers for each INPUT, a text or the path of an image; "-" reads them from standard input, one a line.

    A generator goes on from its INPUT.
    """
    if not inputs and enrol is None:
        raise click.UsageError("Expected an INPUT, a text or the path of an image. Received none.")
    texts = [line.rstrip("\n") for line in sys.stdin] if inputs == ("-",) else list(inputs)
    _check_inputs(texts, enrol)
    load_tensorflow()
    from kerasbig.run import open_run

    opened = open_run(run)
    finds_objects = opened.task.name == "object-detector"
    if draw is not None and not finds_objects:
        raise click.UsageError(f"Expected --draw for an object detector only. Received: {run!r}, a {opened.task.name}.")
    if opened.task.answer is None:
        _write_on(opened, texts, as_json, settings)
        return
    knows_faces = opened.task.name == "face-classifier"
    if (verify or enrol is not None) and not knows_faces:
        option = "--verify" if verify else "--enrol"
        raise click.UsageError(f"Expected {option} for a face classifier only. Received: {run!r}, a {opened.task.name}.")
    given = [name for name in settings if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"Expected {words} for a text generator only. Received: {run!r}, a {opened.task.name}.")
    if knows_faces:
        from kerasbig.cli.faces import show_faces

        show_faces(opened, texts, enrol=enrol, verify=verify, as_json=as_json)
        return
    answers = opened.task.answer(opened.load_model(), texts, opened.classes)
    if finds_objects:
        _show_objects(run, texts, answers, opened.classes or (), draw, as_json)
        return
    what = "image" if opened.task.name == "image-classifier" else "text"
    _show_answers(run, what, texts, answers, opened.classes, as_json)


def _check_inputs(texts: list[str], enrol: str | None) -> None:
    empty = [i for i, text in enumerate(texts, 1) if not text.strip()]
    if empty or not (texts or enrol):
        raise ValueError(
            f"Expected a text in each INPUT. Received {len(empty)} empty, the first is number {empty[0]}."
            if empty
            else "Expected a text. Received none."
        )


def _show_objects(
    run: str, paths: list[str], answers: list[dict[str, Any]], classes: Sequence[str], draw: str | None, as_json: bool
) -> None:
    from kerasbig.cli.objects import write_drawings
    from kerasbig.cli.output import note, print_json, print_table

    if draw is not None:
        for file in write_drawings(paths, answers, classes, draw):
            note(f"Drawn: {file}")
    if as_json:
        print_json({"predictions": answers})
        return
    rows = []
    for path, answer in zip(paths, answers, strict=True):
        found = [
            [path, label, f"{score:.2f}", ", ".join(f"{side:.0f}" for side in box)]
            for label, score, box in zip(answer["labels"], answer["scores"], answer["boxes"], strict=True)
        ]
        rows += found or [[path, "nothing", "", ""]]
    print_table(run, ["image", "label", "score", "left, top, right, bottom"], rows)


def _show_answers(
    run: str, what: str, texts: list[str], answers: list[dict[str, Any]], classes: Sequence[str] | None, as_json: bool
) -> None:
    from kerasbig.cli.output import print_json, print_table

    if as_json:
        print_json({"predictions": answers})
    elif classes is None:
        print_table(run, ["text", "value"], [[text, f"{answer['value']:.4f}"] for text, answer in zip(texts, answers, strict=True)])
    else:
        rows = [[text, a["label"], f"{a['probabilities'][a['label']]:.4f}"] for text, a in zip(texts, answers, strict=True)]
        print_table(run, [what, "label", "probability"], rows)


def _write_on(opened: Run, prompts: list[str], as_json: bool, settings: dict[str, Any]) -> None:
    """Lets a generator go on from each prompt: piece by piece for people, whole for programs."""
    from kerasbig import text
    from kerasbig.cli.output import print_json

    model = opened.load_model()
    if as_json:
        print_json({"predictions": [{"text": written} for written in text.generate(model, prompts, **settings)]})
        return
    for prompt in prompts:
        click.secho(prompt, bold=True, nl=False)
        for piece in text.stream(model, prompt, **settings):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()
