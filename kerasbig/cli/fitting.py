"""`kerasbig train`, and what `kerasbig compress` shares with it: a fit that survives a kill, and the Run it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig import compress, distribute, export, report, text
from kerasbig.cli.options import FitOptions
from kerasbig.cli.output import note
from kerasbig.cli.progress import TrainingProgress
from kerasbig.data import Splits
from kerasbig.files import replacing_file, replacing_folder, require_new
from kerasbig.run import Run, describe, open_run, write_run
from kerasbig.tasks import find_task


def train(options: FitOptions, out: str, *, overwrite: bool) -> Run:
    """Trains a new model and writes its Run.

    Args:
        options: What was asked for.
        out: The Run folder to write.
        overwrite: Whether an existing Run may be replaced.
    """
    splits = load_splits(options)
    options = options.resolved(len(splits.train))
    precision = choose_precision(options, out, text.SIZES[options.size]["hidden_dim"] if options.size in text.SIZES else 384)
    keras.utils.set_random_seed(options.seed)
    with distribute.strategy(options.strategy).scope():
        model = find_task(options.task).build(splits.classes, splits.train, {**asdict(options), "dtype": precision["policy"]})
    folder = prepare(options, splits, precision, out, overwrite=overwrite)
    result = fit(model, splits, options, folder)
    return save(result, splits, options, out, overwrite=overwrite, extra={"precision": precision})


def load_splits(options: FitOptions, classes: Sequence[str] | None = None) -> Splits:
    """Reads the data that the options name."""
    names = ("text", "label", "regression", "validation", "test", "seed", "encoding")
    chosen = {name: getattr(options, name) for name in names}
    return find_task(options.task).load(options.data, options.task, classes=classes, **chosen)


def training_folder(out: str) -> Path:
    """Returns the folder beside the Run where a training keeps what it needs to go on after a kill."""
    return Path(out).with_name(Path(out).name + ".training")


def prepare(options: FitOptions, splits: Splits, precision: dict[str, Any], out: str, *, overwrite: bool) -> Path:
    """Makes the training folder, or finds the one of a training that was cut off.

    Raises:
        FileExistsError: If the Run exists and may not be overwritten.
        ValueError: If a training with other options or other data was cut off there.
    """
    require_new(out, overwrite=overwrite)
    folder = training_folder(out)
    identity = {"options": asdict(options), "data": _fingerprint(splits), "precision": precision}
    record = folder / "training.json"
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8")) == identity:
            note(f"Going on with the training that was cut off in {folder}")
            return folder
        if not overwrite:
            raise ValueError(
                f"Expected the options and the data of the training that was cut off in {str(folder)!r}. Received others. "
                "Pass the same ones to go on, or --overwrite to start afresh."
            )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with replacing_file(record) as temporary:
        temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
    return folder


def choose_precision(options: FitOptions, out: str, hidden_dim: int) -> dict[str, Any]:
    """Returns the dtype policy: as named, as before a kill, or as measured on this device."""
    if options.precision != "auto":
        return {"policy": options.precision}
    record = training_folder(out) / "training.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8"))["precision"])
    return distribute.fastest_precision(hidden_dim, options.batch_size * 32).to_dict()


@dataclass(frozen=True)
class Fit:
    """What a fit leaves: the float32 model of the best epoch, and what was seen on the way."""

    model: keras.Model
    history: list[dict[str, float]]
    padding: dict[str, Any]
    seconds: float
    examples_per_second: float


def fit(
    model: keras.Model,
    splits: Splits,
    options: FitOptions,
    folder: Path,
    *,
    compression: Sequence[keras.callbacks.Callback] | None = None,
    teacher: keras.Model | None = None,
) -> Fit:
    """Fits with warm-up, decay and resume, and returns the best epoch's model.

    Args:
        model: A built model.
        splits: The data.
        options: Resolved options.
        folder: The training folder.
        compression: Not None while the model is being compressed, with the callbacks for it, such as `Pruning`. Then
            the last epoch's model is returned and nothing stops early: only the end has what was asked for.
        teacher: A model whose logits are learnt beside the labels.
    """
    task = find_task(options.task)
    train = task.batches(splits.train, model, batch_size=options.batch_size, seed=options.seed)
    validation = task.batches(splits.validation, model, batch_size=64)
    note(f"Training data: {train.padding}")
    epochs = int(options.epochs or 0)
    trainee = model if teacher is None else compress.distill(teacher, model)
    task.compile(trainee, make_optimizer(options, len(train) * epochs))
    best_weights = folder / "best.weights.h5"
    choosing: list[keras.callbacks.Callback] = []
    if compression is None:
        choosing.append(keras.callbacks.EarlyStopping("val_loss", patience=options.patience))
        choosing.append(keras.callbacks.ModelCheckpoint(str(best_weights), monitor="val_loss", save_best_only=True, save_weights_only=True))
    changing = list(compression or ())
    resume = distribute.Resume(folder, callbacks=[*changing, *choosing])
    progress, speed = TrainingProgress(len(train), epochs), _Speed(options.batch_size)
    started = time.perf_counter()
    try:
        callbacks = [*changing, *choosing, speed, progress, resume]
        trainee.fit(train, validation_data=validation, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    finally:
        progress.close()
    if best_weights.exists():
        trainee.load_weights(best_weights)
    seconds = time.perf_counter() - started
    padding = asdict(train.padding) | {"fraction": train.padding.fraction}
    return Fit(export.float32_twin(model), resume.history, padding, seconds, speed.examples_per_second)


def save(
    result: Fit,
    splits: Splits,
    options: FitOptions,
    out: str,
    *,
    overwrite: bool,
    extra: dict[str, Any],
    ranges: list[dict[str, Any]] | None = None,
) -> Run:
    """Measures the model, writes its Run with the report, and removes the training folder."""
    task = find_task(options.task)
    outputs = {role: task.predict_logits(result.model, getattr(splits, role).inputs) for role in ("validation", "test")}
    metrics = {role: task.measure(logits, getattr(splits, role).targets, splits.classes) for role, logits in outputs.items()}
    if ranges is not None:
        as_int8 = compress.quantize_model(export.float32_twin(result.model), ranges=ranges, preserve=False)
        metrics["test_int8"] = task.measure(task.predict_logits(as_int8, splits.test.inputs), splits.test.targets, splits.classes)
    config = describe(options.task, asdict(options)) | {
        "data": {
            "examples": {role: len(getattr(splits, role)) for role in ("train", "validation", "test")},
            "sha256": _fingerprint(splits),
        },
        "padding": result.padding,
        "training": {"seconds": round(result.seconds, 1), "examples_per_second": round(result.examples_per_second, 1)},
        **extra,
    }
    with replacing_folder(out, overwrite=overwrite) as temporary:
        write_run(temporary, result.model, config=config, metrics=metrics, history=result.history, ranges=ranges)
        report.write(temporary / "report.html", _summary(result, splits, config, metrics, outputs["test"], name=Path(out).name))
    shutil.rmtree(training_folder(out), ignore_errors=True)
    return open_run(out)


def _summary(
    result: Fit, splits: Splits, config: Mapping[str, Any], metrics: Mapping[str, Any], logits: np.ndarray, *, name: str
) -> report.RunSummary:
    """Gathers what a Run's page shows."""
    padding, training = result.padding, config["training"]
    counts = {}
    if splits.classes is not None:
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        counts = {role: np.bincount(part.targets, minlength=len(splits.classes)).tolist() for role, part in parts.items()}
    return report.RunSummary(
        title=name,
        task=config["task"],
        metrics={**metrics["test"], "examples": len(splits.test)},
        history=result.history,
        inputs=splits.test.inputs,
        rows=splits.test.rows,
        targets=splits.test.targets,
        logits=logits,
        classes=splits.classes,
        class_counts=counts,
        facts={
            "source": splits.test.source,
            "padding left": f"{padding['fraction']:.1%} of the computed tokens",
            "tokens computed, against fixed length": f"{padding['computed_tokens']:,} of {padding['fixed_tokens']:,} an epoch",
            "training texts cut": padding["truncated"],
            "training examples per second": training["examples_per_second"],
            "training time": f"{training['seconds']:.0f} s",
            "precision": config["precision"]["policy"],
        },
        config=config["options"],
        versions=config["versions"],
    )


def make_optimizer(options: FitOptions, steps: int) -> keras.optimizers.Optimizer:
    """AdamW with linear warm-up and cosine decay; biases and layer norms are not decayed."""
    warmup = int(options.warmup * steps)
    rate = float(options.learning_rate or 0)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else rate, max(steps - warmup, 1), warmup_target=rate if warmup else None, warmup_steps=warmup
    )
    optimizer = distribute.AdamW(schedule, weight_decay=options.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _fingerprint(splits: Splits) -> str:
    """Returns a SHA-256 over all texts and targets, in their order."""
    digest = hashlib.sha256()
    for examples in (splits.train, splits.validation, splits.test):
        for line in examples.inputs:
            digest.update(line.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(examples.targets.tobytes())
    return digest.hexdigest()


class _Speed(keras.callbacks.Callback):
    """Measures examples per second over all steps but the first ones, which trace the graph."""

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size, self._steps, self._seconds = batch_size, 0, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
        if self._steps > 3:
            self._seconds += time.perf_counter() - self._began

    @property
    def examples_per_second(self) -> float:
        return self._batch_size * max(self._steps - 3, 0) / self._seconds if self._seconds else 0.0
