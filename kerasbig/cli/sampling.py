"""What a generator writes while it learns: the same prompts after each epoch, for its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerasbig import text
from kerasbig.cli.output import note
from kerasbig.files import replacing_file

TOKENS = 40
# Enough chance that a young model does not repeat one word, and little enough to judge it by.
TEMPERATURE, TOP_K = 0.8, 40


class Samples(keras.callbacks.Callback):
    """Lets the model go on from each prompt at the end of an epoch and keeps what it wrote in a file.

    Args:
        prompts: What to go on from.
        file: The JSON file; rows of epochs that a resumed training repeats are replaced.
        seed: Of the draws, the same in each epoch.
    """

    def __init__(self, prompts: Sequence[str], file: Path, seed: int):
        super().__init__()
        self._prompts, self._file, self._seed = list(prompts), file, seed

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the texts of this epoch."""
        model = self.model.student if isinstance(self.model, keras.distillation.Distiller) else self.model
        tokens = min(TOKENS, model.preprocessor.sequence_length // 2)
        written = text.generate(
            model, self._prompts, max_tokens=tokens, method="sample", temperature=TEMPERATURE, top_k=TOP_K, seed=self._seed
        )
        rows = [row for row in read_samples(self._file) if row["epoch"] <= epoch]
        rows += [
            {"epoch": epoch + 1, "prompt": prompt, "text": continued} for prompt, continued in zip(self._prompts, written, strict=True)
        ]
        with replacing_file(self._file) as temporary:
            temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
        note(f"sample: {self._prompts[0]}{written[0]}")


def read_samples(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file that `Samples` wrote; none where there is no file."""
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return rows
