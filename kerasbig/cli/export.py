"""kerasbig export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kerasbig.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    import keras

    from kerasbig.run import Run


@click.command()
@click.argument("run")
@click.option("--to", "target", required=True, metavar="saved_models/NAME", help="The Bundle to write.")
@click.option("--format", "formats", default="saved_model,hdf5,litert", show_default=True, help="Formats, with commas between; onnx too.")
@click.option(
    "--quantize",
    default="dynamic",
    show_default=True,
    help="Numbers of the LiteRT file: dynamic (int8 weights), int8 (activations too), float16 or none.",
)
@click.option("--version", type=int, default=1, show_default=True, help="The version folder of the SavedModel.")
@click.option("--overwrite", is_flag=True, help="Replace what the Bundle has of these formats.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(run: str, target: str, formats: str, quantize: str, version: int, overwrite: bool, as_json: bool) -> None:
    """Exports a Run, and runs every exported file in a fresh process before it counts as done."""
    load_tensorflow()
    from kerasbig.cli.output import note, print_json, print_table
    from kerasbig.run import open_run

    opened = open_run(run)
    from kerasbig import export as exporting
    from kerasbig.export.kinds import kind_of

    names = tuple(name.strip() for name in formats.split(",") if name.strip())
    note(f"Exporting {run} as {', '.join(names)} and running each file ...")
    model = opened.load_model()
    if quantize == "int8" and kind_of(model).int8_activations:
        _quantize(opened, model)
    bundle = exporting.bundle(
        model, target, names, quantize=None if quantize == "none" else quantize,
        version=version, metrics=opened.metrics.get("test"), overwrite=overwrite,
    )  # fmt: skip
    manifest = exporting.read_manifest(bundle)
    if as_json:
        print_json({"bundle": str(bundle), "manifest": manifest})
        return
    rows = [
        [name, entry["path"], f"{entry['bytes'] / 1e6:.1f} MB", f"{_difference(entry['parity']):.2g}"]
        for name, entry in manifest["formats"].items()
    ]
    print_table(str(bundle), ["format", "file", "size", "largest difference"], rows)
    click.echo(f"Bundle: {bundle}")


def _difference(parity: dict[str, float]) -> float:
    """Returns the largest difference of a logit, or of a generator's nats a token."""
    return next(value for name, value in parity.items() if name.startswith("max_abs_"))


def _quantize(run: Run, model: keras.Model) -> None:
    """Gives a Run's model its ranges: those it was trained with, or measured on its training data."""
    from kerasbig import compress
    from kerasbig.cli.answer import run_examples
    from kerasbig.cli.compressing import calibration_batches
    from kerasbig.cli.output import note

    if run.ranges is not None:
        compress.quantize_model(model, ranges=run.ranges)
        return
    note("Measuring the ranges of activations on the Run's training data ...")
    compress.quantize_model(model, calibration=calibration_batches(run.task.name, run_examples(run, None, "train"), model))
