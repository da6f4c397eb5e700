"""The one table of tasks: how each reads its data, builds its model, measures it and answers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasbig import data, export, text, vision
from kerasbig.data import Documents, Examples, Splits


@dataclass(frozen=True)
class Task:
    """What the floors above need to know of one task.

    Attributes:
        name: As in `kerasbig train NAME`.
        load: Source and options to `Splits`.
        read: Source and options to one `Examples`.
        build: Classes, training examples and options to a compiled model.
        sizes: The sizes it can be built in from scratch, each with its numbers.
        defaults: Options that are chosen by the task where the user names none.
        count: Training data and options to about how many training examples it makes.
        evaluation_batch_size: Examples that are measured at once.
        steps: Steps that a model from scratch is trained for at least, and the most epochs for them.
        compile: Model and optimizer; sets the loss and metrics of the task.
        batches: Examples and model to a dataset.
        measure: Model, examples and classes to what is to know of the model on them.
        answer: Model, raw inputs and classes to a dict for each, as `kerasbig predict --json` prints them; None where an
            answer takes settings of its own.
        preset_class: The KerasHub task class that a Run's folder is read back with.
        explainers: The methods of `kerasbig.explain` that fit; none where there are no probabilities.
        monitor: What decides the best epoch, a key of `fit`'s history: the lowest of a loss, the highest of anything else.
        watch: Validation data to callbacks that add to the history what `monitor` needs.
        read_gallery: Path and model to the people that were enrolled after the training; None where nobody can be.
        complete: Sets what a trained model keeps beside its weights, from its data.
        judge: A Run's model, or a file of a Bundle, and examples to figures, the deciding one first; None where logits decide.
        compared_on: What `measure` takes, and the Run's options, to what variants are compared on.
        one_shape: Whether all batches but the last are of one shape, so that XLA compiles the step twice and no more.
    """

    name: str
    load: Callable[..., Splits]
    read: Callable[..., Examples]
    build: Callable[..., keras.Model]
    sizes: Mapping[str, Mapping[str, int]]
    defaults: Mapping[str, Any]
    count: Callable[[Any, Mapping[str, Any]], int]
    evaluation_batch_size: int
    steps: tuple[int, int]
    compile: Callable[[keras.Model, keras.optimizers.Optimizer | None], None]
    batches: Callable[..., Any]
    measure: Callable[[keras.Model, Any, Sequence[str] | None], Measured]
    answer: Callable[[keras.Model, Sequence[str], Sequence[str] | None], list[dict[str, Any]]] | None
    preset_class: str
    explainers: tuple[str, ...]
    monitor: str = "val_loss"
    watch: Callable[[Any], list[keras.callbacks.Callback]] = lambda validation: []
    read_gallery: Callable[[Path, keras.Model], Any] | None = None
    complete: Callable[[keras.Model, Splits], None] = lambda model, splits: None
    judge: Callable[[Any, Any], Mapping[str, float]] | None = None
    compared_on: Callable[[Any, Mapping[str, Any]], Any] = lambda examples, options: examples
    one_shape: bool = False


@dataclass(frozen=True, eq=False)
class Measured:
    """A model on examples.

    Attributes:
        metrics: Flat figures.
        logits: float32 (N, C), which a page can draw from; None where a task has no such thing.
        found: What a detector found, and how well; None for other tasks.
        pairs: How alike faces are; None for other tasks.
    """

    metrics: dict[str, float]
    logits: np.ndarray | None = None
    found: tuple[list[vision.Detections], vision.CocoFigures] | None = None
    pairs: vision.Pairs | None = None


def find_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
        ValueError: If there is no such task.

    Example:
        >>> find_task("text-classifier").preset_class
        'BertTextClassifier'
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, 1)
    hint = f"Did you mean {close[0]!r}?" if close else "See 'kerasbig train --help'."
    raise ValueError(f"Expected a task out of {', '.join(TASKS)}. Received: {name!r}. {hint}")


def measure_text(logits: np.ndarray, targets: np.ndarray, classes: Sequence[str] | None) -> dict[str, float]:
    """Measures a classifier of texts or images, or a regression model.

    Args:
        logits: float (N, C); (N, 1) values for a regression.
        targets: int (N,) class ids, or float (N,) values.
        classes: Names of the classes, or None for a regression.

    Returns:
        `loss` (mean cross entropy in nats), `accuracy`, `f1_macro` (over the classes that occur); or `loss` (mean
        squared error), `rmse`, `pearson`.

    Example:
        >>> measure_text(np.array([[0.0, 9.0], [9.0, 0.0]]), np.array([1, 0]), ("bad", "good"))["accuracy"]
        1.0
    """
    from sklearn.metrics import f1_score, log_loss

    if classes is None:
        values = logits[:, 0].astype("float64")
        error = float(np.mean((values - targets) ** 2))
        steady = len(targets) < 2 or values.std() == 0 or targets.std() == 0
        pearson = 0.0 if steady else float(np.corrcoef(values, targets)[0, 1])
        return {"loss": error, "rmse": error**0.5, "pearson": pearson}
    labels = range(len(classes))
    chosen = logits.argmax(axis=1)
    present = sorted(set(targets.tolist()) | set(chosen.tolist()))
    return {
        "loss": float(log_loss(targets, softmax(logits), labels=labels)),
        "accuracy": float(np.mean(chosen == targets)),
        "f1_macro": float(f1_score(targets, chosen, labels=present, average="macro", zero_division=0.0)),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turns logits (N, C) into float64 probabilities (N, C).

    Example:
        >>> softmax(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """
    powers = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _measure_classifier(model: keras.Model, examples: Examples, classes: Sequence[str] | None) -> Measured:
    logits = data.predict_logits(model, examples.inputs)
    return Measured(measure_text(logits, examples.targets, classes), logits)


