"""kerasbig report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN|BUNDLE...")
@click.option("--data", metavar="SRC", help="What to compare on; by default the first Run's own test split.")
@click.option("--out", default="comparison.html", show_default=True, metavar="PAGE", help="The page to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(folders: tuple[str, ...], data: str | None, out: str, overwrite: bool, as_json: bool) -> None:
    """Measures Runs, and every file of Bundles, side by side: accuracy, size, latency, difference.

    The first is the one the others are compared with. At least one must be a Run: it says what the data mean.
    """
    from kerasbig.cli.answer import run_examples
    from kerasbig.cli.output import note, print_json
    from kerasbig.files import require_new
    from kerasbig.run import open_run

    require_new(out, overwrite=overwrite)
    runs = {folder: open_run(folder) for folder in folders if not (Path(folder) / "manifest.json").is_file()}
    if not runs:
        raise click.UsageError("Expected at least one Run among the folders, to know the data by. Received Bundles only.")
    from kerasbig import compress
    from kerasbig import report as pages

    examples = run_examples(next(iter(runs.values())), data)
    note(f"Measuring on {len(examples):,} examples of {examples.source} ({examples.role}) ...")
    compared = compress.compare(_variants(folders, runs), examples)
    if as_json:
        print_json({**compared.to_dict(), "report": out})
    else:
        from rich.console import Console

        Console(highlight=False).print(compared.table())
        click.echo(compared.recommend())
    pages.comparison(out, compared.to_dict(), title=f"Variants on {examples.source} ({examples.role})")
    if not as_json:
        click.echo(f"Report: {out}")


def _variants(folders: tuple[str, ...], runs: dict[str, Any]) -> dict[str, Any]:
    """Returns a model for each Run and a predictor for each file of a Bundle, by name."""
    from kerasbig import export

    variants: dict[str, Any] = {}
    for folder in folders:
        if folder in runs:
            variants[folder] = runs[folder].load_model()
            continue
        for name in export.read_manifest(folder)["formats"]:
            variants[f"{folder} {name}"] = export.load(folder, name)
    return variants
