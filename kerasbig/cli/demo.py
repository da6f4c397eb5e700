"""kerasbig demo: the whole way, one public command after the other."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click

QUESTION = "A quiet film with a story that stays with you for days."
QUICK_EXAMPLES = 600


@click.command()
@click.option("--out", default="kerasbig-demo", show_default=True, help="The folder for all that the demo makes.")
@click.option("--quick", is_flag=True, help="A slice of the data and a tiny model from scratch: about a minute and a half.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(out: str, quick: bool, seed: int) -> None:
    """Goes the whole way on real movie reviews: train, evaluate, compress, export, compare, serve, ask.

    Each step is one public command, printed before it runs. A demo that was stopped goes on where it was.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    data = str(_slice(folder / "reviews.csv", seed)) if quick else "movie_reviews"
    start = ["--size", "tiny", "--vocabulary-size", "2000", "--epochs", "4"] if quick else ["--preset", "minilm-l6"]
    run, pruned = str(folder / "runs/sentiment"), str(folder / "runs/sentiment-pruned")
    bundle, pruned_bundle, page = (
        str(folder / "saved_models/sentiment"),
        str(folder / "saved_models/sentiment-pruned"),
        str(folder / "comparison.html"),
    )
    steps = [
        (run, ["train", "text-classifier", "--data", data, "--out", run, "--seed", str(seed), *start]),
        (None, ["evaluate", run, "--data", data]),
        (None, ["predict", run, QUESTION]),
        (pruned, ["compress", run, "--prune", "0.5", "--epochs", "1", "--data", data, "--out", pruned]),
        (bundle, ["export", run, "--to", bundle, "--format", "saved_model,hdf5,litert", "--quantize", "dynamic"]),
        (pruned_bundle, ["export", pruned, "--to", pruned_bundle, "--format", "hdf5,litert", "--quantize", "dynamic"]),
        (None, ["report", run, pruned, bundle, pruned_bundle, "--out", page, "--overwrite"]),
    ]
    for number, (made, arguments) in enumerate(steps, 1):
        if made and Path(made).exists():
            click.secho(f"\n[{number}/{len(steps) + 1}] {made} is there already", bold=True, err=True)
            continue
        _run(f"[{number}/{len(steps) + 1}]", arguments)
    _ask(f"[{len(steps) + 1}/{len(steps) + 1}]", bundle)
    if quick:
        click.echo("\nThe model saw a few hundred reviews: this shows the way, not the accuracy.")
    click.echo(f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes.")
    click.echo(
        f"Which variant to deploy: {page}\nHow the training went:   {run}/report.html\nServe it again:          kerasbig serve {bundle}"
    )


def _slice(file: Path, seed: int) -> Path:
    """Writes a slice of the movie reviews as a CSV, both classes alike."""
    import csv

    from kerasbig.data import load
    from kerasbig.files import replacing_file

    examples = load("movie_reviews", seed=seed).train
    with replacing_file(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        classes = examples.classes or ()
        rows = [(text, classes[target]) for text, target in zip(examples.inputs, examples.targets, strict=True)]
        writer.writerows(rows[:QUICK_EXAMPLES])
    return file


def _run(number: str, arguments: list[str]) -> None:
    click.secho(f"\n{number} kerasbig {shlex.join(arguments)}", bold=True, err=True)
    context = click.get_current_context()
    group = context.find_root().command
    # In this process, since each new one would load TensorFlow again.
    group.main(arguments, prog_name="kerasbig", standalone_mode=False)


def _ask(number: str, bundle: str) -> None:
    """Starts the server, asks it one question and stops it."""
    rest_port, grpc_port = _free_ports()
    arguments = ["serve", bundle, "--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    click.secho(f"\n{number} kerasbig {shlex.join(arguments)}", bold=True, err=True)
    server = subprocess.Popen([sys.executable, "-m", "kerasbig", *arguments])
    address = f"http://127.0.0.1:{rest_port}/v1/models/{Path(bundle).name}"
    try:
        _wait_for(address, server)
        body = json.dumps({"instances": [QUESTION]})
        click.echo(f"curl -d {shlex.quote(body)} {address}:predict")
        with urllib.request.urlopen(f"{address}:predict", body.encode("utf-8"), timeout=60) as answer:
            click.echo(answer.read().decode("utf-8"))
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise OSError(f"Expected the server to start. It ended with exit code {server.returncode}.")
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise OSError(f"Expected the server to answer at {address} within 120 seconds. It did not.")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]
