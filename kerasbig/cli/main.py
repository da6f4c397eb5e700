"""The command `kerasbig`: its sub-commands, and how it ends when something is wrong."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from kerasbig.cli.answer import evaluate, predict
from kerasbig.cli.check import check, samples
from kerasbig.cli.compress import compress
from kerasbig.cli.cut_faces import cut_faces
from kerasbig.cli.demo import demo
from kerasbig.cli.explain import explain
from kerasbig.cli.export import export
from kerasbig.cli.launch import launch
from kerasbig.cli.report import report
from kerasbig.cli.serve import serve
from kerasbig.cli.train import train

DONE, FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130
# 128 and the number of SIGUSR1, which schedulers take for "start it again": another worker was lost.
LOST_A_WORKER = 138


class SuggestingGroup(click.Group):
    """A group that says which command may have been meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or fails naming the closest one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(self.list_commands(ctx))}."
            raise click.UsageError(f"Expected a command. Received: {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=SuggestingGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--debug, anywhere, shows the traceback of an error.",
)
@click.version_option(package_name="kerasbig")
def app() -> None:
    """Takes text and vision transformers from raw data to a server: train, compress, export, serve."""


for command in (check, compress, cut_faces, demo, evaluate, explain, export, launch, predict, report, samples, serve, train):
    app.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed with one clear line, 2 wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # The process is ours here: TensorFlow's own start-up lines would bury the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # Without its standalone mode, click returns the code of an `Exit` instead of raising it.
        code = app(args=[argument for argument in arguments if argument != "--debug"], prog_name="kerasbig", standalone_mode=False)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(WRONG_USAGE if isinstance(error, click.UsageError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        _say("Stopped. Give the same command again to go on.")
        sys.exit(STOPPED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError)
        hint = "" if known else " (not foreseen: give --debug for the traceback, and report it)"
        if _is_lost_worker(error):
            _say(f"Expected all workers to stay. Lost one: {_one_line(error)[:200]}. Start all again: they go on where they had saved.")
            # TensorFlow waits for the lost worker in its clean-up.
            sys.stderr.flush()
            os._exit(LOST_A_WORKER)
        _say(f"{_one_line(error)}{hint}")
        sys.exit(FAILED)
    sys.exit(code or DONE)


def _is_lost_worker(error: Exception) -> bool:
    """Returns whether TensorFlow gave up a computation with other workers because one of them is gone."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not os.environ.get("TF_CONFIG"):
        return False
    errors = tensorflow.errors
    # The chief finds a worker unavailable; the worker's own heartbeat exceeds its deadline when the chief or the link is gone.
    lost = (
        errors.UnavailableError,
        errors.AbortedError,
        errors.CancelledError,
        errors.DeadlineExceededError,
        errors.FailedPreconditionError,
    )
    return isinstance(error, lost) or (isinstance(error, errors.OpError) and "ollective" in str(error))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
