"""kerasbig launch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--workers", type=int, default=2, show_default=True, help="Processes that train together.")
@click.option("--restarts", type=int, default=3, show_default=True, help="How often all start again after one was lost.")
@click.option("--logs", metavar="FOLDER", help="Where worker-0.log and so on go; by default beside the Run, or here.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def launch(workers: int, restarts: int, logs: str | None, command: tuple[str, ...]) -> None:
    """Runs `kerasbig COMMAND` as several workers on this machine: kerasbig launch --workers 2 -- train ...

    When one worker dies, all start again and go on with what was saved. Where TF_CONFIG is set, as on a cluster, the
    command is run as the one worker that it names.
    """
    if not command or command[0] != "train":
        raise click.UsageError(f"Expected `-- train ...` after the options. Received: {' '.join(command) or 'nothing'}")
    if os.environ.get("TF_CONFIG"):
        group = click.get_current_context().find_root().command
        group.main(list(command), prog_name="kerasbig", standalone_mode=False)
        return
    from kerasbig.distribute.launching import launch as run

    folder = Path(logs or _logs_of(_out(command)))
    view = _View()
    try:
        code = run([sys.executable, "-m", "kerasbig", *command], workers, folder, restarts=restarts, watch=view.show)
    finally:
        view.close()
    if code:
        for line in _last_errors(folder):
            click.echo(line, err=True)
        raise click.exceptions.Exit(code)
    click.echo(f"Logs:   {folder}")


def _out(command: tuple[str, ...]) -> str:
    """Returns the Run folder that the command names."""
    for index, word in enumerate(command):
        if word.startswith("--out="):
            return word.removeprefix("--out=")
        if word == "--out" and index + 1 < len(command):
            return command[index + 1]
    raise click.UsageError("Expected --out RUN in the command, or --logs FOLDER. Received neither.")


def _logs_of(out: str) -> str:
    """Returns where the logs go: beside the Run, or in this folder for a Run at an address, since logs grow line by line."""
    from kerasbig.remote import is_remote

    return f"{out.rstrip('/').rpartition('/')[2] if is_remote(out) else out}.logs"


def _last_errors(folder: Path) -> list[str]:
    """Returns the line that each worker ended with."""
    lines = []
    for file in sorted(folder.glob("worker-*.log")):
        last = _last_line(file)
        if last:
            lines.append(f"{file}: {last}")
    return lines


def _last_line(file: Path) -> str:
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4096))
        lines = stream.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class _View:
    """One line a worker, its last; where there is no terminal, what the first worker says."""

    def __init__(self) -> None:
        from rich.live import Live

        from kerasbig.cli.output import progress_console

        self._console = progress_console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        self._read = 0
        if self._live is not None:
            self._live.start()

    def show(self, files: list[Path]) -> None:
        """Shows where the workers are."""
        if self._live is not None:
            self._live.update("\n".join(f"{file.stem}  {_last_line(file)}" for file in files))
            return
        with open(files[0], "rb") as stream:
            stream.seek(self._read)
            fresh = stream.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        self._console.file.write(whole.decode("utf-8", "replace"))
        self._console.file.flush()

    def close(self) -> None:
        """Ends the view."""
        if self._live is not None:
            self._live.stop()
