"""All options of a training, their limits and their defaults."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

# Peak learning rates from scratch: the wider the model, the smaller.
RATES = {"tiny": 1e-3, "mini": 1e-3, "small": 5e-4, "medium": 3e-4, "base": 1e-4}
PRECISIONS = ("auto", "float32", "mixed_bfloat16")


@dataclass(frozen=True)
class FitOptions:
    """All that decides a training. Written to a Run's `config.json`, and read from there by `--config`.

    Fields that are None are resolved before the training: see `resolved`.
    """

    task: str
    data: str
    text: str | None = None
    label: str | None = None
    regression: bool = False
    encoding: str = "utf-8"
    validation: float = 0.1
    test: float = 0.2
    preset: str | None = None
    size: str | None = None
    vocabulary_size: int = 8000
    sequence_length: int = 128
    dropout: float = 0.1
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 3
    precision: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    compression: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("vocabulary_size", 6)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"Expected {name} of at least {lowest}. Received: {name}={value}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"Expected a positive learning_rate. Received: learning_rate={self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Expected warmup from 0 to below 1, a share of all steps. Received: warmup={self.warmup}")
        if self.weight_decay < 0:
            raise ValueError(f"Expected weight_decay of at least 0. Received: weight_decay={self.weight_decay}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: precision={self.precision!r}")
        if self.preset and self.size:
            raise ValueError(f"Expected a preset or a size. Received both: preset={self.preset!r}, size={self.size!r}")

    def resolved(self, train_examples: int) -> FitOptions:
        """Fills in what depends on the start: a pretrained model needs few, small steps; a new one at least 400 of them."""
        size = None if self.preset else self.size or "mini"
        steps_per_epoch = math.ceil(train_examples / self.batch_size)
        epochs = self.epochs or (2 if self.preset else min(50, max(10, math.ceil(400 / steps_per_epoch))))
        rate = self.learning_rate or (8e-5 if size is None else RATES.get(size, 1e-4))
        return replace(self, size=size, epochs=epochs, learning_rate=rate)


def options_from_config(path: str) -> dict[str, Any]:
    """Reads the options of `--config`: a Run's `config.json`, a Run folder, or a JSON file of options.

    Raises:
        ValueError: If the file is no JSON, or names an option that does not exist.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {str(file)!r} to be JSON. Received: {error}") from None
    options = content.get("options", content) if isinstance(content, dict) else None
    known = {field.name for field in fields(FitOptions)}
    unknown = sorted(set(options or {}) - known)
    if options is None or unknown:
        raise ValueError(
            f"Expected options out of {', '.join(sorted(known))} in {str(file)!r}. Received: {', '.join(unknown) or type(content).__name__}"
        )
    return dict(options)