def _answer_classifier(model: keras.Model, inputs: Sequence[str], classes: Sequence[str] | None) -> list[dict[str, Any]]:
    return export.predictions(data.predict_logits(model, inputs), classes)


def _measure_detector(model: keras.Model, examples: Examples, classes: Sequence[str] | None) -> Measured:
    detections, figures = vision.evaluate_detector(model, examples)
    return Measured(figures.metrics, found=(detections, figures))


def _answer_detector(model: keras.Model, inputs: Sequence[str], classes: Sequence[str] | None) -> list[dict[str, Any]]:
    return vision.detection_answers(vision.detect(model, inputs), classes or ())


def _read_faces(source: Any, task: str, *, classes: Sequence[str] | None, **options: Any) -> Examples:
    """Reads photographs of people that a model was trained on, or of others."""
    found = data.read(source, task, **options)
    names = found.classes or ()
    if classes is None or not set(names) <= set(classes):
        return found
    ids = np.array([list(classes).index(name) for name in names], "int32")
    return replace(found, targets=ids[found.targets], classes=tuple(classes))


def _measure_faces(model: keras.Model, examples: Examples, classes: Sequence[str] | None) -> Measured:
    known = examples.classes == tuple(classes or ())
    metrics, logits, pairs = vision.measure_faces(model, examples, known)
    if logits is not None:
        told = measure_text(logits, examples.targets, classes)
        metrics = {"loss": told["loss"], "accuracy": told["accuracy"], **metrics}
    return Measured(metrics, logits, pairs=pairs)


def _answer_faces(model: keras.Model, inputs: Sequence[str], classes: Sequence[str] | None) -> list[dict[str, Any]]:
    return vision.answer_faces(model, inputs)


def _measure_generator(model: keras.Model, documents: Documents, classes: Sequence[str] | None) -> Measured:
    return Measured(data.measure_documents(model, documents))


def _judge_generator(variant: Any, examples: Examples) -> dict[str, float]:
    return {"bits_per_byte": export.bits_per_byte(variant, examples.inputs)}


