"""A process that has imported what exported files need, and forks for each check: TensorFlow takes seconds to import.

It cannot import KerasBig, and neither can what it forks. Each line of its input is a job as JSON (command, folder, log, status);
the last is the file that tells how the fork ended.
"""

import json
import os
import runpy
import sys
import traceback
from typing import Any


def run(job: dict[str, Any]) -> int:
    """Runs the script of a job as Python would in a process of its own."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(job["folder"])
    sys.argv = job["command"]
    try:
        runpy.run_path(job["command"][0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.modules["kerasbig"] = sys.modules["sklearn"] = sys.modules["jax"] = None  # type: ignore[assignment]
    import keras_hub  # noqa: F401
    import tensorflow_text  # noqa: F401

    for line in sys.stdin:
        if os.fork():
            continue
        job = json.loads(line)
        status = run(job)
        sys.stdout.flush()
        sys.stderr.flush()
        with open(job["status"] + ".new", "w", encoding="utf-8") as file:
            file.write(str(status))
        os.replace(job["status"] + ".new", job["status"])
        os._exit(0)
