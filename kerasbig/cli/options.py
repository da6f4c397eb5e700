"""All options of a training, their limits and their defaults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kerasbig.data.augmentation import AUGMENTATIONS, find_augmentation
from kerasbig.data.box_augmentation import BOX_AUGMENTATIONS
from kerasbig.data.image_batches import RESIZES

# Peak learning rates from scratch: the wider the model, the smaller. Generators and images take the classifiers'.
RATES = {"lite-2": 1e-3, "lite-4": 1e-3, "lite-6": 1e-3, "lite-7": 1e-3, "tiny": 1e-3, "mini": 1e-3, "small": 5e-4, "medium": 3e-4}
SMALLEST_RATE, FINE_TUNING_RATE = 1e-4, 8e-5
# The options that not every task has.
IMAGE_OPTIONS = ("image", "images", "skip_bad", "image_size", "patch_size", "stem", "resize", "drop_path", "augment")
FACE_OPTIONS = ("unseen", "embedding_dim", "head", "margin", "scale", "pooling")
TASK_OPTIONS = {
    "text-classifier": ("text", "label", "regression", "explain"),
    "text-generator": ("text", "separator", "respect_borders", "lora_rank", "prompts"),
    "image-classifier": ("label", *IMAGE_OPTIONS),
    "face-classifier": ("label", *IMAGE_OPTIONS, *FACE_OPTIONS),
    "object-detector": tuple(name for name in IMAGE_OPTIONS if name != "image"),
}
# What only a model from scratch has.
FROM_SCRATCH = ("size", "stem", "patch_size")
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
    sequence_length: int | None = None
    dropout: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int | None = None
    precision: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    separator: str | None = None
    respect_borders: bool = False
    lora_rank: int | None = None
    prompts: tuple[str, ...] = ()
    explain: int = 0
    image: str | None = None
    images: str | None = None
    skip_bad: bool = False
    image_size: int | None = None
    patch_size: int | None = None
    stem: bool | None = None
    resize: str | None = None
    drop_path: float | None = None
    augment: str | None = None
    unseen: float = 0.0
    embedding_dim: int | None = None
    head: str | None = None
    margin: float | None = None
    scale: float | None = None
    pooling: str | None = None
    compression: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "patience": 1, "vocabulary_size": 6, "lora_rank": 1, "image_size": 2, "patch_size": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"Expected {name} of at least {lowest}. Received: {name}={value}")
        if self.explain < 0:
            raise ValueError(f"Expected explain of at least 0, a number of test examples. Received: explain={self.explain}")
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
        if self.resize is not None and self.resize not in RESIZES:
            raise ValueError(f"Expected resize to be one of {', '.join(RESIZES)}. Received: resize={self.resize!r}")
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise ValueError(f"Expected drop_path from 0 to below 1. Received: drop_path={self.drop_path}")
        if not 0 <= self.unseen < 1:
            raise ValueError(f"Expected unseen from 0 to below 1, a share of the people. Received: unseen={self.unseen}")
        find_augmentation(self.augment, BOX_AUGMENTATIONS if self.task == "object-detector" else AUGMENTATIONS)
        self._check_fit_the_task()

    def _check_fit_the_task(self) -> None:
        own = TASK_OPTIONS.get(self.task, ())
        others = {name: None for names in TASK_OPTIONS.values() for name in names if name not in own}
        defaults = {field.name: field.default for field in fields(self)}
        # From a file, no prompts are an empty list.
        wrong = [name for name in others if getattr(self, name) and getattr(self, name) != defaults[name]]
        if wrong:
            raise ValueError(f"Expected options of {self.task}. Received: {', '.join(wrong)}, of another task. Leave them out.")

    def with_defaults(self, defaults: Mapping[str, Any]) -> FitOptions:
        """Fills in what the task chooses where the user named nothing."""
        left = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **{name: value for name, value in left.items() if not (self.preset and name in FROM_SCRATCH)})

    def resolved(self, steps_per_epoch: int, steps: tuple[int, int]) -> FitOptions:
        """Fills in what depends on the start: a pretrained model needs few, small steps; a new one many.

        Args:
            steps_per_epoch: Batches in a pass.
            steps: Least steps from scratch, and the most epochs for them.
        """
        least, most = steps
        epochs = self.epochs or (2 if self.preset else min(most, max(10, math.ceil(least / steps_per_epoch))))
        rate = self.learning_rate or (FINE_TUNING_RATE if self.size is None else RATES.get(self.size, SMALLEST_RATE))
        return replace(self, epochs=epochs, learning_rate=rate)


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
