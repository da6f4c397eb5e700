"""Starting TensorFlow: without the lines that it prints before its own log level counts, and keeping its memory."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile


def keep_memory() -> None:
    """Has TensorFlow keep the memory of tensors for the next ones, from its first use of a device on; what was set before stays.

    Otherwise it gives each large tensor back to the system, which clears its pages for the next one: with XLA that is most of
    a training's system time (`benchmarks/allocation.py`). For a process that trains and ends; one that serves should give back.

    Source: TensorFlow 2.21, `core/common_runtime/process_state.cc`.
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    # What it may keep at most: its own limit is 64 GiB, however large the machine is.
    megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(megabytes))


def load_tensorflow() -> None:
    """Imports TensorFlow and KerasHub; what they print meanwhile is shown only if that fails.

    TensorFlow 2.21 writes start-up notes to standard error whatever its log level is, and they would bury the one
    line that matters.
    """
    if "keras_hub" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            for name in ("tensorflow", "tensorflow_text", "keras_hub"):
                importlib.import_module(name)
            # Both set their own level while they are imported.
            for name in ("absl", "tensorflow"):
                logging.getLogger(name).setLevel(logging.ERROR)
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
