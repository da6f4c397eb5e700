"""Going on after a kill: everything a training needs to continue as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig.distribute.agreement import gathered, is_chief, number_of_workers
from kerasbig.distribute.optimizer_state import build_optimizer
from kerasbig.files import replacing_file
from kerasbig.remote import checkout, commit

FORMAT_VERSION = 1
# 128 and the number of SIGTERM: schedulers read an exit code above 128 as "start it again".
STOPPED_EXIT_CODE = 143


class Resume(keras.callbacks.Callback):
    """Saves the state of a training and goes on from it when `fit` is called again.

    The state is one file, replaced atomically: weights, optimizer, random state of the layers, epoch and step, running
    metrics, the order of the data (`kerasbig.data.batches`), the history so far, and the state of other callbacks.
    The file is removed when `fit` ends. A dataset that is not from `kerasbig.data.batches` is repeated up to the
    step of the kill, so it must give the same batches again.

    On SIGTERM the step under way is finished and saved, and the process exits with code 143, on which schedulers start
    it again. With several workers all save at the same step, the chief writes, and all go on from the same one.

    Args:
        folder: Where `resume.npz` is kept; made if missing. A path, or an address such as `gs://bucket/run`, where other
            files of the folder are kept with it. With several workers, one folder that all of them see.
        every_seconds: Least time between two saves within an epoch. The end of an epoch is always saved.
        every_steps: Steps between two saves within an epoch, instead of a time.
        callbacks: Callbacks of the same `fit` whose scalar attributes are kept too, such as `EarlyStopping` and
            `ModelCheckpoint`. Put `Resume` after them in `fit`.

    Raises:
        ValueError: If `every_steps` is not positive; in `fit`, if the folder holds the state of a different model or
            optimizer, or the workers find different states.
        SystemExit: In `fit`, with code 143, after SIGTERM.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> resume = Resume(tempfile.mkdtemp())
        >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, shuffle=False, verbose=0, callbacks=[resume])
        >>> len(resume.history), resume.resumed_from
        (2, None)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_seconds: float = 60.0,
        every_steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        super().__init__()
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"Expected every_steps of at least 1. Received: every_steps={every_steps}. Leave it out to save by time.")
        self.location = folder
        self.path = Path(os.fspath(folder)) / "resume.npz"
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self.callbacks = tuple(callbacks)
        self.history: list[dict[str, float]] = []
        self.resumed_from: tuple[int, int] | None = None  # (epoch, steps done in it)
        self._epoch = 0
        self._restored: dict[str, Any] | None = None
        self._metric_values: list[np.ndarray] = []
        self._saved_at = 0.0
        self._terminated = False
        self._put_back: Callable[[], None] = lambda: None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the state, if there is one."""
        self.history, self.resumed_from, self._restored = [], None, None
        self._saved_at = time.monotonic()
        self._listen()
        self.path = checkout(self.location) / "resume.npz"
        self._check_same_state()
        build_optimizer(self.model)
        if not self.path.exists():
            return
        with np.load(self.path, allow_pickle=False) as state:
            meta = json.loads(str(state["meta"]))
            self._check_and_assign(state, meta)
            self._metric_values = [state[f"metric/{i}"] for i in range(meta["metrics"])]
        self._restored = meta
        self.history = meta["history"]
        self.resumed_from = (meta["epoch"], meta["step"])
        # Keras's own BackupAndRestore sets this attribute too; a test fails when Keras renames it.
        self.model._initial_epoch = meta["epoch"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the data at the right place."""
        self._epoch = epoch
        order = getattr(_trained(self.model), "epoch_order", None)
        if order is not None:
            order.epoch = epoch
        if self._restored is None:
            return
        for callback, values in zip(self.callbacks, self._restored["callbacks"], strict=True):
            callback.__dict__.update(values)
        if self._restored["step"]:
            self._skip_steps(self._restored["step"])
        self._restored = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves when it is time; the last step is left to the end of the epoch, which follows at once."""
        if batch + 1 == self.params.get("steps") or self._skipping():
            return
        due, stop = self._due(batch + 1)
        if due or stop:
            self._save(self._epoch, batch + 1)
        if stop:
            self._exit()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the finished epoch."""
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        self._save(epoch + 1, 0)
        if self._due(0)[1]:
            self._exit()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Removes the state: the training is done, on all workers."""
        self._put_back()
        gathered(self._strategy, [0])
        if is_chief(self._strategy):
            self.path.unlink(missing_ok=True)
            commit(self.path.parent)
        self.model._initial_epoch = None

    @property
    def _strategy(self) -> Any:
        return self.model.distribute_strategy

    def _listen(self) -> None:
        """Lets SIGTERM end the training after the step under way; Python tells signals to the main thread only."""
        self._terminated = False
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            self._terminated = True

        signal.signal(signal.SIGTERM, terminate)

        def put_back() -> None:
            signal.signal(signal.SIGTERM, before)

        self._put_back = put_back

    def _exit(self) -> None:
        self._put_back()
        raise SystemExit(STOPPED_EXIT_CODE)

    def _due(self, step: int) -> tuple[bool, bool]:
        """Returns whether it is time to save, by the chief's clock, and whether any worker was told to stop."""
        if self.every_steps is None:
            due = time.monotonic() - self._saved_at >= self.every_seconds
        else:
            due = step % self.every_steps < self.model.steps_per_execution and step >= self.every_steps
        if number_of_workers(self._strategy) == 1:
            return due, self._terminated
        everyone = gathered(self._strategy, [int(due and is_chief(self._strategy)), int(self._terminated)])
        return bool(everyone[:, 0].any()), bool(everyone[:, 1].any())

    def _check_same_state(self) -> None:
        """Raises on all workers unless all of them see the same file: they would go on from different steps."""
        if number_of_workers(self._strategy) == 1:
            return
        checksum = zlib.crc32(self.path.read_bytes()) if self.path.exists() else -1
        everyone = gathered(self._strategy, [checksum])[:, 0]
        other = [worker for worker, found in enumerate(everyone) if found != everyone[0]]
        if other:
            raise ValueError(
                f"Expected all {len(everyone)} workers to see the same {str(self.path)!r}. Received: another state, or none, on worker "
                f"{', '.join(map(str, other))} than on worker 0. Give Resume one folder that all workers share."
            )

    def _variables(self) -> list[keras.Variable]:
        return [*_trained(self.model).variables, *self.model.optimizer.variables]

    def _metric_variables(self) -> list[keras.Variable]:
        return [variable for metric in self.model.metrics for variable in metric.variables]

    def _save(self, epoch: int, step: int) -> None:
        metrics = self._metric_variables() if step else []
        meta = {
            "format_version": FORMAT_VERSION,
            "epoch": epoch,
            "step": step,
            "history": self.history,
            "metrics": len(metrics),
            # Shapes tell models apart; paths do not, since Keras numbers the models of a process.
            "shapes": [list(variable.shape) for variable in self._variables()],
            "callbacks": [_scalars(callback) for callback in self.callbacks],
        }
        arrays: dict[str, Any] = {f"variable/{i}": _values(variable) for i, variable in enumerate(self._variables())}
        arrays |= {f"metric/{i}": _values(variable) for i, variable in enumerate(metrics)}
        if is_chief(self._strategy):
            with replacing_file(self.path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)
            commit(self.path.parent)
        self._saved_at = time.monotonic()

    def _check_and_assign(self, state: Any, meta: dict[str, Any]) -> None:
        if meta["shapes"] != [list(variable.shape) for variable in self._variables()]:
            raise ValueError(
                f"Expected {str(self.path)!r} to hold the state of this model and optimizer. Received the state of another one. "
                "Build the model as before, or remove the file to start afresh."
            )
        for i, variable in enumerate(self._variables()):
            variable.assign(state[f"variable/{i}"])

    def _skipping(self) -> bool:
        return getattr(self.model.train_function, "skips_steps", False)

    def _skip_steps(self, steps: int) -> None:
        """Replaces the train function until the steps done before the kill have been passed by."""
        train = self.model.train_function
        state = {"left": steps // self.model.steps_per_execution}

        def train_or_skip(iterator: Any) -> Any:
            if state["left"]:
                state["left"] -= 1
                for _ in range(self.model.steps_per_execution):
                    next(iterator)
                return {}
            self.model.train_function = train
            logs = train(iterator)
            self._add_metric_values()
            return logs

        train_or_skip.skips_steps = True  # type: ignore[attr-defined]
        self.model.train_function = train_or_skip

    def _add_metric_values(self) -> None:
        """Adds what the metrics had counted before the kill: Keras builds their variables in the first step only."""
        for variable, value in zip(self._metric_variables(), self._metric_values, strict=True):
            variable.assign(_values(variable) + value)  # adding is not possible from outside of the replicas


def _trained(model: keras.Model) -> keras.Model:
    """Returns the part of a model that changes: a distiller's teacher does not."""
    return model.student if isinstance(model, keras.distillation.Distiller) else model


def _values(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)))


def _scalars(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns the numbers a callback keeps, such as `best` and `wait`."""
    kept: dict[str, Any] = {}
    for name, value in vars(callback).items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, int | float | None) and not name.startswith("_"):
            kept[name] = plain
    return kept
