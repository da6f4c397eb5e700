"""Going on after a kill: everything a training needs to continue as if nothing had happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig.files import replacing_file

FORMAT_VERSION = 1


class Resume(keras.callbacks.Callback):
    """Saves the state of a training and goes on from it when `fit` is called again.

    The state is one file, replaced atomically: weights, optimizer, random state of the layers, epoch and step, running
    metrics, the order of the data (`kerasbig.data.batches`), the history so far, and the state of other callbacks.
    The file is removed when `fit` ends. A dataset that is not from `kerasbig.data.batches` is repeated up to the
    step of the kill, so it must give the same batches again.

    Args:
        folder: Where `resume.npz` is kept. Made if missing.
        every_seconds: Least time between two saves within an epoch. The end of an epoch is always saved.
        callbacks: Callbacks of the same `fit` whose scalar attributes are kept too, such as `EarlyStopping` and
            `ModelCheckpoint`. Put `Resume` after them in `fit`.

    Raises:
        ValueError: In `fit`, if the folder holds the state of a different model or optimizer.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> resume = Resume(tempfile.mkdtemp())
        >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, shuffle=False, verbose=0, callbacks=[resume])
        >>> len(resume.history), resume.resumed_from
        (2, None)
    """

    def __init__(self, folder: str | os.PathLike[str], *, every_seconds: float = 60.0, callbacks: Sequence[keras.callbacks.Callback] = ()):
        super().__init__()
        self.path = Path(folder) / "resume.npz"
        self.every_seconds = every_seconds
        self.callbacks = tuple(callbacks)
        self.history: list[dict[str, float]] = []
        self.resumed_from: tuple[int, int] | None = None  # (epoch, steps done in it)
        self._epoch = 0
        self._restored: dict[str, Any] | None = None
        self._metric_values: list[np.ndarray] = []
        self._saved_at = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the state, if there is one."""
        self.history, self.resumed_from, self._restored = [], None, None
        self._saved_at = time.monotonic()
        if not self.path.exists():
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
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
        if batch + 1 == self.params.get("steps"):
            return
        if time.monotonic() - self._saved_at >= self.every_seconds and not self._skipping():
            self._save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the finished epoch."""
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        self._save(epoch + 1, 0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Removes the state: the training is done."""
        self.path.unlink(missing_ok=True)
        self.model._initial_epoch = None

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
        with replacing_file(self.path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, meta=np.array(json.dumps(meta)), **arrays)
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
            variable.assign_add(value)


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
