"""`kerasbig train`, and what `kerasbig compress` shares with it: a fit that survives a kill, and the Run it leaves."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig import compress, data, distribute, export, remote, report
from kerasbig.arguments import require_size
from kerasbig.cli import explaining
from kerasbig.cli.faces import compared_faces
from kerasbig.cli.objects import found_objects
from kerasbig.cli.options import FitOptions
from kerasbig.cli.output import note
from kerasbig.cli.progress import TrainingProgress
from kerasbig.cli.sampling import Samples, read_samples
from kerasbig.cli.xla import fused_between_products
from kerasbig.data import Boxes, Documents, ImageFiles, Splits
from kerasbig.files import replacing_file, replacing_folder, require_new
from kerasbig.run import Run, describe, open_run, write_run
from kerasbig.tasks import Measured, Task, find_task

# A generator is asked to go on from the beginnings of these first validation documents.
PROMPTS, PROMPT_CHARACTERS = 3, 40
# Shorter trainings are left to TensorFlow: XLA compiles for seconds, for each size of batch.
XLA_STEPS = 1000
# Fusing in bfloat16 compiles hundreds of pieces for each size of batch: about a minute for 4 layers, two for 12.
FUSED_STEPS = 5000


def train(options: FitOptions, out: str, *, overwrite: bool) -> Run | None:
    """Trains a new model and writes its Run.

    Args:
        options: What was asked for.
        out: The Run folder to write, or its address.
        overwrite: Whether an existing Run may be replaced.

    Returns:
        The Run; None on a worker that is not the one that writes.
    """
    strategy = distribute.strategy(options.strategy)  # first: several workers have to meet before TensorFlow begins
    task = find_task(options.task)
    splits = load_splits(options)
    options = options.with_defaults(task.defaults)
    batch_size = int(options.batch_size or 1)
    count = task.count(splits.train, asdict(options))
    options = options.resolved(math.ceil(count / batch_size), task.steps)
    _check_batches(batch_size, count, strategy.num_replicas_in_sync)
    if options.size is not None:
        require_size(options.size, task.sizes)
    with distribute.chief_first(strategy):
        width = task.sizes[options.size]["hidden_dim"] if options.size else 384
        precision, folder = prepare(options, splits, width, out, overwrite=overwrite)
    keras.utils.set_random_seed(options.seed)
    with strategy.scope():
        model = task.build(splits.classes, splits.train, {**asdict(options), "dtype": precision["policy"]})
    result = fit(model, splits, options, folder)
    if not distribute.is_chief(strategy):
        distribute.wait_for_all(strategy)
        return None
    run = save(result, splits, options, out, overwrite=overwrite, extra={"precision": precision})
    remote.remove(folder)
    distribute.wait_for_all(strategy)
    return run


def _check_batches(batch_size: int, count: int, replicas: int) -> None:
    if batch_size % replicas:
        raise ValueError(
            f"Expected a batch size that {replicas} replicas share evenly. Received: batch_size={batch_size}, which is the "
            f"global one. Use --batch-size {max(1, batch_size // replicas) * replicas}."
        )
    if count < replicas:
        raise ValueError(f"Expected at least one training example for each of {replicas} replicas. Received: {count}. Use fewer workers.")


def load_splits(options: FitOptions, classes: Sequence[str] | None = None) -> Splits:
    """Reads the data that the options name."""
    names = ("text", "label", "regression", "validation", "test", "seed", "encoding", "separator", "image", "images", "skip_bad", "unseen")
    chosen = {name: getattr(options, name) for name in names}
    # Who is set aside is drawn from all, and so are the others found again.
    return find_task(options.task).load(options.data, options.task, classes=None if options.unseen else classes, **chosen)


def prepare(options: FitOptions, splits: Splits, hidden_dim: int, out: str, *, overwrite: bool) -> tuple[dict[str, Any], Path]:
    """Makes the training folder beside the Run, or finds the one of a training that was cut off.

    Returns:
        The precision, as named, as before the kill or as measured for this width; and the folder, where the training
        keeps what it needs to go on after a kill.

    Raises:
        FileExistsError: If the Run exists and may not be overwritten.
        ValueError: If a training with other options or other data was cut off there.
    """
    require_new(out, overwrite=overwrite)
    location = out.rstrip("/") + ".training"
    folder = remote.checkout(location)
    record = folder / "training.json"
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    precision = choose_precision(options, before, hidden_dim)
    identity = {"options": asdict(options), "data": _fingerprint(splits), "precision": precision}
    identity = json.loads(json.dumps(identity))  # as it is read back: lists for tuples
    if before == identity:
        note(f"Going on with the training that was cut off in {location}")
        return precision, folder
    if before is not None and not overwrite:
        raise ValueError(
            f"Expected the options and the data of the training that was cut off in {location!r}. Received others. "
            "Pass the same ones to go on, or --overwrite to start afresh."
        )
    remote.remove(folder)
    folder = remote.checkout(location)
    with replacing_file(folder / "training.json") as temporary:
        temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
    remote.commit(folder)
    return precision, folder


def choose_precision(options: FitOptions, before: Mapping[str, Any] | None, hidden_dim: int) -> dict[str, Any]:
    """Returns the dtype policy: as named, as in the record of a training that was cut off, or as measured on this device."""
    if options.precision != "auto":
        return {"policy": options.precision}
    if before is not None:
        return dict(before["precision"])
    return distribute.fastest_precision(hidden_dim, int(options.batch_size or 1) * 32).to_dict()


@dataclass(frozen=True)
class Fit:
    """What a fit leaves: the float32 model of the best epoch, and what was seen on the way."""

    model: keras.Model
    history: list[dict[str, float]]
    padding: dict[str, Any]
    seconds: float
    examples_per_second: float
    samples: list[dict[str, Any]]


def fit(
    model: keras.Model,
    splits: Splits,
    options: FitOptions,
    folder: Path,
    *,
    compression: Sequence[keras.callbacks.Callback] | None = None,
    teacher: keras.Model | None = None,
    student_loss_weight: float = 0.5,
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
        student_loss_weight: Weight of the labels beside a teacher, as for `kerasbig.compress.distill`.
    """
    task = find_task(options.task)
    borders = {"respect_borders": True} if options.respect_borders else {}
    augment = {"augment": options.augment} if options.augment else {}
    train = task.batches(splits.train, model, batch_size=options.batch_size, seed=options.seed, **borders, **augment)
    validation = task.batches(splits.validation, model, batch_size=task.evaluation_batch_size, **borders)
    note(f"Training data: {train.padding}")
    epochs = int(options.epochs or 0)
    with model.distribute_strategy.scope():
        trainee = model if teacher is None else compress.distill(teacher, model, student_loss_weight=student_loss_weight)
        task.compile(trainee, make_optimizer(options, len(train) * epochs))
    xla = _part_for_xla(model, task, len(train) * epochs) if compression is None else None
    if xla == "step":
        trainee.jit_compile = True
    # Every worker keeps its own copy: they are equal, and only the chief's becomes the Run.
    best_weights = folder / f"best{distribute.worker_number(model.distribute_strategy) or ''}.weights.h5"
    choosing: list[keras.callbacks.Callback] = []
    if compression is None:
        mode = "min" if task.monitor.endswith("loss") else "max"
        choosing.append(keras.callbacks.EarlyStopping(task.monitor, patience=int(options.patience or 1), mode=mode))
        choosing.append(
            keras.callbacks.ModelCheckpoint(str(best_weights), monitor=task.monitor, mode=mode, save_best_only=True, save_weights_only=True)
        )
    changing = list(compression or ())
    resume = distribute.Resume(folder, callbacks=[*changing, *choosing])
    progress, speed = TrainingProgress(len(train), epochs), _Speed(int(options.batch_size or 1))
    samples_file = folder / "samples.json"
    writing = _samples(model, splits, options, samples_file)
    started = time.perf_counter()
    try:
        callbacks = [*task.watch(splits.validation), *changing, *choosing, speed, progress, *writing, resume]
        with fused_between_products() if xla == "between products" else nullcontext():
            trainee.fit(train, validation_data=validation, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    finally:
        progress.close()
    if best_weights.exists():
        trainee.load_weights(best_weights)
    seconds = time.perf_counter() - started
    return Fit(
        export.float32_twin(model), resume.history, train.padding.to_dict(), seconds, speed.examples_per_second, read_samples(samples_file)
    )


def _part_for_xla(model: keras.Model, task: Task, steps: int) -> str | None:
    """Returns what XLA makes shorter of a long training with images on one device: the "step", or what is "between products"."""
    if not task.one_shape or model.distribute_strategy.num_replicas_in_sync > 1:
        return None
    if model.backbone.compute_dtype == "float32":
        return "step" if steps >= XLA_STEPS else None
    return "between products" if steps >= FUSED_STEPS else None


def _samples(model: keras.Model, splits: Splits, options: FitOptions, file: Path) -> list[keras.callbacks.Callback]:
    """Returns what lets a generator write after each epoch; nothing for other tasks, and on the workers that do not write."""
    if options.task != "text-generator" or not distribute.is_chief(model.distribute_strategy):
        return []
    prompts = options.prompts or [piece[:PROMPT_CHARACTERS] for piece, _ in itertools.islice(splits.validation.pieces(), PROMPTS)]
    return [Samples(prompts, file, options.seed)]


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
    """Measures the model and writes its Run with the report."""
    task = find_task(options.task)
    task.complete(result.model, splits)
    roles = [role for role in ("validation", "test", "unseen") if getattr(splits, role) is not None]
    measured = {role: task.measure(result.model, getattr(splits, role), splits.classes) for role in roles}
    metrics = {role: seen.metrics for role, seen in measured.items()}
    if ranges is not None:
        as_int8 = compress.quantize_model(export.float32_twin(result.model), ranges=ranges)
        metrics["test_int8"] = task.measure(as_int8, splits.test, splits.classes).metrics
    config = describe(options.task, asdict(options)) | {
        "data": {
            "examples": {role: len(getattr(splits, role)) for role in ("train", *roles)},
            "sha256": _fingerprint(splits),
        },
        "padding": result.padding,
        "training": {"seconds": round(result.seconds, 1), "examples_per_second": round(result.examples_per_second, 1)},
        **extra,
    }
    with replacing_folder(out, overwrite=overwrite) as temporary:
        write_run(temporary, result.model, config=config, metrics=metrics, history=result.history, ranges=ranges)
        summary = _summary(result, splits, config, measured, name=Path(out).name)
        if options.explain:
            explanations = explaining.section(result.model, task, splits.test.inputs, options.explain, options.seed)
            summary = replace(summary, explanations=explanations)
        report.write(temporary / "report.html", summary)
    return open_run(out)


def _summary(result: Fit, splits: Splits, config: Mapping[str, Any], roles: Mapping[str, Measured], *, name: str) -> report.RunSummary:
    """Gathers what a Run's page shows."""
    measured = roles["test"]
    padding, training = result.padding, config["training"]
    facts = {
        "source": splits.test.source,
        **_data_facts(padding),
        "training examples per second": training["examples_per_second"],
        "training time": f"{training['seconds']:.0f} s",
        "precision": config["precision"]["policy"],
    }
    summary = report.RunSummary(
        title=name,
        task=config["task"],
        metrics={**measured.metrics, "examples": len(splits.test)},
        history=result.history,
        facts=facts,
        samples=result.samples,
        config=config["options"],
        versions=config["versions"],
    )
    if splits.classes is not None:
        summary = replace(summary, classes=splits.classes, class_counts=_class_counts(splits), skipped=splits.skipped)
    test = splits.test
    if measured.found is not None:
        return replace(summary, monitor=find_task(config["task"]).monitor, objects=found_objects(test, *measured.found))
    compared = roles.get("unseen", measured)
    if compared.pairs is not None:
        faces = compared_faces(splits.unseen or test, compared.pairs, getattr(result.model, "threshold", None))
        summary = replace(summary, faces=faces)
    if measured.logits is None:
        return summary
    return replace(
        summary,
        inputs=data.names_of(test),
        rows=test.rows,
        targets=test.targets,
        logits=measured.logits,
        picture=partial(data.thumbnail, test.inputs) if data.is_images(test.inputs) else None,
    )


def _class_counts(splits: Splits) -> dict[str, list[int]]:
    """Returns the examples of each class by split, or the boxes of each."""
    counts = {}
    for role in ("train", "validation", "test"):
        targets = getattr(splits, role).targets
        ids = targets.classes if isinstance(targets, Boxes) else targets
        counts[role] = np.bincount(ids, minlength=len(splits.classes or ())).tolist()
    return counts


def _data_facts(padding: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a page tells of how the data was prepared: texts by their tokens, images by their pixels."""
    if "height" in padding:
        return {"image size": f"{padding['height']} x {padding['width']} pixels ({padding['resize']})"}
    return {
        "padding left": f"{padding['fraction']:.1%} of the computed tokens",
        "tokens computed, against fixed length": f"{padding['computed_tokens']:,} of {padding['fixed_tokens']:,} an epoch",
        "training texts cut": padding["truncated"],
    }


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
    """Returns a SHA-256 over all texts and targets, in their order; for image files over their names and sizes."""
    digest = hashlib.sha256()
    for examples in (splits.train, splits.validation, splits.test, *([splits.unseen] if splits.unseen is not None else [])):
        if isinstance(examples, Documents):
            digest.update(examples.sha256.encode())
            continue
        if isinstance(examples.inputs, np.ndarray):
            digest.update(examples.inputs.tobytes())
        else:
            sizes = [f"\0{Path(file).stat().st_size}" if isinstance(examples.inputs, ImageFiles) else "" for file in examples.inputs]
            for line, size in zip(examples.inputs, sizes, strict=True):
                digest.update(f"{line}{size}".encode("utf-8", "surrogatepass") + b"\0")
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
