"""kerasbig compress."""

from __future__ import annotations

from typing import Any

import click

from kerasbig.cli.quiet import load_tensorflow


@click.command()
@click.argument("run")
@click.option("--out", required=True, metavar="RUN2", help="The Run folder to write.")
@click.option("--prune", required=True, metavar="SHARE|M:N", help="Zeros to reach in each kernel, such as 0.5, or 2:4.")
@click.option("--data", metavar="SRC", help="What to fine-tune on; by default the Run's own data.")
@click.option("--epochs", type=int, default=1, show_default=True)
@click.option("--learning-rate", type=float, help="Peak; by default a quarter of the Run's.")
@click.option("--precision", help="By default the Run's.")
@click.option("--seed", type=int, help="By default the Run's.")
@click.option("--overwrite", is_flag=True, help="Replace an existing Run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compress(run: str, out: str, prune: str, overwrite: bool, as_json: bool, **changes: Any) -> None:
    """Prunes a Run while it trains a little further, and writes another Run. Embeddings are left alone."""
    pruning = parse_prune(prune)
    load_tensorflow()
    from kerasbig.cli.train import show_run
    from kerasbig.files import require_new
    from kerasbig.run import open_run

    opened = open_run(run)
    require_new(out, overwrite=overwrite)
    from kerasbig.cli import fitting

    show_run(fitting.prune(opened, pruning, changes, out, overwrite=overwrite), as_json)


def parse_prune(value: str) -> dict[str, Any]:
    """Reads `--prune`: a share such as 0.5, or m:n such as 2:4.

    Raises:
        click.UsageError: If it is neither.
    """
    m, colon, n = value.partition(":")
    try:
        parsed: dict[str, Any] = {"m_by_n": [int(m), int(n)]} if colon else {"sparsity": float(value)}
    except ValueError:
        parsed = {}
    if not parsed or not (0 < parsed.get("sparsity", 0.5) < 1):
        raise click.UsageError(f"Expected --prune to be a share between 0 and 1, such as 0.5, or m:n, such as 2:4. Received: {value!r}")
    return parsed
