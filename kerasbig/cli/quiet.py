"""Starting TensorFlow without the lines that it prints before its own log level counts."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile


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
