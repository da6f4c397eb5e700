"""The Run folder: everything to rebuild a trained model, its history and its figures."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import keras_hub

from kerasbig.files import replacing_folder
from kerasbig.remote import exists, fetch, is_remote
from kerasbig.tasks import Task, find_task

FORMAT_VERSION = 1
# The rest of the folder: config.json, classes.json, history.csv, metrics.json, report.html and, if it was trained for int8:
RANGES_FILE = "ranges.json"
# For faces: who was enrolled after the training.
GALLERY_FILE = "gallery.npz"
PRESET_FOLDER = "preset"
PACKAGES = ("kerasbig", "tensorflow", "keras", "keras-hub", "tensorflow-text", "tensorflow-model-optimization", "numpy")


@dataclass(frozen=True)
class Run:
    """A trained model as it lies on the disk.

    Attributes:
        folder: Where it lies.
        config: `config.json`: the task, all resolved options, data, versions.
        classes: Names of the classes, or None for a regression.
        metrics: `metrics.json`: a dict of flat metrics for each split.
        history: `history.csv`: a dict for each epoch.
        location: The folder or the address as it was named; `folder` is a local copy of what is at an address.
    """

    folder: Path
    config: dict[str, Any]
    classes: tuple[str, ...] | None
    metrics: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    location: str

    @property
    def task(self) -> Task:
        """The row of the table of tasks."""
        return find_task(self.config["task"])

    @property
    def options(self) -> dict[str, Any]:
        """The resolved options it was trained with."""
        return dict(self.config["options"])

    @property
    def ranges(self) -> list[dict[str, Any]] | None:
        """The ranges that quantization-aware training found, for `kerasbig.compress.quantize_model`; None without it."""
        path = self.folder / RANGES_FILE
        return _read_json(path) if path.is_file() else None

    def load_model(self, dtype: str = "float32") -> keras.Model:
        """Rebuilds the trained model.

        Args:
            dtype: A Keras dtype policy.

        Returns:
            The compiled KerasHub task with `class_names`.

        Raises:
            ValueError: If the preset cannot be read back.

        Example:
            >>> open_run("a/folder/that/is/not/there")
            Traceback (most recent call last):
            ...
            FileNotFoundError: Expected a Run folder at 'a/folder/that/is/not/there', but there is none. ...
        """
        preset = self.folder / PRESET_FOLDER
        try:
            model = getattr(keras_hub.models, self.task.preset_class).from_preset(str(preset), dtype=dtype)
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected {str(preset)!r} to hold the trained model, but it cannot be read: {error}. Copy the whole Run again."
            ) from error
        model.class_names = self.classes
        self.task.compile(model, None)
        gallery = self.folder / GALLERY_FILE
        if self.task.read_gallery is not None and gallery.is_file():
            model.gallery = self.task.read_gallery(gallery, model)
        return model


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Reads a Run folder, without building its model.

    Args:
        folder: A folder written by `kerasbig train` or `save_run`, or its address, such as `gs://bucket/run`.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If it was written by a later version, or a file is no JSON.

    Example:
        >>> open_run("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: Expected a Run folder at 'nowhere', but there is none. ...
    """
    location = os.fspath(folder)
    path = fetch(location) if is_remote(location) and exists(location) else Path(location)
    if not path.is_dir():
        training = path.with_name(path.name + ".training")
        hint = (
            "Its training was cut off: run the same 'kerasbig train' again to go on."
            if training.is_dir()
            else "Train one with 'kerasbig train'."
        )
        raise FileNotFoundError(f"Expected a Run folder at {location!r}, but there is none. {hint}")
    needed = ("config.json", "classes.json", "metrics.json", "history.csv", f"{PRESET_FOLDER}/config.json")
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the Run folder {str(path)!r} to hold {', '.join(missing)}, which is missing. Copy the whole folder again."
        )
    config, classes, metrics = (_read_json(path / name) for name in ("config.json", "classes.json", "metrics.json"))
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {str(path / 'config.json')!r}. Received: {config.get('format_version')!r}. "
            "Read it with the version of KerasBig that wrote it."
        )
    with open(path / "history.csv", encoding="utf-8", newline="") as stream:
        history = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
    return Run(path, config, None if classes is None else tuple(classes), metrics, history, location)


def write_run(
    folder: Path,
    model: keras.Model,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    history: Sequence[Mapping[str, float]],
    ranges: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes the files of a Run, the report excepted, into a folder that the caller moves into place.

    Args:
        folder: An empty folder.
        model: The trained float32 model with `class_names`.
        config: The task and its resolved options, under "task" and "options", and what else was measured.
        metrics: Flat metrics for each split.
        history: A dict for each epoch.
        ranges: What `kerasbig.compress.ranges` gave, if the model was trained for int8.

    Example:
        >>> import inspect
        >>> list(inspect.signature(write_run).parameters)[:2]
        ['folder', 'model']
    """
    model.save_to_preset(str(folder / PRESET_FOLDER))
    files = {"config.json": config, "classes.json": model.class_names, "metrics.json": metrics}
    if getattr(model, "gallery", None) is not None:
        model.gallery.save(folder / GALLERY_FILE)
    for name, content in (files if ranges is None else {**files, RANGES_FILE: ranges}).items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    columns = list(dict.fromkeys(name for row in history for name in row))
    with open(folder / "history.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(history)


def save_run(
    folder: str | os.PathLike[str],
    model: keras.Model,
    *,
    options: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    history: Sequence[Mapping[str, float]],
    task: str = "text-classifier",
    overwrite: bool = False,
) -> Run:
    """Saves a model that you trained yourself with `fit` as a Run, so that every command takes it.

    Args:
        folder: The folder to write; replaced as a whole or not at all.
        model: The trained float32 model from a builder.
        options: What it was trained with, for your own record.
        metrics: Flat metrics for each split, such as `{"test": {"accuracy": 0.9}}`.
        history: A dict for each epoch.
        task: The task's name.
        overwrite: Whether an existing Run may be replaced.

    Returns:
        The `Run`.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is False.

    Example:
        >>> import kerasbig as kb, tempfile
        >>> model = kb.text.bert_classifier(("bad", "good"), size="tiny", vocabulary=kb.text.learn_wordpiece(["a film"], 60))
        >>> run = save_run(tempfile.mkdtemp(), model, options={}, metrics={}, history=[])
        >>> run.load_model().class_names
        ('bad', 'good')
    """
    find_task(task)
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        write_run(temporary, model, config=describe(task, options), metrics=metrics, history=history)
    return open_run(folder)


def describe(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the head of a Run's `config.json`: task, options, versions and machine.

    Example:
        >>> describe("text-classifier", {"seed": 0})["options"]
        {'seed': 0}
    """
    return {
        "format_version": FORMAT_VERSION,
        "task": task,
        "options": dict(options),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()},
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {str(path)!r} to be JSON. Received: {error}. Copy the whole Run again.") from None
