"""The progress bar of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kerasbig.cli.output import note, progress_console


class TrainingProgress(keras.callbacks.Callback):
    """A progress bar with the time left over the whole training, and a line at the end of each epoch."""

    def __init__(self, steps_per_epoch: int, epochs: int):
        super().__init__()
        self._steps, self._epochs = steps_per_epoch, epochs
        self._bar: Progress | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the bar."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=progress_console(), transient=True)
        self._row = self._bar.add_task("training", total=self._steps * self._epochs)
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar to the epoch, which a resumed training does not start at."""
        self._epoch = epoch
        self._advance(0, {})

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        self._advance(batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the epoch's figures."""
        figures = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items() if not name.startswith("learning"))
        note(f"epoch {epoch + 1}/{self._epochs}  {figures}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the bar."""
        self.close()

    def close(self) -> None:
        """Ends the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _advance(self, step: int, logs: Mapping[str, float]) -> None:
        if self._bar is not None:
            figures = " ".join(f"{name} {float(logs[name]):.3f}" for name in ("loss", "accuracy", "rmse") if name in logs)
            self._bar.update(
                self._row, completed=self._epoch * self._steps + step, description=f"epoch {self._epoch + 1}/{self._epochs} {figures}"
            )
