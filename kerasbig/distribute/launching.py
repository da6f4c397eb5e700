"""Workers on this machine: started together, watched, stopped together, started again with what they had saved."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# What `Resume` and the command line end with when another start would help: stopped by a signal, or a peer was lost.
RETRY_FROM = 128
POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
STOP_SECONDS = 60.0
# Signals that end the launcher itself, and its exit codes.
_STOPPED: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}


def launch(
    command: Sequence[str],
    workers: int,
    logs: str | os.PathLike[str],
    *,
    restarts: int = 3,
    watch: Callable[[list[Path]], None] = lambda files: None,
) -> int:
    """Runs a command as several workers that train together, each with its own TF_CONFIG and log.

    When one worker dies, all are stopped. If it was killed or lost its peers, all start again, on new ports, up to
    `restarts` times; `Resume` in the command makes them go on where they were. SIGTERM and Ctrl-C go to the workers, who
    save and end.

    Args:
        command: Program and arguments, the same for every worker.
        workers: How many.
        logs: Folder for `worker-0.log` and so on; what all attempts say is appended.
        restarts: How often to start all of them again.
        watch: Called a few times a second with the log files.

    Returns:
        0, or the exit code of the worker that ended it.

    Raises:
        ValueError: If `workers` is below 1 or `restarts` below 0.

    Example:
        >>> import sys, tempfile
        >>> launch([sys.executable, "-c", "import os; print(os.environ['TF_CONFIG'])"], 2, tempfile.mkdtemp())
        0
    """
    if workers < 1 or restarts < 0:
        raise ValueError(f"Expected at least 1 worker and 0 restarts. Received: workers={workers}, restarts={restarts}")
    folder = Path(logs)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"worker-{number}.log" for number in range(workers)]
    for attempt in range(restarts + 1):
        code, again = _attempt(command, files, attempt, watch)
        if not again:
            break
    return code


def _attempt(command: Sequence[str], files: Sequence[Path], attempt: int, watch: Callable[[list[Path]], None]) -> tuple[int, bool]:
    """Runs all workers once and returns the exit code that counts, and whether another start would help."""
    addresses = _free_addresses(len(files))
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for number, file in enumerate(files):
            log = stack.enter_context(open(file, "ab"))
            log.write(f"--- attempt {attempt + 1}, worker {number} of {len(files)} at {addresses[number]}\n".encode())
            log.flush()
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            # A group of its own: Ctrl-C reaches the launcher alone, which tells the workers to save.
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, process_group=0)
            )
        told: list[int] = []
        before = {number: signal.signal(number, lambda received, frame: told.append(received)) for number in _STOPPED}
        try:
            while not told:
                watch(list(files))
                codes = [process.poll() for process in processes]
                if any(codes) or None not in codes:
                    # The first to end says why: the others fail because they lost it.
                    code = next((code if code > 0 else RETRY_FROM - code for code in codes if code), 0)
                    _wait(processes, GRACE_SECONDS if code else 0)
                    return code, code >= RETRY_FROM
                time.sleep(POLL_SECONDS)
            _end(processes, STOP_SECONDS)
            return _STOPPED[told[0]], False
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _end(processes, 0)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


def _end(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """Asks for an end, waits, and then makes it: a worker that waits for a dead one hears nothing."""
    for process in processes:
        if process.poll() is None and patience:
            process.terminate()
    _wait(processes, patience)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
