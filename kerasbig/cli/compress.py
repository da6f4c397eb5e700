"""kerasbig compress."""

from __future__ import annotations

from typing import Any

import click

from kerasbig.cli.quiet import keep_memory, load_tensorflow

# As in `kerasbig.text.SIZES` and `kerasbig.vision.VIT_SIZES`, which take seconds to import; a test holds them equal.
SIZES = ("tiny", "mini", "small", "medium", "base", "lite-2", "lite-4", "lite-6", "lite-7", "large", "huge")


@click.command()
@click.argument("run")
@click.option("--out", required=True, metavar="RUN2", help="The Run folder to write.")
@click.option("--distill-to", metavar="SIZE|LAYERS", help="A smaller model: a size such as tiny, or so many of the model's own layers.")
@click.option("--prune", metavar="SHARE|M:N", help="Zeros to reach in each kernel, such as 0.5, or 2:4.")
@click.option("--cluster", type=int, metavar="VALUES", help="Values that the weights of a kernel share, such as 16.")
@click.option("--qat", is_flag=True, help="Train for int8; then 'export --quantize int8' loses less.")
@click.option("--embeddings", is_flag=True, help="Cluster the embedding tables too; they are left alone otherwise.")
@click.option("--teacher/--no-teacher", default=True, show_default=True, help="Learn from the Run's answers, beside the labels.")
@click.option("--data", metavar="SRC", help="What to fine-tune on; by default the Run's own data.")
@click.option("--epochs", type=int, help="Of each step; by default 3 to distil or prune (4 above 0.6), 1 to cluster and for int8.")
@click.option(
    "--learning-rate",
    type=float,
    help="Peak; by default the Run's to distil or prune (twice it above 0.6), a quarter to cluster, an eighth for int8.",
)
@click.option("--precision", help="By default the Run's.")
@click.option("--seed", type=int, help="By default the Run's.")
@click.option("--overwrite", is_flag=True, help="Replace an existing Run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compress(
    run: str,
    out: str,
    distill_to: str | None,
    prune: str | None,
    cluster: int | None,
    qat: bool,
    embeddings: bool,
    teacher: bool,
    overwrite: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Makes a Run's model smaller while it trains a little further, and writes another Run.

    Steps may be combined; they run in this order: distil, prune, cluster, int8. Each keeps what came before.
    """
    pruning = parse_prune(prune) if prune is not None else None
    _check(distill_to, pruning, cluster, qat, embeddings)
    keep_memory()
    load_tensorflow()
    from kerasbig.cli.train import show_run
    from kerasbig.files import require_new
    from kerasbig.run import open_run

    opened = open_run(run)
    require_new(out, overwrite=overwrite)
    from kerasbig.cli.compressing import Recipe, compress_run

    recipe = Recipe(distill_to, pruning, cluster, qat, embeddings, teacher)
    show_run(compress_run(opened, recipe, changes, out, overwrite=overwrite), as_json)


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


def _check(distill_to: str | None, pruning: dict[str, Any] | None, cluster: int | None, qat: bool, embeddings: bool) -> None:
    """Raises a usage error for what cannot be meant."""
    if not (distill_to or pruning or cluster is not None or qat):
        raise click.UsageError("Expected something to do: --distill-to, --prune, --cluster or --qat. Received none of them.")
    if distill_to is not None and distill_to not in SIZES and not (distill_to.isdigit() and int(distill_to) > 0):
        raise click.UsageError(f"Expected --distill-to to be a number of layers or one of {', '.join(SIZES)}. Received: {distill_to!r}")
    if cluster is not None and not 2 <= cluster <= 256:
        raise click.UsageError(f"Expected --cluster from 2 to 256. Received: {cluster}")
    if embeddings and cluster is None:
        raise click.UsageError("Expected --cluster beside --embeddings, which says what to cluster. Received none.")
