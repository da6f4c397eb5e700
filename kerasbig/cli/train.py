"""kerasbig train."""

from __future__ import annotations

import difflib
from typing import Any

import click

from kerasbig.cli.quiet import keep_memory, load_tensorflow
from kerasbig.cli.xla import allow_fusing

# As in `kerasbig.tasks`, which takes seconds to import; a test holds them equal.
TASK_NAMES = ("text-classifier", "text-generator", "image-classifier", "face-classifier", "object-detector")


@click.command()
@click.argument("task")
@click.option("--data", metavar="SRC", help="A file, a folder, a sample's name, or train=FILE,validation=FILE,test=FILE.")
@click.option("--out", required=True, metavar="RUN", help="The Run folder to write.")
@click.option("--text", metavar="COLUMN", help="The column of texts.")
@click.option("--label", metavar="COLUMN", help="The column of labels.")
@click.option("--image", metavar="COLUMN", help="Images: the column of paths, in a table.")
@click.option("--images", metavar="FOLDER", help="Images: where the paths in a table start; by default beside it.")
@click.option("--skip-bad", is_flag=True, help="Images: skip broken files and wrong labels, and list them in the report.")
@click.option("--regression", is_flag=True, help="Labels are real values: predict a number.")
@click.option("--encoding", default="utf-8", show_default=True, help="Encoding of text files.")
@click.option("--validation", type=float, default=0.1, show_default=True, help="Share of the data for validation.")
@click.option("--test", type=float, default=0.2, show_default=True, help="Share of the data for the test.")
@click.option("--unseen", type=float, default=0.0, show_default=True, help="Faces: share of the people to set aside, for verification.")
@click.option("--preset", metavar="P", help="Start from this: a KerasHub name, a folder (KerasHub, Hugging Face), or minilm-l6.")
@click.option("--size", metavar="S", help="Start from scratch: tiny, mini (default), small, medium, base; images: lite-4 (default), tiny …")
@click.option("--image-size", type=int, metavar="PIXELS", help="Images: the side that the model sees; by default as they are, at most 224.")
@click.option("--patch-size", type=int, metavar="PIXELS", help="Images, from scratch: the side of a patch; by default by the image size.")
@click.option("--stem/--no-stem", default=None, help="Images, from scratch: embed the patches by small convolutions (default).")
@click.option("--resize", help="Images: stretch (default), crop or pad (default to find objects) to the model's shape.")
@click.option("--drop-path", type=float, help="Images: stochastic depth of the last block; 0.1, 0 to find objects.")
@click.option("--augment", metavar="A", help="Images: none, light (default), medium or strong.")
@click.option("--head", metavar="H", help="Faces: arcface (default) or cosface.")
@click.option("--margin", type=float, help="Faces: margin of the loss; arcface 0.2 radians, cosface 0.1.")
@click.option("--scale", type=float, help="Faces: what cosines are multiplied by; 16.")
@click.option("--embedding-dim", type=int, metavar="N", help="Faces: numbers that a face becomes; 128.")
@click.option("--pooling", help="Faces: gap, flatten or token: what the embedding is made of.")
@click.option("--vocabulary-size", type=int, default=8000, show_default=True, help="Tokens to learn, from scratch.")
@click.option("--sequence-length", type=int, help="Longest text in tokens: 128, for a generator a window of 256.")
@click.option("--dropout", type=float, help="By default 0.1, 0 to find objects.")
@click.option("--epochs", type=int, help="Most epochs: 2 from a preset; from scratch 10, or as many as make 400 steps (images: 2000).")
@click.option("--batch-size", type=int, help="32, for a generator 8, for images 64.")
@click.option("--separator", metavar="TEXT", help="Generator: what stands between the documents of a text file; none by default.")
@click.option("--respect-borders", is_flag=True, help="Generator: no window reads over the border of a document.")
@click.option("--lora-rank", type=int, metavar="N", help="Generator from a preset: train small matrices of this rank beside its weights.")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="Generator: what it goes on from after each epoch, for the report."
)
@click.option("--learning-rate", type=float, help="Peak; by default 8e-5 from a preset, 1e-3 to 1e-4 by size from scratch.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True)
@click.option("--warmup", type=float, default=0.1, show_default=True, help="Share of all steps to warm up over.")
@click.option("--patience", type=int, help="Epochs without a better validation loss before it stops: 3, for images 15.")
@click.option("--precision", default="auto", show_default=True, help="auto (measured on this device), float32 or mixed_bfloat16.")
@click.option(
    "--strategy", default="auto", show_default=True, help="auto, one, mirrored (this machine's GPUs), multi_worker (TF_CONFIG) or tpu."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--explain", type=int, default=0, metavar="N", help="Explain N test examples in the report; takes seconds for each.")
@click.option("--config", metavar="JSON", help="Options of an earlier Run (its config.json); flags given here win.")
@click.option("--overwrite", is_flag=True, help="Replace an existing Run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def train(ctx: click.Context, /, task: str, out: str, config: str | None, overwrite: bool, as_json: bool, **values: Any) -> None:
    """Trains TASK (text-classifier, text-generator, image-classifier, face-classifier, object-detector) and writes a Run.

    A training that is killed goes on when the same command is given again.
    """
    require_task(task)
    chosen = {name: value for name, value in values.items() if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    run = _train({"task": task, **chosen}, config, out, overwrite)
    if run is not None:
        show_run(run, as_json)


def require_task(name: str) -> None:
    """Raises a usage error, with the closest name, for a task that does not exist."""
    if name not in TASK_NAMES:
        close = difflib.get_close_matches(name, TASK_NAMES, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Tasks: {', '.join(TASK_NAMES)}."
        raise click.UsageError(f"Expected a task. Received: {name!r}. {hint}")


def _train(chosen: dict[str, Any], config: str | None, out: str, overwrite: bool) -> Any:
    from kerasbig.files import require_new

    require_new(out, overwrite=overwrite)
    keep_memory()
    allow_fusing()
    load_tensorflow()
    from kerasbig.cli import fitting, options

    given = {**(options.options_from_config(config) if config else {}), **chosen}
    if not given.get("data"):
        raise click.UsageError("Expected --data with a file, a folder or a sample's name. Received none.")
    return fitting.train(options.FitOptions(**given), out, overwrite=overwrite)


def show_run(run: Any, as_json: bool) -> None:
    """Prints a Run's figures and where it lies."""
    from kerasbig.cli.output import metric_text, print_json, print_table

    if as_json:
        print_json({"run": run.location, "report": f"{run.location}/report.html", "classes": run.classes, "metrics": run.metrics})
        return
    names = list(dict.fromkeys(name for values in run.metrics.values() for name in values))
    rows = [[role, *(metric_text(values[name]) if name in values else "" for name in names)] for role, values in run.metrics.items()]
    print_table(f"{run.config['task']} in {run.location}", ["split", *names], rows)
    click.echo(f"Run:    {run.location}\nReport: {run.location}/report.html")