def _build_text_classifier(classes: Sequence[str] | None, train: Examples, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size with a vocabulary learnt on the training texts."""
    shared = {name: options[name] for name in ("sequence_length", "dropout", "dtype")}
    if options["preset"]:
        return text.bert_classifier(classes, preset=options["preset"], **shared)
    vocabulary = text.learn_wordpiece(train.inputs, options["vocabulary_size"])
    return text.bert_classifier(classes, size=options["size"], vocabulary=vocabulary, **shared)


def _count_windows(train: Documents, options: Mapping[str, Any]) -> int:
    """Estimates the windows of a pass before there is a tokenizer: a byte pair stands for about four bytes of English."""
    return max(1, train.bytes // (4 * options["sequence_length"]))


def _build_text_generator(classes: None, train: Documents, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size with byte pairs learnt on the training documents."""
    shared = {name: options[name] for name in ("sequence_length", "dropout", "dtype")}
    if options["preset"]:
        return text.gpt_generator(preset=options["preset"], lora_rank=options["lora_rank"], **shared)
    return text.gpt_generator(size=options["size"], vocabulary=text.learn_bpe(train.lines(), options["vocabulary_size"]), **shared)


def _build_image_classifier(classes: Sequence[str], train: Examples, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size for images as large as those to train on, within reason."""
    shared = {name: options[name] for name in ("resize", "dropout", "drop_path", "dtype")}
    side = options["image_size"]
    if options["preset"]:
        shape = None if side is None else (side, side, 3)
        return vision.vit_classifier(classes, preset=options["preset"], image_shape=shape, **shared)
    shape = vision.fitting_shape(train.inputs, options["patch_size"]) if side is None else (side, side, 3)
    pooling = "gap" if options["stem"] else "token"
    shared |= {"patch_size": options["patch_size"], "stem": options["stem"], "pooling": pooling}
    return vision.vit_classifier(classes, size=options["size"], image_shape=shape, **shared)


def _build_face_classifier(classes: Sequence[str], train: Examples, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size for small images, which are enough to know a face."""
    shared = {name: options[name] for name in ("resize", "dropout", "drop_path", "embedding_dim", "head", "margin", "scale", "dtype")}
    side = options["image_size"]
    if options["preset"]:
        shape = None if side is None else (side, side, 3)
        return vision.face_classifier(classes, preset=options["preset"], image_shape=shape, pooling=options["pooling"] or "token", **shared)
    patch = options["patch_size"]
    shape = vision.fitting_shape(train.inputs, patch, FACE_SIDE) if side is None else (side, side, 3)
    shared |= {"patch_size": patch, "stem": options["stem"], "pooling": options["pooling"] or "flatten"}
    return vision.face_classifier(classes, size=options["size"], image_shape=shape, **shared)


def _build_object_detector(classes: Sequence[str], train: Examples, options: Mapping[str, Any]) -> keras.Model:
    """Builds from a preset, or from a size for images of about the shape of those to train on."""
    shared = {name: options[name] for name in ("resize", "drop_path", "dtype")}
    side = options["image_size"]
    shape = None if side is None else (side, side, 3)
    if options["preset"]:
        return vision.vit_detector(classes, preset=options["preset"], image_shape=shape, **shared)
    shared |= {name: options[name] for name in ("size", "patch_size", "stem", "dropout")}
    return vision.vit_detector(classes, image_shape=shape or vision.photo_shape(train.inputs, options["patch_size"]), **shared)


# The largest side of the images that a new model for faces sees.
FACE_SIDE = 48

TASKS: dict[str, Task] = {
    "text-classifier": Task(
        name="text-classifier",
        load=data.load,
        read=data.read,
        build=_build_text_classifier,
        sizes=text.SIZES,
        defaults={"size": "mini", "sequence_length": 128, "dropout": 0.1, "batch_size": 32, "patience": 3},
        count=lambda train, options: len(train),
        evaluation_batch_size=64,
        steps=(400, 50),
        compile=text.compile_classifier,
        batches=data.batches,
        measure=_measure_classifier,
        answer=_answer_classifier,
        preset_class="BertTextClassifier",
        explainers=("lime", "shap", "integrated_gradients", "attention"),
    ),
    "text-generator": Task(
        name="text-generator",
        load=data.load,
        read=data.read,
        build=_build_text_generator,
        sizes=text.GPT_SIZES,
        defaults={"size": "mini", "sequence_length": 256, "dropout": 0.1, "batch_size": 8, "patience": 3},
        count=_count_windows,
        # Logits are as wide as the vocabulary at each position.
        evaluation_batch_size=8,
        steps=(400, 50),
        compile=text.compile_generator,
        batches=data.batches,
        measure=_measure_generator,
        answer=None,
        preset_class="CausalLM",
        explainers=(),
        judge=_judge_generator,
        # As many bytes as there are places: no tokenizer makes more tokens of them.
        compared_on=lambda documents, options: data.passages(documents, most_bytes=min(256, options["sequence_length"])),
    ),
    "image-classifier": Task(
        name="image-classifier",
        load=data.load,
        read=data.read,
        build=_build_image_classifier,
        sizes=vision.VIT_SIZES,
        defaults={
            "size": "lite-4",
            "stem": True,
            "dropout": 0.1,
            "drop_path": 0.1,
            "resize": "stretch",
            "augment": "light",
            "batch_size": 64,
            "patience": 15,
        },
        count=lambda train, options: len(train),
        evaluation_batch_size=64,
        steps=(2000, 100),
        compile=vision.compile_image_classifier,
        batches=data.batches,
        measure=_measure_classifier,
        answer=_answer_classifier,
        explainers=("lime", "shap", "integrated_gradients", "attention"),
        preset_class="ImageClassifier",
        one_shape=True,
    ),
    "face-classifier": Task(
        name="face-classifier",
        load=data.load,
        read=_read_faces,
        build=_build_face_classifier,
        sizes=vision.VIT_SIZES,
        defaults={
            "size": "lite-2",
            "stem": True,
            "patch_size": 8,
            "dropout": 0.0,
            "drop_path": 0.0,
            "resize": "stretch",
            "augment": "faces",
            "batch_size": 32,
            "patience": 100,
            "embedding_dim": 128,
            "head": "arcface",
            "scale": 16.0,
        },
        count=lambda train, options: len(train),
        evaluation_batch_size=64,
        steps=(1000, 200),
        compile=vision.compile_face_classifier,
        batches=data.batches,
        measure=_measure_faces,
        answer=_answer_faces,
        explainers=("lime", "shap", "integrated_gradients", "attention"),
        preset_class="ImageClassifier",
        read_gallery=vision.Gallery.read,
        complete=vision.complete_faces,
        one_shape=True,
    ),
    "object-detector": Task(
        name="object-detector",
        load=data.load,
        read=data.read,
        build=_build_object_detector,
        sizes=vision.VIT_SIZES,
        defaults={
            "size": "lite-4",
            "stem": True,
            "resize": "pad",
            "dropout": 0.0,
            "drop_path": 0.0,
            "augment": "light",
            "batch_size": 16,
            "patience": 15,
        },
        count=lambda train, options: len(train),
        evaluation_batch_size=32,
        steps=(2500, 200),
        compile=vision.compile_object_detector,
        batches=data.batches,
        measure=_measure_detector,
        answer=_answer_detector,
        explainers=("lime", "shap", "integrated_gradients"),
        preset_class="ObjectDetector",
        monitor="val_map",
        watch=lambda validation: [vision.CocoMetrics(validation)],
        # Of all alike: some files give no box that scores less.
        judge=partial(vision.measure_detector, least_score=0.05),
        one_shape=True,
    ),
}
