"""kerasbig report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kerasbig.cli.quiet import load_tensorflow

# What a terminal has room for; the page and --json hold the rest.
COLUMNS = {
    "name": "variant",
    "accuracy": "accuracy",
    "rmse": "rmse",
    "map": "mAP",
    "bits_per_byte": "bits/byte",
    "bytes": "size",
    "gzip_bytes": "gzip",
    "latency_ms": "latency",
    "max_logit_difference": "logits differ",
}


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN|BUNDLE...")
@click.option("--data", metavar="SRC", help="What to compare on; by default the first Run's own test split.")
@click.option("--out", default="comparison.html", show_default=True, metavar="PAGE", help="The page to write.")
@click.option("--explain", type=int, default=0, metavar="N", help="Explain N examples with the first Run; takes seconds for each.")
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(folders: tuple[str, ...], data: str | None, out: str, explain: int, overwrite: bool, as_json: bool) -> None:
    """Measures Runs, and every file of Bundles, side by side: quality, size, latency, difference.

    The first is the one the others are compared with. At least one must be a Run: it says what the data mean.
    """
    load_tensorflow()
    from kerasbig.cli import explaining
    from kerasbig.cli.answer import run_examples
    from kerasbig.cli.output import note, print_json, print_table
    from kerasbig.files import require_new
    from kerasbig.run import open_run

    require_new(out, overwrite=overwrite)
    runs = {folder: open_run(folder) for folder in folders if not (Path(folder) / "manifest.json").is_file()}
    if not runs:
        raise click.UsageError("Expected at least one Run among the folders, to know the data by. Received Bundles only.")
    from kerasbig import compress
    from kerasbig import report as pages

    run = next(iter(runs.values()))
    examples = run.task.compared_on(run_examples(run, data), run.options)
    note(f"Measuring on {len(examples):,} examples of {examples.source} ({examples.role}) ...")
    compared = compress.compare(_variants(folders, runs), examples, measure=run.task.judge)
    advice = compared.recommend()
    parts = explaining.section(run.load_model(), run.task, examples.inputs, explain, int(run.options.get("seed", 0))) if explain else []
    title = f"Variants on {examples.source} ({examples.role})"
    pages.write(out, pages.RunSummary(title=title, task=run.task.name, comparison=compared.rows, notes=[advice], explanations=parts))
    if as_json:
        print_json({**json.loads(compared.to_json()), "recommendation": advice, "report": out})
        return
    rows = [dict(zip(compared.columns, cells, strict=True)) for cells in compared.cells()]
    shown = [name for name in COLUMNS if name in compared.columns]
    print_table(title, [COLUMNS[name] for name in shown], [[row[name] for name in shown] for row in rows])
    click.echo(f"{advice}\nReport: {out}")


def _variants(folders: tuple[str, ...], runs: dict[str, Any]) -> dict[str, Any]:
    """Returns a model for each Run and a predictor for each file of a Bundle, by a short name."""
    from kerasbig import export

    short = {folder: Path(folder).name for folder in folders}
    if any(len({short[f] for f in group}) < len(group) for group in (list(runs), [f for f in folders if f not in runs])):
        short = {folder: folder for folder in folders}
    variants: dict[str, Any] = {}
    for folder in folders:
        if folder in runs:
            variants[short[folder]] = runs[folder].load_model()
            continue
        for name in export.read_manifest(folder)["formats"]:
            variants[f"{short[folder]} {name}"] = export.load(folder, name)
    return variants
